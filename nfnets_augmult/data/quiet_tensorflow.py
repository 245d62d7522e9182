"""Importing TensorFlow without the messages that it prints, and without Keras."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

# TensorFlow imports it at its start, and with it all of Keras and scikit-learn: a third of the
# seconds that importing TensorFlow takes. It goes on if the import fails.
_KERAS = 'keras.src.optimizers'


def import_quietly() -> None:
  """Imports the input pipeline and suppresses what TensorFlow prints about the machine.

  TensorFlow does not use Python's streams, so the file descriptor itself is redirected. Keras is
  left out; whoever uses it imports it then.

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
      with _without_keras():
        from nfnets_augmult.data import pipeline  # noqa: F401
    except Exception as error:
      captured.seek(0)
      printed = captured.read().decode(errors='replace')
      raise ImportError(f'TensorFlow cannot be imported: {error}\n{printed}') from error
    finally:
      os.dup2(original, 2)
      os.close(original)


@contextlib.contextmanager
def _without_keras() -> Iterator[None]:
  """Lets the import of `_KERAS` fail meanwhile, unless it was imported before."""
  if _KERAS in sys.modules:
    yield
    return
  sys.modules[_KERAS] = None
  try:
    yield
  finally:
    del sys.modules[_KERAS]
