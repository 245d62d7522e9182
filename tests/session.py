"""What the processes of one test session share: a folder, and things made in it once."""

import fcntl
import os
import pathlib
import tempfile
from collections.abc import Callable

_VARIABLE = 'NFNETS_AUGMULT_TEST_SESSION'


def start() -> tempfile.TemporaryDirectory | None:
  """Makes the folder of this session, or finds that of the process that started this worker.

  Returns:
    What removes the folder when the process ends; None in a worker of pytest-xdist.
  """
  if 'PYTEST_XDIST_WORKER' in os.environ and _VARIABLE in os.environ:
    return None
  made = tempfile.TemporaryDirectory(prefix='nfnets_augmult_tests_', ignore_cleanup_errors=True)
  os.environ[_VARIABLE] = made.name
  return made


def folder() -> pathlib.Path:
  """Returns the folder of this session; it is removed at the end of it."""
  return pathlib.Path(os.environ[_VARIABLE])


def once(name: str, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
  """Returns the folder `name` of this session, filled by `make` the first time.

  Whoever else asks meanwhile, in any process, waits. Only to be read by tests: they copy what they
  change. If `make` fails, the next one tries again from an empty folder.
  """
  made = folder() / name
  with (folder() / f'{name}.lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not made.exists():
      with tempfile.TemporaryDirectory(prefix=name, dir=folder()) as parent:
        unfinished = pathlib.Path(parent) / name
        unfinished.mkdir()
        make(unfinished)
        unfinished.rename(made)
  return made
