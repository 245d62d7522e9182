"""Runs whose work directory is in a bucket are those of a local one, whatever happens meanwhile."""

import itertools
import os
import random
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from nfnets_augmult.ops import files
from nfnets_augmult.report import writing
from nfnets_augmult.runs import assessing, exporting, workdirs
from nfnets_augmult.runs.evaluating import evaluate
from nfnets_augmult.runs.run import Run
from nfnets_augmult.sweep import grid, running
from nfnets_augmult.training import records
from nfnets_augmult.training.checkpoints import Checkpoints
from nfnets_augmult.weights import param_files
from tests import buckets, toy_runs

pytestmark = pytest.mark.extended


def _config():
  return toy_runs.device_config(model__name='wrn_10_1', evaluation__train_images=0)


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


_TRAIN = """
import sys
from tests.runs.test_object_storage import _config
from tests import toy_runs
toy_runs.train_run(_config(), sys.argv[1])
"""


@pytest.fixture(scope='module', name='remote')
def _remote(bucket):
  """One in the bucket, of a run that was killed after some of its writes."""
  workdir = bucket.url('remote/run')
  writes = itertools.count()
  last = random.randint(10, 50)  # while two checkpoints are written

  def kill(method, path):
    if not buckets.is_write(method) or next(writes) < last:
      return 0
    process.kill()
    return 403

  with bucket.refusing(kill):
    process = subprocess.Popen([sys.executable, '-c', _TRAIN, workdir], stdout=subprocess.DEVNULL)
    assert process.wait(timeout=300) == -signal.SIGKILL, last
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


@pytest.mark.long
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
  assert len(files.list_dir(folder)) >= 2
  for name in files.list_dir(folder):
    files.write_whole(tmp_path / name, files.read(f'{folder}/{name}'))
  reader = event_accumulator.EventAccumulator(str(tmp_path))
  reader.Reload()
  recorded = records.read_metrics(f'{remote}/metrics.jsonl')
  steps = {r['step'] for r in recorded if 'train/loss' in r}
  assert {event.step for event in reader.Scalars('train/loss')} == steps


def test_evaluates(local, remote):
  assert evaluate(remote, checkpoint='best') == evaluate(local, checkpoint='best')


def test_a_report_is_written_over_another(local, remote, tmp_path):
  folders = assessing.folder_of(remote), str(tmp_path)
  for workdir, folder in ((remote, folders[0]), (remote, folders[0]), (local, folders[1])):
    evaluate(workdir, report_dir=folder)
  assert sorted(files.list_dir(folders[0])) == sorted(os.listdir(tmp_path))
  for name in ('assessment.json', 'images.csv', 'worst.png'):
    assert files.read(f'{folders[0]}/{name}') == (tmp_path / name).read_bytes()


def test_exports_and_starts_from_an_export(bucket, local, remote, tmp_path):
  outputs = [bucket.url('params.npz'), str(tmp_path / 'params.npz')]
  for output, workdir in zip(outputs, (remote, local), strict=True):
    exporting.export(output, workdir=workdir)
  ours, theirs = (param_files.flatten(param_files.read_params(output)) for output in outputs)
  assert ours.keys() == theirs.keys()
  for name in ours:
    np.testing.assert_array_equal(ours[name], theirs[name])
  for source in (outputs[0], remote):
    config = toy_runs.device_config(model__name='wrn_10_1', init_from=source, seed=1)
    loaded = Run(config).initial_params
    assert param_files.flatten(loaded.params).keys() == ours.keys()


def test_reports(local, remote):
  for workdir in (local, remote):
    writing.write_report(workdir)
  ours, theirs = (files.read(f'{w}/report/summary.csv') for w in (remote, local))
  assert ours == theirs
  assert {*files.list_dir(f'{remote}/report')} == {*os.listdir(f'{local}/report')}


def test_sweeps(bucket):
  """With a log of its own for each start of a run."""
  sweep = grid.Sweep(title='toy', base=_config(), points=grid.grid({'seed': [1]}), expected='')
  workdir = bucket.url('sweep')
  grid.describe(sweep, workdir)
  todo = [[point] for point in sweep.points]
  running.check(sweep, sweep.points, workdir)
  counts = running.run_sweep(sweep, todo, workdir).counts
  assert counts == {'finished': 1}, records.read_status(f'{workdir}/seed=1')
  names = files.list_dir(f'{workdir}/seed=1')
  (log,) = [name for name in names if re.fullmatch(r'log\.\d{8}-\d{6}\.txt', name)]
  assert workdir.encode() in files.read(f'{workdir}/seed=1/{log}')
  assert 'report.md' in {os.path.basename(path) for path in writing.write_report(workdir)}


def test_other_stores_must_be_mounted():
  with pytest.raises(ValueError, match='gs:// alone'):
    workdirs.check_workdir(_config(), 's3://bucket/run')
