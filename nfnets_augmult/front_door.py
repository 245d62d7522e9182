"""What the command line programs share: flags, logging, signals, errors for people."""

import difflib
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

from nfnets_augmult import configs

# The time of day and nothing else.
LOG_FORMATTER = std_logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S')

_PACKAGE = str(pathlib.Path(__file__).parent)


def define_config_flag(*, required: bool = True) -> None:
  """Defines the flag `--config=FILE.py` with its `--config.KEY=VALUE` overrides."""
  config_flags.DEFINE_config_file(
    'config', None, 'File with get_config(), see experiments/; --config.KEY=VALUE overrides.'
  )
  if required:
    flags.mark_flag_as_required('config')


def define_host_flags() -> None:
  """Defines the flags of a run on several machines; see docs/many_hosts.md."""
  flags.DEFINE_boolean(
    'multi_host', False, 'One of several machines; on Cloud TPU pods and SLURM this flag is enough.'
  )
  flags.DEFINE_string('coordinator', None, 'With --multi_host elsewhere: ADDRESS:PORT of host 0.')
  flags.DEFINE_integer('num_hosts', None, 'With --coordinator: number of machines.')
  flags.DEFINE_integer('host_index', None, 'With --coordinator: which of them this is, from 0.')


def join_hosts() -> None:
  """Connects this process to its companions, if the flags say that there are any."""
  args = flags.FLAGS
  if not args.multi_host:
    if args.coordinator or args.num_hosts or args.host_index:
      fail('--coordinator, --num_hosts and --host_index need --multi_host')
    return
  import jax

  jax.distributed.initialize(args.coordinator, args.num_hosts, args.host_index)


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

  app.run(guarded, flags_parser=_parse)


def run_command(commands: dict[str, Callable[[], None]]) -> None:
  """Parses the flags, runs the one of `commands` that the first argument names, and exits."""

  def guarded(argv: list[str]) -> None:
    if len(argv) != 2 or argv[1] not in commands:
      fail(f'say which command to run, one of {", ".join(commands)}, and flags as --name=value')
    _configure_logging()
    commands[argv[1]]()

  app.run(guarded, flags_parser=_parse)


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
      from nfnets_augmult.data import pipeline  # noqa: F401
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
    # A warning, so that it is seen also where notes go to a file.
    logging.warning('%s: saving, then stopping (interrupt again to stop at once)', self._signal)

  def __call__(self) -> bool:
    """Returns whether to stop."""
    return self._signal is not None


def _parse(argv: list[str]) -> list[str]:
  """Reads the flags; what is wrong with them becomes one message."""
  overrides = [argument for argument in argv if argument.lstrip('-').startswith('config.')]
  has_file = any(argument.lstrip('-').split('=')[0] == 'config' for argument in argv)
  if overrides and 'config' in flags.FLAGS and not has_file:
    fail(f'{overrides[0]} overrides a config file: say --config=FILE.py as well')
  try:
    rest = flags.FLAGS(argv)
    if 'config' in flags.FLAGS and flags.FLAGS['config'].present:
      _ = flags.FLAGS.config.seed  # a file that cannot be read raises only here
    return rest
  except (AttributeError, KeyError) as error:
    fail(_unknown_key(argv) or str(error))
  except OSError as error:
    reason = ' '.join(str(error).split()).split('failure to load: ')[-1]
    fail(f'--config={config_path()} cannot be read: {reason}')
  except (flags.Error, TypeError, ValueError) as error:
    # An error inside a config file comes as the text of its traceback; the last line says it all.
    text = str(error) if 'Traceback' not in str(error) else str(error).strip().splitlines()[-1]
    fail(' '.join(text.removeprefix('ValueError: ').split()))


def _configure_logging() -> None:
  """Shows our own notes and everybody's warnings, with the time of day and nothing else."""
  logging.set_verbosity(logging.INFO)
  logging.use_absl_handler()
  handler = logging.get_absl_handler()
  handler.setFormatter(LOG_FORMATTER)

  def is_for_users(record: std_logging.LogRecord) -> bool:
    if record.pathname.startswith(_PACKAGE):
      return True
    # What orbax has to say reaches us as errors, which we report ourselves.
    return record.levelno > std_logging.INFO and 'orbax' not in record.pathname

  handler.addFilter(is_for_users)
  original = sys.excepthook

  def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    # Threads of the storage library print this, by the hundred, after a write has failed, as on a
    # full disk; what failed reaches us as an error of its own.
    if not (kind is RuntimeError and str(error) == 'Event loop is closed'):
      original(kind, error, trace)

  sys.excepthook = hook


def _unknown_key(argv: list[str]) -> str:
  """What is wrong with the first override whose key the config does not have; '' if none."""
  known = list(configs.flatten(_config_without_overrides(argv)))
  for argument in argv:
    key = argument.lstrip('-').removeprefix('config.').split('=')[0]
    if argument.lstrip('-').startswith('config.') and key not in known:
      alike = [k for k in known if k.split('.')[-1] == key.split('.')[-1]]
      alike = alike or difflib.get_close_matches(key, known, n=3, cutoff=0.5)
      tail = f'did you mean {" or ".join(alike)}?' if alike else f'there is {", ".join(known)}'
      return f'the config has no key {key!r}; {tail}'
  return ''


def _config_without_overrides(argv: list[str]) -> ml_collections.ConfigDict:
  """The config as its file has it. config_flags takes overrides from sys.argv: it is replaced."""
  values = flags.FlagValues()
  config_flags.DEFINE_config_file('config', flag_values=values)
  rest = [argument for argument in argv if not argument.lstrip('-').startswith('config.')]
  original, sys.argv = sys.argv, rest
  try:
    values(rest, known_only=True)
    return values.config
  finally:
    sys.argv = original
