"""The flags of the programs: what is wrong with them, or with a config file, is one line."""

import os
import signal
import subprocess
import sys

import pytest
from absl import flags

from nfnets_augmult import command_line
from nfnets_augmult.training import records

_GOOD = 'from nfnets_augmult.configs import default_config as get_config\n'


class _Refused(Exception):
  pass


@pytest.fixture(name='refusal')
def _refusal(tmp_path, monkeypatch):
  """A function from the text of a config file and flags to the error of the program."""
  monkeypatch.setattr(sys, 'argv', [])  # which the library of the flags reads
  monkeypatch.setenv('CONFIGS', str(tmp_path))

  def fail(message):
    raise _Refused(message)

  monkeypatch.setattr(command_line, 'fail', fail)

  def refusal(text, *arguments, config='$CONFIGS/file.py'):
    (tmp_path / 'file.py').write_text(text, encoding='latin-1')
    sys.modules.pop('config_config', None)  # of an earlier file; the library would go on with it
    values = flags.FlagValues()
    command_line.define_config_flag(flag_values=values)
    with pytest.raises(_Refused) as raised:
      command_line.parse(['train', f'--config={config}', *arguments], values)
    message = str(raised.value)
    assert '\n' not in message and 'Traceback' not in message
    assert len(message) < 1000
    return message.replace(str(tmp_path), '.')

  return refusal


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('def get_config(:\n', '--config=./file.py, line 1: SyntaxError: invalid syntax'),
    ('x = "\xff"\n', '--config=./file.py, line 1: SyntaxError: (unicode error)'),
    ('import no_such_module\n', 'line 1: ModuleNotFoundError: No module named'),
    ('def get_config():\n  return 1 / 0\n', 'line 2: ZeroDivisionError'),
    ('def get_config():\n  pass\n', 'get_config() returns nothing'),
    ('def get_config(what):\n  pass\n', 'file.py: TypeError: get_config() missing 1 required'),
    ('def get_config():\n  return {}\n', 'must return a config as default_config() makes it'),
    ('x = 1\n', '--config=./file.py: there is no get_config() in it'),
    (
      _GOOD.replace(' as get_config', '') + 'def get_config():\n  c = default_config()\n'
      '  c.seed = "one"\n  return c\n',
      'line 4: TypeError',
    ),
    (
      _GOOD.replace(' as get_config', '') + 'def get_config():\n  c = default_config()\n'
      '  with c.unlocked():\n    c.optimizer.mass = 3\n  return c\n',
      "'optimizer.mass' is no key of a config",
    ),
    (
      'import ml_collections\ndef get_config():\n  return ml_collections.ConfigDict({"seed": 1})\n',
      'is missing from the config: start from default_config()',
    ),
  ],
)
def test_config_files(text, words, refusal):
  assert words in refusal(text)


@pytest.mark.parametrize(
  ('argument', 'words'),
  [
    ('--config.seed=1e3', '--config.seed=1e3 must be a whole number'),
    ('--config.augmentation.flip=maybe', '--config.augmentation.flip=maybe must be True or False'),
    (
      '--config.augmentation.inception.area=(1,',
      '--config.augmentation.inception.area=(1, must be',
    ),
    ('--config.optimizer=3', "'optimizer' is a group of keys: set one of them"),
    ('--config.optimizer={}', "'optimizer' is a group of keys: set one of them"),
    ('--config.sed=3', "no key 'sed'; did you mean seed?"),
    ('--config.augmlt=2', "no key 'augmlt'; did you mean augmult?"),
    ('--config.augmult=two', '--config.augmult=two must be a whole number'),
    ('--config.seed', 'Missing value for flag --config.seed'),
    ('--config=other.py', '--config is given 2 times'),
    ('--wrkdir=x', "Unknown command line flag 'wrkdir'"),
  ],
)
def test_overrides(argument, words, refusal):
  assert words in refusal(_GOOD, argument)


@pytest.mark.parametrize(
  ('config', 'words'),
  [
    ('nonesuch.py', '--config=nonesuch.py cannot be read: No such file'),
    ('', 'empty'),
    ('$NO_SUCH_VARIABLE/x.py', "variable 'NO_SUCH_VARIABLE' is not set"),
    ('~no_such_user/x.py', "no user 'no_such_user'"),
    ('$CONFIGS', 'Is a directory'),
  ],
)
def test_config_paths(config, words, refusal):
  assert words in refusal(_GOOD, config=config)


@pytest.mark.parametrize(
  ('is_taken_over', 'is_behind', 'status'), [(False, False, 1), (True, False, 76), (True, True, 76)]
)
def test_exit_status_tells_launchers_not_to_start_again(is_taken_over, is_behind, status):
  """Also if the error that is reported was raised from it, as on several hosts."""
  error = records.TakenOverError('by another') if is_taken_over else ValueError('wrong')
  if is_behind:
    reported = ValueError('on host 0')
    reported.__cause__ = error
    error = reported
  with pytest.raises(SystemExit) as end:
    command_line.fail(str(error), cause=error)
  assert end.value.code == status


def test_path_flags_are_expanded(monkeypatch):
  monkeypatch.setenv('HOME', '/home/ann')
  values = flags.FlagValues()
  command_line.define_path('workdir', '', 'A folder.', flag_values=values)
  values(['train', '--workdir=~/runs/$HOME'])
  assert values.workdir == '/home/ann/runs//home/ann'
  with pytest.raises(flags.IllegalFlagValueError, match="'NO_SUCH_VARIABLE' is not set"):
    values(['train', '--workdir=$NO_SUCH_VARIABLE'])


def test_an_interrupt_while_a_program_starts(tmp_path):
  """All programs start the same way; here, while one loads a config that takes long."""
  file = tmp_path / 'slow.py'
  file.write_text('import time\nprint("reading", flush=True)\ntime.sleep(60)\n')
  process = subprocess.Popen(
    [sys.executable, '-m', 'nfnets_augmult.train', f'--config={file}', f'--workdir={tmp_path}/w'],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  assert process.stdout.readline() == 'reading\n'
  process.send_signal(signal.SIGINT)
  assert process.communicate(timeout=20)[1] == 'interrupted\n'
  assert process.returncode == 130
  assert not (tmp_path / 'w').exists()


@pytest.mark.parametrize(
  ('program', 'names'),
  [
    ('train', ('workdir', 'config', '[no]multi_host')),
    ('report', ('workdir', 'output', 'metric')),
  ],
)
def test_help_lists_the_flags_of_a_program(program, names):
  """Also those that programs share; to ask for it is no error."""
  command = [sys.executable, '-m', f'nfnets_augmult.{program}', '--help']
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 0
  for name in names:
    assert f'\n  --{name}:' in done.stdout


@pytest.mark.parametrize(
  ('words', 'command'),
  [
    (
      ['/opt/a/python', '-X', 'dev', '-m', 'nfnets_augmult.train', '--config', '~/my file.py:a,b'],
      "python -m nfnets_augmult.train --config '~/my file.py:a,b'",
    ),
    (
      ['python', '-m', 'a', '--num_hosts=2', '--coordinator', '10.0.0.1:80', '--multi_host'],
      'python -m a --multi_host',
    ),
    (
      ['python', '-m', 'a', '--config.dataset.data_dir=s3://key:secret@b/c?token=1'],
      'python -m a --config.dataset.data_dir=s3://b/c',
    ),
    (['python', 'train.py', '--config=a.py'], 'python train.py --config=a.py'),
  ],
)
def test_the_command_as_given(words, command, monkeypatch):
  """To be typed again anywhere, and without passwords."""
  monkeypatch.setattr(sys, 'orig_argv', words)
  assert command_line.given_command() == command


@pytest.mark.extended
@pytest.mark.parametrize(
  ('program', 'arguments'),
  {
    'train': ['--config=experiments/cifar100_wrn16_4.py'],
    'find_learning_rate': ['--config=experiments/cifar100_wrn16_4.py'],
    'evaluate': [],
    'predict': ['photo.jpg'],
    'variance': [],
  }.items(),
)
def test_programs_that_compile_keep_what_they_compile(program, arguments, tmp_path):
  """In the user's folder, which is made at the start; here they end for want of a run or data."""
  environment = {k: v for k, v in os.environ.items() if k != 'JAX_COMPILATION_CACHE_DIR'}
  done = subprocess.run(
    [sys.executable, '-m', f'nfnets_augmult.{program}', f'--workdir={tmp_path}/none', *arguments],
    env={**environment, 'XDG_CACHE_HOME': str(tmp_path / 'caches')},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 1 and done.stderr.startswith('error: '), done.stderr
  assert len(list((tmp_path / 'caches' / 'nfnets_augmult' / 'compiled').iterdir())) == 1
