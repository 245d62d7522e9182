"""What the processes of one test session share: a folder, things made in it once, flags of XLA."""

import fcntl
import importlib.metadata
import os
import pathlib
import tempfile
from collections.abc import Callable

_VARIABLE = 'NFNETS_AUGMULT_TEST_SESSION'

# Programs run for a few steps: compiling them takes nearly all of the time, and a fifth of it with
# these flags. JAX ends the process at a flag that its version lacks, so some are for tested ones.
_QUICK_COMPILATION = ['--xla_backend_optimization_level=0']
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  _QUICK_COMPILATION += [
    '--xla_cpu_use_fusion_emitters=false',
    '--xla_cpu_parallel_codegen_split_count=1',
  ]


def quick_compilation(*flags: str) -> str:
  """Returns the `XLA_FLAGS` of tests, with further `flags`; of two values the last one counts.

  On an accelerator, if JAX_PLATFORMS names one, programs are compiled as for users.
  """
  is_cpu = os.environ.get('JAX_PLATFORMS', 'cpu') == 'cpu'
  return ' '.join([*(_QUICK_COMPILATION if is_cpu else []), *flags])


def one_device() -> dict[str, str]:
  """Returns the environment of a process that a test starts to train on a single device."""
  return {**os.environ, 'XLA_FLAGS': quick_compilation()}


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
