"""Importing TensorFlow without the messages that it prints."""

import os
import sys
import tempfile


def import_quietly() -> None:
  """Imports the input pipeline and suppresses what TensorFlow prints about the machine.

  TensorFlow does not use Python's streams, so the file descriptor itself is redirected.

  Raises:
    ImportError: TensorFlow cannot be imported; the message includes what it printed.
  """
  if 'tensorflow' in sys.modules:
    return
  sys.stderr.flush()
  original = os.dup(2)
  with tempfile.TemporaryFile() as captured:
    os.dup2(captured.fileno(), 2)
    try:
      from nfnets_augmult.data import pipeline  # noqa: F401
    except Exception as error:
      captured.seek(0)
      printed = captured.read().decode(errors='replace')
      raise ImportError(f'TensorFlow cannot be imported: {error}\n{printed}') from error
    finally:
      os.dup2(original, 2)
      os.close(original)
