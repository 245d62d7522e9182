"""What the command line programs share: flags, logging, signals, errors for people."""

from nfnets_augmult.ops import console

# Before anything that takes long to import: people interrupt that, too.
if console.is_program():
  console.prepare()

# isort: split
import contextlib
import difflib
import logging as std_logging
import os
import pathlib
import re
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

# Before TensorFlow or JAX are imported by anybody: their start-up notes are not for users.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags
from ml_collections.config_flags import tuple_parser

from nfnets_augmult import configs
from nfnets_augmult.ops import paths

_PACKAGE = str(pathlib.Path(__file__).parent)


class _ValueParser(flags.ArgumentParser):
  """Reads the value of one kind of config key; what it cannot read it calls by a plain name."""

  def __init__(self, read: Callable[[Any], Any], what: str):
    self._read = read
    self._what = what

  def parse(self, argument: Any) -> Any:
    """Returns the value that `argument` stands for."""
    try:
      return self._read(argument)
    except (ValueError, TypeError, OverflowError):
      raise ValueError(f'must be {self._what}') from None


class _TupleParser(tuple_parser.TupleParser):
  """As the library's, but with an error for what it cannot read."""

  def parse(self, argument: Any) -> tuple[Any, ...]:
    """Returns the tuple that `argument` stands for."""
    try:
      return super().parse(argument)
    except Exception:
      raise ValueError('must be values with commas between them') from None


class _PathParser(flags.ArgumentParser):
  """Reads a path as people write it, see `paths.expand`."""

  def parse(self, argument: str) -> str:
    """Returns the path that `argument` stands for."""
    return paths.expand(argument)


def define_path(
  name: str,
  default: str | None,
  help_text: str,
  *,
  required: bool = False,
  flag_values: flags.FlagValues = flags.FLAGS,
) -> None:
  """Defines a flag for a file or folder, in which `~` and `$HOME` stand for what they do."""
  flags.DEFINE(
    _PathParser(),
    name,
    default,
    help_text,
    flag_values,
    serializer=flags.ArgumentSerializer(),
    required=required,
  )


def define_config_flag(
  *, required: bool = True, flag_values: flags.FlagValues = flags.FLAGS
) -> None:
  """Defines the flag `--config=FILE.py` with its `--config.KEY=VALUE` overrides."""
  for kind, parser in (
    # None stands for what a model itself has; elsewhere the config is refused.
    (float, _ValueParser(lambda text: None if text == 'None' else float(text), 'a number')),
    (int, _ValueParser(flags.IntegerParser().convert, 'a whole number')),
    (bool, _ValueParser(flags.BooleanParser().parse, 'True or False')),
    (tuple, _TupleParser()),
  ):
    config_flags.register_flag_parser_for_type(kind, parser)
  try:
    config_flags.DEFINE_config_file(
      'config',
      None,
      'File with get_config(), see experiments/; --config.KEY=VALUE overrides.',
      flag_values,
    )
  except flags.Error as error:  # it looks into a --flagfile
    fail(_one_line(str(error)))
  if required:
    flags.mark_flag_as_required('config', flag_values)


def define_host_flags() -> None:
  """Defines the flags of a run on several machines; see docs/many_hosts.md."""
  flags.DEFINE_boolean(
    'multi_host', False, 'One of several machines; on Cloud TPU pods and SLURM this flag is enough.'
  )
  flags.DEFINE_string('coordinator', None, 'With --multi_host elsewhere: ADDRESS:PORT of host 0.')
  flags.DEFINE_integer('num_hosts', None, 'With --coordinator: number of machines.', 1)
  flags.DEFINE_integer('host_index', None, 'With --coordinator: which of them this is, from 0.', 0)


def join_hosts() -> None:
  """Connects this process to its companions, if the flags say that there are any."""
  args = flags.FLAGS
  if not args.multi_host:
    if any(value is not None for value in (args.coordinator, args.num_hosts, args.host_index)):
      fail('--coordinator, --num_hosts and --host_index need --multi_host')
    return
  import jax

  try:
    jax.distributed.initialize(args.coordinator, args.num_hosts, args.host_index)
  except (RuntimeError, ValueError) as error:
    fail(f'--multi_host: the machines cannot be joined: {_one_line(str(error))}')


def whole_numbers(flag: str) -> list[int]:
  """Returns the numbers that a flag lists with commas between them.

  Raises:
    ValueError: it lists something else, or nothing.
  """
  texts = flags.FLAGS[flag].value
  if not texts or not all(text.isdecimal() and len(text) < 20 for text in texts):
    raise ValueError(f'--{flag}={",".join(texts)} must be whole numbers with commas between them')
  return [int(text) for text in texts]


def check_devices() -> None:
  """Fails if JAX finds no device to compute on, as with a JAX_PLATFORMS that is not installed."""
  import jax

  try:
    jax.devices()
  except Exception as error:  # some of what its plugins raise has neither kind nor text
    asked = os.environ.get('JAX_PLATFORMS', '')
    reason = _one_line(str(error)) or 'they are not there'
    fail(f'JAX cannot use the devices that it was told to, JAX_PLATFORMS={asked!r}: {reason}')


def config_path() -> str:
  """Returns what `--config` says, before it was read."""
  return config_flags.get_config_filename(flags.FLAGS['config'])


def default_workdir(path: str) -> str:
  """Returns `runs/NAME` for a config `.../NAME.py`, and `runs/NAME-ARGUMENT` for `...:ARGUMENT`."""
  path, _, argument = path.partition('.py:')
  name = pathlib.Path(path).name.removesuffix('.py')
  return os.path.join('runs', '-'.join([name, *re.findall(r'[\w.=]+', argument)]))


def run(main: Callable[[], None]) -> None:
  """Parses the flags, runs `main` and exits with 0, or with 1 and one message."""

  def guarded(argv: list[str]) -> None:
    if len(argv) > 1:
      fail(f'unexpected argument {argv[1]!r}; flags are written --name=value')
    _configure_logging()
    _call(main)

  app.run(guarded, flags_parser=parse)


def _call(main: Callable[[], None]) -> None:
  """Calls `main`; what machines do to a program becomes one message, and bugs keep their trace."""
  try:
    main()
  except Exception as error:
    if explanation := _explain(error):
      fail(explanation)
    raise
  try:
    sys.stdout.flush()
  except OSError as error:
    fail(f'the output cannot be written: {error}')


def _explain(error: Exception) -> str:
  """What to say of an error that is no bug of a program, on one line; '' if it may be one."""
  text = _one_line(str(error))
  if 'RESOURCE_EXHAUSTED' in text or isinstance(error, MemoryError):
    return f'out of memory: a smaller batch or network may fit. {text}'
  if isinstance(error, OSError | ImportError):
    return text or type(error).__name__
  return ''


def fail(message: str) -> None:
  """Prints one message and exits with status 1."""
  with contextlib.suppress(OSError):  # the status says it where nothing can be printed
    sys.stdout.flush()
  print(f'error: {message}', file=sys.stderr, flush=True)
  raise SystemExit(1)


class StopSignals:
  """True once the process was asked to stop by SIGTERM or SIGINT; a second SIGINT ends it."""

  def __init__(self):
    self._signal: str | None = None
    for number in (signal.SIGTERM, signal.SIGINT):
      console.on_signal(number, self._note)

  def _note(self, number: int) -> None:
    if self._signal is not None and number == signal.SIGINT:
      console.end(number)
    self._signal = signal.Signals(number).name
    # A warning, so that it is seen also where notes go to a file.
    logging.warning('%s: saving, then stopping (interrupt again to stop at once)', self._signal)

  def __call__(self) -> bool:
    """Returns whether to stop."""
    return self._signal is not None


def parse(argv: list[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Reads the flags; what is wrong with them becomes one message."""
  if 'grid' in flag_values:
    argv = [re.sub(r'^--?grid\.', '--grid=', argument) for argument in argv]
  has_config = 'config' in flag_values
  if has_config:
    # The library looks for overrides in sys.argv by itself.
    argv = sys.argv = _with_whole_config_path(argv)
  overrides = [argument for argument in argv if argument.lstrip('-').startswith('config.')]
  files = [argument for argument in argv if argument.startswith(('--config=', '-config='))]
  if has_config and len(files) > 1:
    fail(f'--config is given {len(files)} times: {" and ".join(files)}')
  if has_config and overrides and not files:
    fail(f'{overrides[0]} overrides a config file: say --config=FILE.py as well')
  logging.set_verbosity(logging.ERROR)  # what libraries warn of here ends the program anyhow
  try:
    rest = flag_values(argv)
    if files:
      getattr(flag_values.config, 'seed', None)  # a file that cannot be read raises only here
  except Exception as error:
    fail(_unknown_key(argv, overrides) or _explain_flags(error, files))
  try:
    if files:
      configs.check_keys(flag_values.config)
  except ValueError as error:
    fail(_unknown_key(argv, overrides) or str(error))
  return rest


def _explain_flags(error: Exception, files: list[str]) -> str:
  """What to say of an error in the flags, or in the config file that they name."""
  text, flag = str(error), files[0] if files else ''
  if missing := re.match(r'flag --(\w+)=None: Flag .* must have a value', text):
    returned = (
      'get_config() returns nothing' if files and missing[1] == 'config' else 'it is needed'
    )
    return f'{flag or f"say --{missing[1]}=..."}: {returned}'
  if 'failure to load: ' in text:
    reason = re.sub(r'.*\[Errno \d+\] ', '', _one_line(text.split('failure to load: ')[1]))
    return f'{flag} cannot be read: {reason}'
  if "no attribute 'get_config'" in text:
    return f'{flag}: there is no get_config() in it'
  file = flag.partition('=')[2].split(':')[0]
  place, of_file = _place_in(file, error), not isinstance(error, flags.Error)
  if 'Traceback' in text:
    of_file = True
    # Of some errors in the file the library keeps nothing but the text of the traceback.
    place = (re.findall(rf'File "{re.escape(file)}", (line \d+)', text) or [place])[-1]
    text = text.strip().splitlines()[-1].removeprefix('ValueError: ')
  elif place:
    text = f'{type(error).__name__}: {text}'
  # Of values that a parser of ours refuses the library says `flag --NAME=VALUE: must be ...`.
  text = re.sub(r'^flag (--[^ ]*?=.*?): (must )', r'\1 \2', _one_line(text)).removeprefix('flag ')
  if not (place or of_file):
    return text
  return f'{flag}, {place}: {text}' if place else f'{flag}: {text}'


def _one_line(text: str) -> str:
  """A text of any length as a line that can be read."""
  line = ' '.join(text.split())
  return line if len(line) <= 300 else f'{line[:300]}...'


def _with_whole_config_path(argv: list[str]) -> list[str]:
  """The arguments with `--config FILE` as one, and its path as `paths.expand` has it."""
  whole, rest = [], iter(argv)
  for argument in rest:
    if argument in ('--config', '-config'):
      argument = f'--config={next(rest, "")}'
    if argument.startswith(('--config=', '-config=')):
      name, _, path = argument.partition('=')
      try:
        argument = f'{name}={paths.expand(path)}'
      except ValueError as error:
        fail(f'{argument}: {error}')
    whole.append(argument)
  return whole


def _place_in(file: str, error: BaseException) -> str:
  """The line of the config file where an error came from, as text; '' if from elsewhere."""
  frames = traceback.extract_tb(error.__traceback__)
  if isinstance(error, SyntaxError) and error.filename and error.lineno:
    return f'line {error.lineno}' if os.path.samefile(error.filename, file) else ''
  lines = [frame.lineno for frame in frames if frame.filename == file]
  return f'line {lines[-1]}' if lines else ''


def _configure_logging() -> None:
  """Shows our own notes and everybody's warnings, with the time of day and nothing else."""
  logging.set_verbosity(logging.INFO)
  logging.use_absl_handler()
  handler = logging.get_absl_handler()
  handler.setFormatter(console.LOG_FORMATTER)

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


def _unknown_key(argv: list[str], overrides: list[str]) -> str:
  """What is wrong with the first override whose key the config does not have; '' if none."""
  try:
    known = list(configs.flatten(_config_without_overrides(argv))) if overrides else []
  except Exception:  # the file itself is wrong, which is said elsewhere
    return ''
  for override in overrides:
    key = override.lstrip('-').removeprefix('config.').split('=')[0]
    if key in known:
      continue
    if members := [k for k in known if k.startswith(f'{key}.')]:
      return f'{key!r} is a group of keys: set one of them, as in --config.{members[0]}=VALUE'
    alike = [k for k in known if k.split('.')[-1] == key.split('.')[-1]]
    alike = alike or difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    tail = f'did you mean {" or ".join(alike)}?' if alike else f'there is {", ".join(known)}'
    return f'the config has no key {key!r}; {tail}'
  return ''


def _config_without_overrides(argv: list[str]) -> ml_collections.ConfigDict:
  """The config as its file has it."""
  values = flags.FlagValues()
  rest = [argument for argument in argv if not argument.lstrip('-').startswith('config.')]
  config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=rest)
  values(rest, known_only=True)
  return values.config
