"""Flags, logging, signals and error messages of the command line programs."""

from nfnets_augmult.ops import console

# Before imports that take seconds, in which users may interrupt.
if console.is_program():
  console.prepare()

# isort: split
import contextlib
import difflib
import functools
import logging as std_logging
import os
import pathlib
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

# Before any import of TensorFlow or JAX, to suppress their start-up messages.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags
from ml_collections.config_flags import tuple_parser

from nfnets_augmult import configs
from nfnets_augmult.ops import paths

# The flags that are defined here are those of the program that asks for them: --help lists them.
flags.disclaim_key_flags()

# Exit status after another machine was lost: the same command on all of them goes on.
HOST_LOST = 75
# Exit status after a later start has taken the work directory over: not to be repeated.
TAKEN_OVER = 76

_FLAGS_OF_A_MACHINE = ('coordinator', 'num_hosts', 'host_index')
_PACKAGE = str(pathlib.Path(__file__).parent)


class _ValueParser(flags.ArgumentParser):
  """Parses the values of config keys of one type, with a plain error message."""

  def __init__(self, parse_value: Callable[[Any], Any], type_name: str):
    self._parse_value = parse_value
    self._type_name = type_name

  def parse(self, argument: Any) -> Any:
    """Returns the value of the flag."""
    try:
      return self._parse_value(argument)
    except (ValueError, TypeError, OverflowError):
      raise ValueError(f'must be {self._type_name}') from None


class _TupleParser(tuple_parser.TupleParser):
  """Parses tuples, with a plain error message."""

  def parse(self, argument: Any) -> tuple[Any, ...]:
    """Returns the value of the flag."""
    try:
      return super().parse(argument)
    except Exception:
      raise ValueError('must be values with commas between them') from None


class _PathParser(flags.ArgumentParser):
  """Expands `~` and variables in paths, see `paths.expand`."""

  def parse(self, argument: str) -> str:
    """Returns the expanded path."""
    return paths.expand(argument)


def define_path(
  name: str,
  default: str | None,
  help_text: str,
  *,
  required: bool = False,
  flag_values: flags.FlagValues = flags.FLAGS,
) -> None:
  """Defines a flag for a file or folder, in which `~` and `$HOME` are expanded."""
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

  def or_none(parse_value: Callable[[Any], Any]) -> Callable[[Any], Any]:
    # A default that depends on other keys; where there is none, `check_keys` refuses it.
    return lambda text: None if text == 'None' else parse_value(text)

  for kind, parser in (
    (float, _ValueParser(or_none(float), 'a number')),
    (int, _ValueParser(or_none(flags.IntegerParser().convert), 'a whole number')),
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
  except flags.Error as error:  # of a --flagfile, which it reads
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
  flags.DEFINE_integer(
    'heartbeat_timeout', 100, 'With --multi_host: seconds until a silent machine counts as lost.', 1
  )


def join_hosts() -> None:
  """Connects this process to those of the other hosts, if there are any."""
  args = flags.FLAGS
  if not args.multi_host:
    if any(value is not None for value in (args.coordinator, args.num_hosts, args.host_index)):
      fail('--coordinator, --num_hosts and --host_index need --multi_host')
    return
  import jax

  console.explain_abort(
    'error: this process was killed or has aborted. If the lines above say that another task '
    'died, a machine was lost: start all again, and the run goes on from its last checkpoint'
  )
  try:
    jax.distributed.initialize(
      args.coordinator,
      args.num_hosts,
      args.host_index,
      heartbeat_timeout_seconds=args.heartbeat_timeout,
    )
  except (RuntimeError, ValueError) as error:
    fail(f'--multi_host: the machines cannot be joined: {_one_line(str(error))}')
  # The preemption service of JAX, which Orbax needs, would catch it, and nobody would stop.
  signal.signal(signal.SIGTERM, signal.SIG_DFL)


def whole_numbers(flag: str) -> list[int]:
  """Returns the integers of a comma-separated flag.

  Raises:
    ValueError: it has other values, or none.
  """
  texts = flags.FLAGS[flag].value
  if not texts or not all(text.isdecimal() and len(text) < 20 for text in texts):
    raise ValueError(f'--{flag}={",".join(texts)} must be whole numbers with commas between them')
  return [int(text) for text in texts]


def check_devices() -> None:
  """Fails if JAX finds no device, as with a JAX_PLATFORMS that is not installed."""
  import jax

  try:
    jax.devices()
  except Exception as error:  # plugins raise all kinds of errors, some without text
    platforms = os.environ.get('JAX_PLATFORMS', '')
    reason = _one_line(str(error)) or 'they are not there'
    fail(f'JAX cannot use the devices that it was told to, JAX_PLATFORMS={platforms!r}: {reason}')


def keep_compiled_programs() -> None:
  """Keeps compiled programs in the user's folder of caches, so that the next start is faster."""
  from nfnets_augmult.ops import compiled_programs

  compiled_programs.keep_in(compiled_programs.user_folder())


def config_path() -> str:
  """Returns the value of `--config`, `FILE.py` or `FILE.py:ARGUMENT`."""
  return config_flags.get_config_filename(flags.FLAGS['config'])


def given_command() -> str:
  """Returns the command that started this program, as was typed, to be copied into a shell.

  Left out are the interpreter's path and options, passwords in URLs, and which of several machines
  this is.
  """
  words = sys.orig_argv
  words = words[words.index('-m') :] if '-m' in words else words[1:]
  kept, rest = ['python'], iter(words)
  for word in rest:
    name, has_value, _ = word.lstrip('-').partition('=')
    if word.startswith('-') and name in _FLAGS_OF_A_MACHINE:
      if not has_value:
        next(rest, None)
    else:
      kept.append(paths.without_credentials(word))
  return shlex.join(kept)


def default_workdir(path: str) -> str:
  """Returns `runs/NAME` for a config `.../NAME.py`, and `runs/NAME-ARGUMENT` for `...:ARGUMENT`."""
  path, _, argument = path.partition('.py:')
  name = pathlib.Path(path).name.removesuffix('.py')
  return os.path.join('runs', '-'.join([name, *re.findall(r'[\w.=]+', argument)]))


def run(main: Callable[..., None], *, takes_arguments: bool = False) -> None:
  """Parses the flags, runs `main` and exits with 0, or with 1 and one message.

  Args:
    main: of the program.
    takes_arguments: whether it is called with a list of what is on the command line besides flags;
      if not, such arguments are an error.
  """

  def guarded(argv: list[str]) -> None:
    if len(argv) > 1 and not takes_arguments:
      fail(f'unexpected argument {argv[1]!r}; flags are written --name=value')
    _configure_logging()
    _call(functools.partial(main, argv[1:]) if takes_arguments else main)

  app.run(guarded, flags_parser=parse)


def _call(main: Callable[[], None]) -> None:
  """Calls `main`; system errors become one message, and bugs keep their traceback."""
  try:
    main()
  except Exception as error:
    if explanation := _explain(error):
      fail(explanation, cause=error)
    if _is_joined():
      from nfnets_augmult.training import hosts

      if not hosts.is_lost(error):
        traceback.print_exc()
      fail('this machine failed with the error above, and ends the others', cause=error)
    raise
  try:
    sys.stdout.flush()
  except OSError as error:
    fail(f'the output cannot be written: {error}')


def _explain(error: Exception) -> str:
  """Returns a line on an error of memory, files or imports; '' for others, which may be bugs."""
  text = _one_line(str(error))
  if 'RESOURCE_EXHAUSTED' in text or isinstance(error, MemoryError):
    return f'out of memory: a smaller batch or network may fit. {text}'
  if isinstance(error, OSError | ImportError):
    return text or type(error).__name__
  return ''


def fail(message: str, *, cause: Exception | None = None) -> None:
  """Prints one message and exits with status 1, `HOST_LOST` or `TAKEN_OVER`.

  Args:
    message: for people.
    cause: the error behind it. If it is one of several hosts' own, the process ends without waiting
      for the others, which notice that. If it says that another host is lost, so does the message.
  """
  status, is_alone = 1, False
  if cause is not None:
    from nfnets_augmult.training import hosts, records

    if hosts.is_from(cause, records.TakenOverError):
      status = TAKEN_OVER
  if cause is not None and _is_joined():
    is_alone = not isinstance(cause, hosts.SharedError)
    if hosts.is_lost(cause):
      status = HOST_LOST
      message = (
        'the connection to another machine is lost, so this one ends, too: start all of them '
        f'again, and the run goes on from its last checkpoint ({_one_line(str(cause))})'
      )
  with contextlib.suppress(OSError):
    sys.stdout.flush()
  print(f'error: {message}', file=sys.stderr, flush=True)
  if is_alone:
    console.leave(status)
  raise SystemExit(status)


def _is_joined() -> bool:
  """Whether this process is one of several hosts."""
  jax = sys.modules.get('jax')
  return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


class StopSignals:
  """Returns True when called after SIGTERM or SIGINT; a second SIGINT ends the process."""

  def __init__(self):
    self._signal: str | None = None
    for number in (signal.SIGTERM, signal.SIGINT):
      console.on_signal(number, self._note)

  def _note(self, number: int) -> None:
    if self._signal is not None and number == signal.SIGINT:
      console.end(number)
    self._signal = signal.Signals(number).name
    # A warning, since those of a sweep are shown on the terminal, too.
    logging.warning('%s: saving, then stopping (interrupt again to stop at once)', self._signal)

  def __call__(self) -> bool:
    """Returns whether to stop."""
    return self._signal is not None


def parse(argv: list[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Parses the flags; errors end the program with one message."""
  if 'grid' in flag_values:
    argv = [re.sub(r'^--?grid\.', '--grid=', argument) for argument in argv]
  has_config = 'config' in flag_values
  if has_config:
    # ml_collections looks for overrides in sys.argv.
    argv = sys.argv = _expand_config_path(argv)
  overrides = [argument for argument in argv if argument.lstrip('-').startswith('config.')]
  files = [argument for argument in argv if argument.startswith(('--config=', '-config='))]
  if has_config and len(files) > 1:
    fail(f'--config is given {len(files)} times: {" and ".join(files)}')
  if has_config and overrides and not files:
    fail(f'{overrides[0]} overrides a config file: say --config=FILE.py as well')
  logging.set_verbosity(logging.ERROR)  # the warnings of libraries here precede errors
  try:
    rest = flag_values(argv)
    if files:
      getattr(flag_values.config, 'seed', None)  # a file that cannot be read raises only here
  except SystemExit as ended:  # --help has been printed, which is no error
    asked = {argument.lstrip('-') for argument in argv} & {'help', 'helpshort', 'helpfull'}
    raise SystemExit(0 if asked else ended.code) from None
  except Exception as error:
    fail(_unknown_key(argv, overrides) or _explain_flags(error, files))
  try:
    if files:
      configs.check_keys(flag_values.config)
  except ValueError as error:
    fail(_unknown_key(argv, overrides) or str(error))
  return rest


def _explain_flags(error: Exception, files: list[str]) -> str:
  """Returns a line on an error in the flags, or in the config file that they name."""
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
  place, is_in_file = _place_in(file, error), not isinstance(error, flags.Error)
  if 'Traceback' in text:
    is_in_file = True
    # ml_collections raises some errors with the text of the traceback only.
    place = (re.findall(rf'File "{re.escape(file)}", (line \d+)', text) or [place])[-1]
    text = text.strip().splitlines()[-1].removeprefix('ValueError: ')
  elif place:
    text = f'{type(error).__name__}: {text}'
  # absl puts `flag --NAME=VALUE: ` before the messages of parsers.
  text = re.sub(r'^flag (--[^ ]*?=.*?): (must )', r'\1 \2', _one_line(text)).removeprefix('flag ')
  if not (place or is_in_file):
    return text
  return f'{flag}, {place}: {text}' if place else f'{flag}: {text}'


def _one_line(text: str) -> str:
  """Returns the text on one line of at most 300 characters."""
  line = ' '.join(text.split())
  return line if len(line) <= 300 else f'{line[:300]}...'


def _expand_config_path(argv: list[str]) -> list[str]:
  """Returns the arguments with `--config FILE` as a single one, and its path expanded."""
  result, rest = [], iter(argv)
  for argument in rest:
    if argument in ('--config', '-config'):
      argument = f'--config={next(rest, "")}'
    if argument.startswith(('--config=', '-config=')):
      name, _, path = argument.partition('=')
      try:
        argument = f'{name}={paths.expand(path)}'
      except ValueError as error:
        fail(f'{argument}: {error}')
    result.append(argument)
  return result


def _place_in(file: str, error: BaseException) -> str:
  """Returns the line of the config file that raised the error, as text; '' if none did."""
  frames = traceback.extract_tb(error.__traceback__)
  if isinstance(error, SyntaxError) and error.filename and error.lineno:
    return f'line {error.lineno}' if os.path.samefile(error.filename, file) else ''
  lines = [frame.lineno for frame in frames if frame.filename == file]
  return f'line {lines[-1]}' if lines else ''


def _configure_logging() -> None:
  """Shows the package's messages and the warnings of libraries, with the time of day."""
  logging.set_verbosity(logging.INFO)
  logging.use_absl_handler()
  handler = logging.get_absl_handler()
  handler.setFormatter(console.LOG_FORMATTER)

  def is_for_users(record: std_logging.LogRecord) -> bool:
    if record.pathname.startswith(_PACKAGE):
      return True
    # What orbax and gcsfs log as errors is raised, too, and reported where it is caught.
    is_raised = 'orbax' in record.pathname or 'gcsfs' in record.pathname
    return record.levelno > std_logging.INFO and not is_raised

  handler.addFilter(is_for_users)
  original = sys.excepthook

  def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    # Threads of orbax print this hundreds of times after a failed write, which is raised, too.
    if not (kind is RuntimeError and str(error) == 'Event loop is closed'):
      original(kind, error, trace)

  sys.excepthook = hook


def _unknown_key(argv: list[str], overrides: list[str]) -> str:
  """Returns a line on the first override of a key that the config lacks; '' if none."""
  try:
    known = list(configs.flatten(_config_without_overrides(argv))) if overrides else []
  except Exception:  # the file cannot be loaded, which the caller reports
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
  """Returns the config of the file."""
  values = flags.FlagValues()
  rest = [argument for argument in argv if not argument.lstrip('-').startswith('config.')]
  config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=rest)
  values(rest, known_only=True)
  return values.config
