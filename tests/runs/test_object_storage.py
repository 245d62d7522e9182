"""Runs whose work directory is in a bucket are those of a local one, whatever happens meanwhile."""

import os
import random
import re
import signal
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from nfnets_augmult.ops import files
from nfnets_augmult.report import writing
from nfnets_augmult.runs import exporting, workdirs
from nfnets_augmult.runs.evaluating import evaluate
from nfnets_augmult.runs.run import Run
from nfnets_augmult.sweep import grid, running
from nfnets_augmult.training import records
from nfnets_augmult.training.checkpoints import CheckpointError, Checkpoints
from nfnets_augmult.training.watch import StopRequested
from nfnets_augmult.weights import param_files
from tests import buckets, toy_runs


def _config():
  return toy_runs.device_config(evaluation__train_images=0)


@pytest.fixture(scope='module', name='bucket')
def _bucket():
  with buckets.in_environment() as bucket:
    yield bucket


@pytest.fixture(scope='module', name='local')
def _local(tmp_path_factory):
  """The work directory of an undisturbed local run."""
  workdir = str(tmp_path_factory.mktemp('local') / 'run')
  toy_runs.train_run(_config(), workdir)
  return workdir


@pytest.fixture(scope='module', name='remote')
def _remote(bucket):
  """One in the bucket, of a run that was stopped twice."""
  workdir = bucket.url('remote/run')
  for calls in (3, 5):
    with pytest.raises(StopRequested):
      toy_runs.train_run(_config(), workdir, stop_requested=toy_runs.stop_after(calls))
  toy_runs.train_run(_config(), workdir)
  return workdir


def _last_params(workdir):
  with Checkpoints(workdir, read_only=True) as checkpoints:
    assert checkpoints.latest_step == 12
    return checkpoints.read_averaged_params()


def _assert_finished_as(workdir, local):
  """Parameters, result and records are those of the local run, bit for bit."""
  for a, b in zip(
    jax.tree.leaves(_last_params(workdir)), jax.tree.leaves(_last_params(local)), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  result, expected = (records.read_json(os.path.join(w, 'result.json')) for w in (workdir, local))
  assert result == expected
  ours, theirs = (
    [r for r in records.read_metrics(os.path.join(w, 'metrics.jsonl')) if 'test/ema/top_1' in r]
    for w in (workdir, local)
  )
  toy_runs.assert_same_records(ours, theirs, rtol=0)


def test_a_run_is_the_same_in_a_bucket(local, remote):
  _assert_finished_as(remote, local)
  names = {name for name in os.listdir(local) if not name.startswith('.')}
  assert names <= set(files.list_dir(remote))
  for name in ('config.json', 'run.json', 'contact_sheet.png'):
    assert files.read(f'{remote}/{name}') == files.read(f'{local}/{name}')
  assert workdirs.finished_result(_config(), remote)['step'] == 12


def test_events_of_all_starts_are_there(remote, tmp_path):
  """Through TensorBoard's own reader: each start wrote a file, and no record is lost."""
  from tensorboard.backend.event_processing import event_accumulator

  folder = f'{remote}/tensorboard'
  assert len(files.list_dir(folder)) == 3
  for name in files.list_dir(folder):
    files.write_whole(tmp_path / name, files.read(f'{folder}/{name}'))
  reader = event_accumulator.EventAccumulator(str(tmp_path))
  reader.Reload()
  recorded = records.read_metrics(f'{remote}/metrics.jsonl')
  steps = {r['step'] for r in recorded if 'train/loss' in r}
  assert {event.step for event in reader.Scalars('train/loss')} == steps


@pytest.mark.parametrize('checkpoint', ['latest', 'best'])
def test_evaluates(local, remote, checkpoint):
  assert evaluate(remote, checkpoint=checkpoint) == evaluate(local, checkpoint=checkpoint)


def test_exports_and_starts_from_an_export(bucket, local, remote, tmp_path):
  outputs = [bucket.url('params.npz'), str(tmp_path / 'params.npz')]
  for output, workdir in zip(outputs, (remote, local), strict=True):
    exporting.export(output, workdir=workdir)
  ours, theirs = (param_files.flatten(param_files.read_params(output)) for output in outputs)
  assert ours.keys() == theirs.keys()
  for name in ours:
    np.testing.assert_array_equal(ours[name], theirs[name])
  for source in (outputs[0], remote):
    config = toy_runs.device_config(init_from=source, seed=1)
    loaded = Run(config).initial_params
    assert param_files.flatten(loaded.params).keys() == ours.keys()


def test_reports(local, remote):
  for workdir in (local, remote):
    writing.write_report(workdir)
  ours, theirs = (files.read(f'{w}/report/summary.csv') for w in (remote, local))
  assert ours == theirs
  assert {*files.list_dir(f'{remote}/report')} == {*os.listdir(f'{local}/report')}


class _Writes:
  """Lets a number of writes to the bucket pass; then something happens at each one."""

  def __init__(self, count, then):
    self._left, self._then = count, then

  def __call__(self, method, path):
    if not buckets.is_write(method):
      return 0
    self._left -= 1
    return self._then() if self._left < 0 else 0


@pytest.mark.parametrize('count', [7, 24, 45])
def test_refused_writes_end_a_run_and_lose_nothing(bucket, local, count):
  """From some write on, the bucket is read-only: as if the run were killed between two writes."""
  workdir = bucket.url(f'refused/{count}')
  with (
    bucket.refusing(_Writes(count, lambda: 403)),
    pytest.raises((CheckpointError, OSError), match=r'Forbidden|403|PERMISSION_DENIED'),
  ):
    toy_runs.train_run(_config(), workdir)
  toy_runs.train_run(_config(), workdir)
  _assert_finished_as(workdir, local)


def test_an_unreachable_bucket_ends_a_run(bucket, local, monkeypatch):
  """All requests are answered 503 from some point on, and pass again later."""

  async def no_sleep(seconds):
    del seconds

  workdir = bucket.url('unreachable')
  with pytest.raises(StopRequested):
    toy_runs.train_run(_config(), workdir, stop_requested=toy_runs.stop_after(6))
  steps = files.list_dir(f'{workdir}/checkpoints')
  monkeypatch.setattr('gcsfs.retry.asyncio', types.SimpleNamespace(sleep=no_sleep))

  def lose_bucket():
    bucket.refuse = lambda method, path: 503
    return False

  with pytest.raises((CheckpointError, OSError), match='503'):
    try:
      toy_runs.train_run(_config(), workdir, stop_requested=lose_bucket)
    finally:
      bucket.refuse = lambda method, path: 0
  monkeypatch.undo()
  assert set(steps) <= set(files.list_dir(f'{workdir}/checkpoints'))
  toy_runs.train_run(_config(), workdir)
  _assert_finished_as(workdir, local)


def test_the_later_of_two_starts_wins(bucket, local):
  """The earlier one ends at its next save, and from then on nothing of it gets there."""
  workdir = bucket.url('two')
  there = []

  def start_another():
    if not there and files.is_dir(f'{workdir}/checkpoints/5'):
      records.Claim(workdir)
      there.append(_contents(workdir))
    return False

  with pytest.raises(records.TakenOverError, match='another process was started in gs://'):
    toy_runs.train_run(_config(), workdir, stop_requested=start_another)
  assert _contents(workdir) == there[0]
  toy_runs.train_run(_config(), workdir)
  _assert_finished_as(workdir, local)


def test_a_checkpoint_of_the_earlier_start_is_not_completed(bucket):
  """The other start comes while the checkpoint is being written."""
  workdir = bucket.url('two_writes')
  run = Run(_config(), workdir)
  state = jax.tree.map(np.asarray, run.network.initial_state())
  claim = records.Claim(workdir)

  def start_another(method, path):
    if buckets.is_write(method) and 'checkpoints%2F1%2F' in path:
      bucket.refuse = lambda method, path: 0
      records.Claim(workdir)
    return 0

  with pytest.raises(records.TakenOverError), Checkpoints(workdir, claim=claim) as checkpoints:  # noqa: SIM117
    with bucket.refusing(start_another):
      checkpoints.save(state._replace(step=np.array(1, np.int32)))
  with Checkpoints(workdir, read_only=True) as checkpoints:
    assert checkpoints.latest_step is None


def _contents(workdir):
  return {
    os.path.join(folder, name): size
    for folder, _, _ in files.walk(workdir)
    for name, size in files.sizes(folder).items()
  }


_TRAIN = """
import json, sys
from tests import toy_runs
from nfnets_augmult.runs import settings
config = toy_runs.device_config(evaluation__train_images=0)
toy_runs.train_run(config, sys.argv[1])
"""


def test_kill_at_any_moment(bucket, local):
  """The process is killed after some of its writes, started again, and killed again."""
  workdir = bucket.url('killed')
  writes = random.Random(0)
  for _ in range(2):
    process = None

    def kill():
      process.send_signal(signal.SIGKILL)  # noqa: B023
      return 403

    with bucket.refusing(_Writes(writes.randint(12, 40), kill)):
      process = subprocess.Popen([sys.executable, '-c', _TRAIN, workdir], stdout=subprocess.DEVNULL)
      assert process.wait(timeout=300) == -signal.SIGKILL
  toy_runs.train_run(_config(), workdir)
  _assert_finished_as(workdir, local)


def test_sweeps(bucket):
  """With a log of its own for each start of a run."""
  sweep = grid.Sweep(
    title='toy',
    base=toy_runs.device_config(total_steps=2, evaluation__train_images=0),
    points=grid.grid({'seed': [0, 1]}),
    expected='',
  )
  workdir = bucket.url('sweep')
  grid.describe(sweep, workdir)
  todo = [[point] for point in sweep.points]
  running.check(sweep, sweep.points, workdir)
  assert running.run_sweep(sweep, todo, workdir).counts == {'finished': 2}
  names = files.list_dir(f'{workdir}/seed=1')
  (log,) = [name for name in names if re.fullmatch(r'log\.\d{8}-\d{6}\.txt', name)]
  assert b'seed=1' in files.read(f'{workdir}/seed=1/{log}')
  assert 'report.md' in {os.path.basename(path) for path in writing.write_report(workdir)}


def test_names_that_buckets_do_not_take(bucket):
  with pytest.raises(ValueError, match='gs:// alone'):
    workdirs.check_workdir(_config(), 's3://bucket/run')
  with pytest.raises(CheckpointError, match=r'may not have one of \* \? \[ \] \\ in its name'):
    Checkpoints(bucket.url('run[1]'))
