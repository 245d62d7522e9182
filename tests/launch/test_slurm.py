"""`launch/slurm.sbatch` with stand-ins for SLURM's commands, and on a real SLURM of one machine."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from nfnets_augmult.training import records
from tests import session
from tests.launch.toy_flags import STEPS, toy_flags

pytestmark = pytest.mark.extended

ROOT = pathlib.Path(__file__).parent.parent.parent
SCRIPT = ROOT / 'launch' / 'slurm.sbatch'
CLUSTER = pathlib.Path(__file__).parent / 'slurm_cluster.sh'


def _wait(condition, seconds=900):
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline, 'waited too long'
    time.sleep(0.05)


@pytest.fixture(name='start')
def _start(tmp_path):
  """A function that starts the script as a job, with a task of the given text in bash."""
  folder = tmp_path / 'bin'
  folder.mkdir()

  def start(task, *flags, job_state='RUNNING', **variables):
    for name, text in {
      'srun': f'echo $$ > {tmp_path}/task; echo start >> {tmp_path}/starts\n{task}',
      'scancel': f'[ "$*" = "--signal=TERM 7" ] && kill -TERM $(cat {tmp_path}/task)',
      'scontrol': f'[ "$1" = requeue ] && echo "requeued $2" || echo JobState={job_state} X=1',
    }.items():
      (folder / name).write_text(f'#!/bin/bash\nw={tmp_path}/run; mkdir -p $w\n{text}\n')
      (folder / name).chmod(0o755)
    return subprocess.Popen(
      ['bash', str(SCRIPT), *flags],
      cwd=ROOT,
      env={
        **os.environ,
        'PATH': f'{folder}:{os.environ["PATH"]}',
        'PYTHON': sys.executable,
        'SLURM_JOB_ID': '7',
        **variables,
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  return start


@pytest.mark.parametrize(
  ('flags', 'variables', 'words'),
  [
    ((), {}, 'say where the run is kept'),
    (('--workdir=x', 'y'), {}, 'y is no flag'),
    (('--workdir=x',), {'SLURM_JOB_ID': ''}, 'start this with sbatch'),
    (('--workdir=x',), {'PYTHON': 'nowhere/python'}, 'there is no nowhere/python'),
  ],
)
def test_wrong_flags(flags, variables, words, start, tmp_path):
  process = start('exit 0', *flags, **variables)
  output = process.communicate(timeout=60)[0]
  assert process.returncode == 1
  assert output.startswith('error: ') and words in output
  assert not (tmp_path / 'starts').exists()


@pytest.mark.parametrize(
  ('task', 'status', 'starts', 'words'),
  [
    ("echo '{}' > $w/result.json", 0, 1, 'the run is finished'),
    (
      """echo '{"status": "diverged", "message": ""}' > $w/status.json; exit 1""",
      *(1, 1, 'the run has diverged'),
    ),
    ('exit 1', 1, 3, 'before the run was finished, 3 times in a row'),
    ('exit 76', 1, 1, 'a later start has taken'),
  ],
  ids=['finished', 'diverged', 'failed', 'taken over'],
)
def test_ends_of_jobs(task, status, starts, words, start, tmp_path):
  process = start(task, f'--workdir={tmp_path}/run')
  output = process.communicate(timeout=60)[0]
  assert process.returncode == status, output
  assert words in output and 'requeued' not in output
  assert (tmp_path / 'starts').read_text().count('start') == starts


@pytest.mark.parametrize('job_state', ['RUNNING', 'CANCELLED'])
def test_a_signal_saves_and_requeues_jobs_that_are_not_cancelled(job_state, start, tmp_path):
  task = "trap 'sleep 0.3; echo saved; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
  process = start(task, f'--workdir={tmp_path}/run', job_state=job_state)
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(signal.SIGTERM)
  output = process.communicate(timeout=60)[0]
  assert process.returncode == 0
  assert 'saved\n' in output and 'exit status 0, the run is missing' in output
  assert ('requeued 7' in output) == (job_state == 'RUNNING')


@pytest.mark.parametrize(
  ('variables', 'devices'),
  [
    ({'SLURM_NTASKS_PER_NODE': '1', 'SLURM_GPUS_ON_NODE': '4'}, '0,1,2,3'),
    ({'SLURM_NTASKS_PER_NODE': '4', 'SLURM_GPUS_ON_NODE': '4'}, ''),
    ({}, ''),
  ],
)
def test_gpus_of_each_process(variables, devices, start, tmp_path):
  """All of the node for one process per node, else what JAX chooses: one for each."""
  task = 'echo "devices: $JAX_LOCAL_DEVICE_IDS"; echo \'{}\' > $w/result.json'
  output = start(task, f'--workdir={tmp_path}/run', **variables).communicate(timeout=60)[0]
  assert f'devices: {devices}\n' in output


@pytest.mark.skipif(
  not all(map(shutil.which, ('slurmctld', 'slurmd', 'sbatch', 'munged'))) or os.geteuid() != 0,
  reason="needs root and Debian's slurmctld, slurmd, slurm-client, munge",
)
def test_two_tasks_on_a_real_slurm(tmp_path):
  """Told to stop after their first checkpoint, as before the end of their time; then requeued."""
  workdir, checkpoints = tmp_path / 'run', tmp_path / 'run' / 'checkpoints'
  variables = {
    **session.one_device(),
    'SLURM_CONF': f'{tmp_path}/slurm/slurm.conf',
    'PYTHON': sys.executable,
  }

  def call(*command):
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True).stdout

  def is_job(state):
    found = re.search(r'JobState=(\w+)', call('scontrol', 'show', 'job', job))[1]
    assert found in ('PENDING', 'RUNNING', 'COMPLETING', 'COMPLETED'), found
    return found == state

  cluster = subprocess.Popen([str(CLUSTER), f'{tmp_path}/slurm'])
  try:
    _wait(lambda: 'idle' in call('sinfo', '--noheader', '--format=%T'))
    job = call(
      *('sbatch', '--parsable', '--ntasks-per-node=2', f'--output={tmp_path}/job.out'),
      *(str(SCRIPT), f'--workdir={workdir}', *toy_flags()),
    ).strip()
    _wait(lambda: checkpoints.exists() and any(p.name.isdigit() for p in checkpoints.iterdir()))
    call('scancel', '--signal=TERM', '--batch', job)
    _wait(lambda: is_job('PENDING'))
    assert records.read_status(str(workdir))[0] == 'unfinished'
    # By itself it waits for two minutes. A node refuses a job in the second in which it has ended.
    call('scontrol', 'update', f'JobId={job}', 'StartTime=now+3')
    _wait(lambda: is_job('COMPLETED'))
    output = (tmp_path / 'job.out').read_text()
    assert output.count('exit status 0, the run is unfinished') == 1
    assert output.count('exit status 0, the run is finished') == 1
    assert records.read_object(str(workdir / 'result.json'))['step'] == STEPS
  finally:
    with contextlib.suppress(OSError):
      print((tmp_path / 'job.out').read_text())
    call('scancel', '--full', '--user=root')
    with contextlib.suppress(AssertionError):  # the tasks would outlive the cluster
      _wait(lambda: not call('squeue', '--noheader'), seconds=60)
    cluster.terminate()
    cluster.wait()
