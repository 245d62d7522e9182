"""What the command line programs share: flags, logging, signals, errors for people."""

import logging as std_logging
import os
import pathlib
import signal
import sys
import tempfile
from collections.abc import Callable
from typing import Any

# Before TensorFlow or JAX are imported by anybody: their start-up notes are not for users.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

_PACKAGE = str(pathlib.Path(__file__).parent)


def define_config_flag() -> None:
  """Defines the required flag `--config=FILE.py` with its `--config.KEY=VALUE` overrides."""
  config_flags.DEFINE_config_file(
    'config', None, 'File with get_config(), see experiments/; --config.KEY=VALUE overrides.'
  )
  flags.mark_flag_as_required('config')


def config_path() -> str:
  """Returns what `--config` says, before it was read."""
  return config_flags.get_config_filename(flags.FLAGS['config'])


def run(main: Callable[[], None]) -> None:
  """Parses the flags, runs `main` and exits with 0, or with 1 and one message."""

  def guarded(argv: list[str]) -> None:
    if len(argv) > 1:
      fail(f'unexpected argument {argv[1]!r}; flags are written --name=value')
    _configure_logging()
    main()

  def parse(argv: list[str]) -> list[str]:
    try:
      return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
      fail(_first_paragraph(error))

  app.run(guarded, flags_parser=parse)


def fail(message: str) -> None:
  """Prints one message and exits with status 1."""
  print(f'error: {message}', file=sys.stderr)
  raise SystemExit(1)


def import_tensorflow_quietly() -> None:
  """Imports TensorFlow; what it prints about this machine's CPU and missing GPU is kept back.

  It writes past Python's streams, so the file descriptor itself is turned away meanwhile.

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
      from nfnets_augmult.data import pipeline  # noqa: F401, PLC0415
    except Exception as error:
      kept_back.seek(0)
      printed = kept_back.read().decode(errors='replace')
      raise ImportError(f'TensorFlow cannot be imported: {error}\n{printed}') from error
    finally:
      os.dup2(original, 2)
      os.close(original)


class StopSignals:
  """True once the process was asked to stop by SIGTERM or SIGINT; a second SIGINT kills it."""

  def __init__(self):
    self._signal: str | None = None
    for number in (signal.SIGTERM, signal.SIGINT):
      signal.signal(number, self._note)

  def _note(self, number: int, frame: object) -> None:
    del frame
    self._signal = signal.Signals(number).name
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    logging.info('%s: saving, then stopping (interrupt again to stop at once)', self._signal)

  def __call__(self) -> bool:
    return self._signal is not None


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the leaves of a config by dotted key, as JSON values."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      flat |= {f'{key}.{rest}': leaf for rest, leaf in flatten(value).items()}
    else:
      flat[key] = list(value) if isinstance(value, tuple) else value
  return flat


def _configure_logging() -> None:
  """Shows our own notes and everybody's warnings, with the time of day and nothing else."""
  logging.set_verbosity(logging.INFO)
  logging.use_absl_handler()
  handler = logging.get_absl_handler()
  handler.setFormatter(std_logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
  handler.addFilter(
    lambda record: record.levelno > std_logging.INFO or record.pathname.startswith(_PACKAGE)
  )


def _first_paragraph(error: Exception) -> str:
  return str(error).split('\n\n')[0].strip() or type(error).__name__
