"""`launch/tpu.sh` with a stand-in for gcloud, see `fake_gcloud.py`; one test trains for real."""

import json
import os
import pathlib
import random
import re
import shlex
import shutil
import subprocess
import sys
import time

import pytest

from nfnets_augmult.training import records
from tests import session
from tests.launch import fake_gcloud
from tests.launch.toy_flags import CONFIG, toy_flags
from tests.launch.toy_flags import STEPS as TRAIN_STEPS

ROOT = pathlib.Path(__file__).parent.parent.parent
SCRIPT = ROOT / 'launch' / 'tpu.sh'
_GIT = shutil.which('git') and ['git', '-C', str(ROOT), 'rev-parse', 'HEAD']
pytestmark = pytest.mark.skipif(
  not (
    shutil.which('setsid') and _GIT and not subprocess.run(_GIT, capture_output=True).returncode
  ),
  reason='needs Linux and a checkout of git, from which the code is copied',
)
FLAGS = ('--name=toy', '--zone=us-central2-b', '--project=p', '--type=v4-16', '--poll_seconds=0.1')

WORKDIR = 'for word; do case "$word" in --workdir=*) workdir="${word#*=}" ;; esac; done; '
# Forty steps, which go on from the last one; host 0 keeps the records, the other waits for its end.
STEPS = f"""{WORKDIR}
if [ "$SLURM_PROCID" != 0 ]; then until [ -e "$workdir/result.json" ]; do sleep 0.05; done; exit; fi
mkdir -p "$workdir"
while [ "$(cat "$workdir/steps" 2>/dev/null | wc -l)" -lt 40 ]; do
  sleep 0.05
  echo step >> "$workdir/steps"
done
echo '{{}}' > "$workdir/result.json"
"""


@pytest.fixture(name='cloud')
def _cloud(tmp_path):
  cloud = fake_gcloud.FakeCloud(tmp_path / 'cloud').make()
  yield cloud
  if cloud.read('toy'):
    cloud.preempt('toy')


def _environment(cloud, **variables):
  return {
    **os.environ,
    'PATH': f'{cloud.folder}/bin:{os.environ["PATH"]}',
    fake_gcloud.FAKE_CLOUD: str(cloud.folder),
    'FAKE_TRAIN': '',
    **variables,
  }


def _start(cloud, action, *arguments, script=SCRIPT, flags=FLAGS, **variables):
  return subprocess.Popen(
    [str(script), action, *flags, *arguments],
    cwd=ROOT,
    env=_environment(cloud, **variables),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def _run(cloud, action, *arguments, **variables):
  """Returns the exit status and the output."""
  process = _start(cloud, action, *arguments, **variables)
  output = process.communicate(timeout=300)[0]
  return process.returncode, output


def _wait(condition, seconds=300):
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline, 'waited too long'
    time.sleep(0.02)


def _dry_run(action, *arguments):
  done = subprocess.run(
    [str(SCRIPT), action, *arguments, '--dry_run', '--', CONFIG, '--workdir=gs://b/a run'],
    env={**os.environ, 'PATH': '/usr/bin:/bin'},
    capture_output=True,
    text=True,
    check=True,
  )
  return [line for line in done.stdout.splitlines() if not line.startswith('#')]


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    (('grow',), 'no action grow: say keep, create'),
    (('create', '--zone=z', '--project=p', '--type=v4-8'), '--name= must be lower-case letters'),
    (('create', '--name=Toy', '--zone=z'), '--name=Toy must be lower-case letters'),
    (('create', '--name=a', '--project=p', '--type=v4-8'), 'say --zone=...'),
    (('create', '--name=a', '--zone=z', '--type=v4-8'), 'say --project=...'),
    (('create', '--name=a', '--zone=z', '--project=p'), 'say --type=...'),
    (('create', *FLAGS, '--type=v5e-16'), 'Google Cloud calls it v5litepod-16'),
    (('create', *FLAGS, '--type=v6e-12'), '--type=v6e-12: the number counts chips: 1, 4, 8'),
    (('create', *FLAGS, '--type=v4-12'), '--type=v4-12: the number counts cores, 8 on each host'),
    (('create', *FLAGS, '--type=h100-8'), '--type=h100-8 is none of v2-N'),
    (('create', *FLAGS, '--type=v4-big'), '--type=v4-big must end with a number'),
    (('create', *FLAGS, '--slices=0'), '--slices=0 must be a whole number from 1'),
    (('create', *FLAGS, '--wrkdir=x'), 'unknown flag --wrkdir=x'),
    (('create', *FLAGS, '--name', 'x'), 'unknown flag --name; flags are written --name=value'),
    (('keep', *FLAGS), 'say which config to train, after --'),
    (('keep', *FLAGS, '--', CONFIG), 'say where the run is kept, after --'),
    (('train', *FLAGS, '--', CONFIG, '--workdir=runs/x'), '--workdir=runs/x would be deleted'),
    (('train', *FLAGS, '--', CONFIG, 'x'), 'after --, x is no flag'),
    (
      ('keep', *FLAGS, '--', '--config=my_config.py', '--workdir=gs://b/x'),
      '--config=my_config.py is not known to git, and would not be copied',
    ),
  ],
)
def test_wrong_flags_are_found_before_any_command(arguments, words, cloud):
  done = subprocess.run(
    [str(SCRIPT), *arguments], env=_environment(cloud), capture_output=True, text=True, check=False
  )
  assert done.returncode == 1
  assert done.stderr.startswith('error: ') and words in done.stderr
  assert done.stderr.count('\n') == 1
  assert cloud.commands() == []


def test_help():
  done = subprocess.run([SCRIPT, '--help'], capture_output=True, text=True, check=True)
  for word in ('keep', 'delete', '--spot', '--dry_run'):
    assert f'\n  {word} ' in done.stdout


@pytest.mark.parametrize(
  ('accelerator', 'size', 'runtime'),
  [
    ('v2-8', '4 chips, 1 host, 8 JAX devices', 'tpu-ubuntu2204-base'),
    ('v3-32', '16 chips, 4 hosts, 32 JAX devices', 'tpu-ubuntu2204-base'),
    ('v4-64', '32 chips, 8 hosts, 32 JAX devices', 'tpu-ubuntu2204-base'),
    ('v5p-64', '32 chips, 8 hosts, 32 JAX devices', 'v2-alpha-tpuv5'),
    ('v5litepod-8', '8 chips, 1 host, 8 JAX devices', 'v2-alpha-tpuv5-lite'),
    ('v5litepod-16', '16 chips, 4 hosts, 16 JAX devices', 'v2-alpha-tpuv5-lite'),
    ('v6e-32', '32 chips, 8 hosts, 32 JAX devices', 'v2-alpha-tpuv6e'),
  ],
)
def test_sizes_and_runtime_versions(accelerator, size, runtime):
  """The number after a type counts cores or chips."""
  done = subprocess.run(
    [SCRIPT, 'create', *FLAGS, f'--type={accelerator}', '--dry_run'],
    capture_output=True,
    text=True,
    check=True,
  )
  assert size in done.stdout
  (command,) = (shlex.split(line) for line in done.stdout.splitlines() if line[0] != '#')
  assert f'--accelerator-type={accelerator}' in command
  assert f'--runtime-version={runtime}' in command
  assert '--spot' not in command


def test_dry_runs_print_commands_for_a_shell():
  """All of them, quoted; they are run nowhere, since there is no gcloud on the PATH."""
  commands = [shlex.split(line) for line in _dry_run('keep', *FLAGS, '--spot', '--slices=2')]
  assert [command[:5][-2:] for command in commands if command[0] == 'gcloud'] == [
    *(['queued-resources', 'create'], ['queued-resources', 'describe'], ['tpu-vm', 'list']),
    *(['queued-resources', 'scp'], ['queued-resources', 'ssh'], ['queued-resources', 'ssh']),
    *(['queued-resources', 'ssh'], ['queued-resources', 'ssh'], ['queued-resources', 'delete']),
  ]
  assert {'--spot', '--node-count=2', '--node-prefix=toy'} <= set(commands[0])
  for command in commands:
    if command[4] in ('ssh', 'scp'):
      assert {'--worker=all', '--node=all'} <= set(command)
  started = shlex.split(commands[6][-1].removeprefix('--command='))
  assert started[:3] == ['bash', 'nfnets_augmult/launch/tpu_worker.sh', 'start']
  assert started[3:] == ['--multi_host', CONFIG, '--workdir=gs://b/a run']


def _documented(program):
  """The commands of docs/pods.md that begin so, each on one line."""
  text = (ROOT / 'docs' / 'pods.md').read_text(encoding='utf-8').replace('\\\n', ' ')
  blocks = '\n'.join(re.findall(r'```bash\n(.*?)```', text, re.DOTALL))
  return [line for line in blocks.splitlines() if line.startswith(program)]


def test_the_documented_commands_are_accepted():
  commands = _documented('./launch/tpu.sh')
  assert len(commands) >= 9
  for command in commands:
    program, action, *arguments = shlex.split(command)
    done = subprocess.run(
      [program, action, '--dry_run', *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.extended
@pytest.mark.skipif(not shutil.which('gcloud'), reason='needs gcloud')
def test_gcloud_knows_the_commands(tmp_path):
  """Those of the script and of the documentation."""
  flags = (*FLAGS, '--spot', '--create_flags=--network=n --reserved', '--ssh_flags=--internal-ip')
  commands = {
    line
    for arguments in (
      ('keep', *flags),
      ('keep', *flags, '--slices=2'),
      *((action, *flags) for action in ('create', 'setup', 'train', 'status', 'logs', 'stop')),
    )
    for line in _dry_run(*arguments)
    if line.startswith('gcloud')
  }
  assert len(commands) >= 10
  commands |= set(_documented('gcloud'))
  # In the quotes that Python writes, which gcloud reads, too.
  strings = [{'command_string': shlex.join(shlex.split(command))} for command in commands]
  (tmp_path / 'commands.json').write_text(json.dumps(strings))
  done = subprocess.run(
    ['gcloud', 'meta', 'lint-gcloud-commands', f'--commands-file={tmp_path}/commands.json'],
    capture_output=True,
    text=True,
    check=True,
  )
  results = json.loads(done.stdout)
  assert len(results) == len(commands)
  for result in results:
    assert result['success'], f'{result["command_string"]}: {result["error_message"]}'


@pytest.mark.extended
@pytest.mark.long
def test_keep_trains_through_a_preemption(cloud, tmp_path):
  """Two hosts train for real; their machines are taken away once there is a checkpoint."""
  workdir = tmp_path / 'run'
  checkpoints = workdir / 'checkpoints'
  process = _start(
    cloud,
    'keep',
    *('--spot', '--poll_seconds=1'),
    *('--', f'--workdir={workdir}', *toy_flags()),
    XLA_FLAGS=session.quick_compilation(),
  )
  try:
    _wait(lambda: checkpoints.exists() and any(p.name.isdigit() for p in checkpoints.iterdir()))
    cloud.preempt('toy')
    assert records.read_status(str(workdir))[0] == 'unfinished'
    output = process.communicate(timeout=300)[0]
  finally:
    process.kill()
  assert process.returncode == 0, output
  assert records.read_object(str(workdir / 'result.json'))['step'] == TRAIN_STEPS
  steps = [
    json.loads(line)['step']
    for line in (workdir / 'metrics.jsonl').read_text().splitlines()
    if 'train/loss' in line
  ]
  assert steps == sorted(set(steps)) and steps[-1] == TRAIN_STEPS
  assert cloud.count('queued-resources', 'create', '--spot') == 2
  assert cloud.read('toy') is None
  # On two workers, twice: with the same constraints as everywhere.
  installed = (cloud.folder / 'pip.log').read_text().splitlines()
  assert len(installed) == 4
  for line in installed:
    assert '--constraint launch/constraints.txt' in line and line.endswith('.[tpu,gcs]')
  assert f'the run in {workdir} is finished' in output


@pytest.mark.extended
def test_keep_gets_over_preemptions_at_any_moment(cloud, tmp_path):
  """However they show: in the state of the queued resource, or in that of the TPU VMs only."""
  process = _start(cloud, 'keep', '--', CONFIG, f'--workdir={tmp_path}/run', FAKE_TRAIN=STEPS)
  moments = random.Random(0)
  states = [('SUSPENDED', ''), ('ACTIVE', 'PREEMPTED'), ('FAILED', 'TERMINATED')]
  while process.poll() is None and states:
    time.sleep(moments.uniform(0.1, 1.5))
    if (queue := cloud.read('toy')) and queue['node_state'] == 'READY':
      cloud.preempt('toy', *states.pop())
  output = process.communicate(timeout=120)[0]
  assert process.returncode == 0, output
  assert not states
  assert (tmp_path / 'run' / 'steps').read_text().count('step') == 40
  assert cloud.count('queued-resources create') == 4
  assert cloud.read('toy') is None


@pytest.mark.extended
@pytest.mark.parametrize(
  ('program', 'starts', 'words'),
  [
    ('echo "error: no key sed" >&2; exit 1', 3, 'ended before the run was finished, 3 times'),
    (
      f'{WORKDIR} mkdir -p "$workdir"; echo '
      """'{"status": "diverged", "message": "nan"}' > "$workdir/status.json"; exit 1""",
      1,
      'the run has diverged',
    ),
    ('exit 76', 1, 'a later start has taken'),
  ],
)
def test_keep_gives_up(program, starts, words, cloud, tmp_path):
  """What would happen again does not cost another machine, nor this one for longer."""
  status, output = _run(
    cloud, 'keep', '--', CONFIG, f'--workdir={tmp_path}/run', FAKE_TRAIN=program
  )
  assert status == 1
  assert words in output.splitlines()[-1] and output.splitlines()[-1].startswith('error: ')
  assert ('error: no key sed' in output) == ('sed' in program)
  assert cloud.count('queued-resources create') == 1
  assert cloud.count('tpu_worker.sh start') == starts
  assert cloud.read('toy') is None


@pytest.mark.extended
@pytest.mark.parametrize(('problem', 'words'), [('refuse', 'Quota'), ('cannot_provide', 'FAILED')])
def test_keep_gives_up_requests_that_fail(problem, words, cloud, tmp_path):
  (cloud.folder / problem).touch()
  status, output = _run(cloud, 'keep', '--', CONFIG, f'--workdir={tmp_path}/run')
  assert status == 1 and words in output
  assert 'the request for machines was refused 3 times' in output.splitlines()[-1]
  assert cloud.count('queued-resources create') == 3
  assert cloud.read('toy') is None


@pytest.mark.extended
def test_keep_restarts_when_one_host_dies(cloud, tmp_path):
  """The other is stopped in the end, also if it does not notice."""
  process = _start(cloud, 'keep', '--', CONFIG, f'--workdir={tmp_path}/run', FAKE_TRAIN=STEPS)
  _wait(lambda: cloud.count('tpu_worker.sh status') >= 3)  # once before, two since the start
  assert (tmp_path / 'run' / 'steps').exists()
  cloud.kill('toy', '000')
  output = process.communicate(timeout=60)[0]
  assert process.returncode == 0, output
  assert cloud.count('queued-resources create') == 1
  assert cloud.count('tpu_worker.sh stop') == 1
  assert cloud.count('tpu_worker.sh start') == 2


@pytest.mark.extended
def test_keep_goes_on_watching_after_a_restart_of_its_own(cloud, tmp_path):
  arguments = ('keep', '--', CONFIG, f'--workdir={tmp_path}/run')
  first = _start(cloud, *arguments, FAKE_TRAIN=STEPS)
  _wait((tmp_path / 'run' / 'steps').exists)
  first.terminate()
  assert 'the machines and the training go on, and cost' in first.communicate(timeout=60)[0].lower()
  assert first.returncode == 130
  status, output = _run(cloud, *arguments, FAKE_TRAIN=STEPS)
  assert status == 0, output
  assert cloud.count('tpu_worker.sh start') == 1


@pytest.mark.extended
def test_setup_copies_uncommitted_changes(cloud, tmp_path):
  """Of files that git knows, also while another process of git is at work in the checkout."""
  checkout, git = tmp_path / 'checkout', ['git', '-C', str(tmp_path / 'checkout')]
  subprocess.run(['git', 'clone', '--quiet', str(ROOT), str(checkout)], check=True)
  shutil.copytree(ROOT / 'launch', checkout / 'launch', dirs_exist_ok=True)
  for name in ('README.md', 'added.py', 'unknown.py'):
    (checkout / name).write_text('changed')
  subprocess.run([*git, 'add', 'added.py'], check=True)
  (checkout / 'LICENSE').unlink()
  status = subprocess.run([*git, 'status', '--short'], capture_output=True, check=True).stdout
  (checkout / '.git' / 'index.lock').touch()
  script = checkout / 'launch' / 'tpu.sh'
  _run(cloud, 'create', script=script)
  result, output = _run(cloud, 'setup', script=script)
  assert result == 0 and 'with uncommitted changes' in output, output
  for home in cloud.homes('toy'):
    code = home / 'nfnets_augmult'
    assert (code / 'README.md').read_text() == (code / 'added.py').read_text() == 'changed'
    assert not (code / 'unknown.py').exists() and not (code / 'LICENSE').exists()
  (checkout / '.git' / 'index.lock').unlink()
  assert subprocess.run([*git, 'status', '--short'], capture_output=True).stdout == status


@pytest.mark.extended
def test_single_actions(cloud, tmp_path):
  """As somebody would use them who debugs, with connections that break off."""
  saves = (
    f'{WORKDIR} trap "echo saved; exit 0" TERM; touch "$workdir.started"; '
    'for i in $(seq 600); do sleep 0.1; done'
  )
  train = ('train', '--', CONFIG, f'--workdir={tmp_path}/run')
  assert _run(cloud, 'create')[0] == 0
  (cloud.folder / 'unstable').write_text('1')
  assert _run(cloud, 'status')[1].strip().endswith('waiting (PROVISIONING)')
  status, output = _run(cloud, *train)
  assert status == 1 and 'is it set up there?' in output
  status, output = _run(cloud, 'setup')
  assert status == 0, output
  assert '== ' in _run(cloud, 'status')[1] and _run(cloud, 'status')[1].count(': ready\n') == 2
  (cloud.folder / 'unstable').write_text('2')
  left = pathlib.Path('/tmp/libtpu_lockfile')  # by a process that was killed
  left.touch()
  assert _run(cloud, *train, FAKE_TRAIN=saves)[0] == 0
  assert not left.exists()
  assert _run(cloud, *train, FAKE_TRAIN=saves)[0] == 0  # and starts no second one
  _wait((tmp_path / 'run.started').exists)
  assert _run(cloud, 'status')[1].count(': running\n') == 2
  status, output = _run(cloud, 'stop')
  assert status == 0 and output.count(': ended 0 missing\n') == 2
  logs = _run(cloud, 'logs')[1]
  assert logs.count(': saved\n') == 2
  assert len(re.findall('=== .* train --multi_host', logs)) == 2
  assert _run(cloud, 'delete')[0] == 0
  assert cloud.read('toy') is None and not cloud.homes('toy')


def test_the_scripts_pass_shellcheck():
  scripts = [*sorted((ROOT / 'launch').glob('*.sh')), *(ROOT / 'launch').glob('*.sbatch')]
  scripts += [ROOT / '.ci' / 'run', *sorted(pathlib.Path(__file__).parent.glob('*.sh'))]
  shellcheck = pathlib.Path(sys.executable).parent / 'shellcheck'
  done = subprocess.run(
    [shellcheck, '--external-sources', '--source-path=SCRIPTDIR', *scripts],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stdout
