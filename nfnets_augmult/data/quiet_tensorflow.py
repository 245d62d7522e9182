"""Importing TensorFlow without the notes that it prints when it starts."""

import os
import sys
import tempfile


def import_quietly() -> None:
  """Imports the input pipeline; what TensorFlow prints about this machine is kept back.

  It writes past Python's streams, so the file descriptor itself is redirected meanwhile.

  Raises:
    ImportError: TensorFlow cannot be imported; the message has what it printed.
  """
  if 'tensorflow' in sys.modules:
    return
  sys.stderr.flush()
  original = os.dup(2)
  with tempfile.TemporaryFile() as kept_back:
    os.dup2(kept_back.fileno(), 2)
    try:
      from nfnets_augmult.data import pipeline  # noqa: F401
    except Exception as error:
      kept_back.seek(0)
      printed = kept_back.read().decode(errors='replace')
      raise ImportError(f'TensorFlow cannot be imported: {error}\n{printed}') from error
    finally:
      os.dup2(original, 2)
      os.close(original)
