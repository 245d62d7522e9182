"""Checkpoints and records in a bucket, which a run can lose or share at any moment."""

import itertools
import os
import types

import jax
import numpy as np
import pytest

from nfnets_augmult.ops import files
from nfnets_augmult.training import records
from nfnets_augmult.training.checkpoints import CheckpointError, Checkpoints, has_checkpoint
from tests import buckets
from tests.training import toy

pytestmark = pytest.mark.extended

_STEPS = (1, 2)


@pytest.fixture(scope='module', name='bucket')
def _bucket():
  with buckets.in_environment() as bucket:
    yield bucket


@pytest.fixture(name='workdir')
def _workdir(bucket, request):
  return bucket.url(request.node.name)


@pytest.fixture(scope='module', name='state')
def _state():
  """A function from a step to a state."""
  _, _, first = toy.make()

  def state(step):
    generator = np.random.default_rng(step)
    drawn = jax.tree.map(lambda x: generator.standard_normal(x.shape).astype(x.dtype), first)
    return drawn._replace(step=np.array(step, np.int32))

  return state


def _write_run(workdir, state, steps=_STEPS, claim=None):
  """Does at each step what a run does at an evaluation; each one is the best so far."""
  claim = claim or records.Claim(workdir)
  with Checkpoints(workdir, claim=claim, keep=1, class_names=('a', 'b')) as checkpoints:
    start = checkpoints.latest_step or 0
    recorder = records.Recorder(workdir, resume_step=start, claim=claim)
    try:
      for step in (step for step in steps if step > start):
        recorder.write(step, {'loss': step / 2})
        recorder.upload()
        checkpoints.save(state(step))
        checkpoints.save_if_best(lambda step=step: state(step), step / 10)
    finally:
      recorder.close()


def _assert_whole(workdir, state, step):
  """The newest checkpoint is that of `step`, and the records go at least as far."""
  with Checkpoints(workdir, read_only=True) as checkpoints:
    assert checkpoints.latest_step == step
    restored = checkpoints.restore(state(0))
    for ours, theirs in zip(jax.tree.leaves(restored), jax.tree.leaves(state(step)), strict=True):
      np.testing.assert_array_equal(ours, theirs)
    assert checkpoints.read_class_names() == ('a', 'b')
  steps = [record['step'] for record in records.read_metrics(f'{workdir}/metrics.jsonl')]
  assert steps[:step] == list(range(1, step + 1))


def _committed(workdir):
  """The steps whose checkpoints are whole."""
  folder = f'{workdir}/checkpoints'
  names = files.list_dir(folder) if files.is_dir(folder) else []
  return [int(n) for n in names if files.exists(f'{folder}/{n}/commit_success.txt')]


def test_a_run_in_a_bucket(workdir, state):
  assert not has_checkpoint(workdir)
  _write_run(workdir, state, steps=(1,))
  assert has_checkpoint(workdir)
  _write_run(workdir, state)
  _assert_whole(workdir, state, 2)
  with Checkpoints(f'{workdir}/', read_only=True) as checkpoints:
    assert (checkpoints.best_step, checkpoints.best_metric()) == (2, 0.2)
  assert _committed(workdir) == [2]


def test_loss_of_the_bucket_between_any_two_writes(bucket, workdir, state):
  """From some write on all are refused, as if the run were killed there; then it goes on."""
  count = itertools.count()
  with bucket.refusing(lambda method, path: 0 * (buckets.is_write(method) and next(count))):
    _write_run(f'{workdir}/undisturbed', state)
  num_writes = next(count)
  assert num_writes > 40
  # Their number varies a little with the timing of the background threads.
  for last in np.linspace(2, 0.8 * num_writes, 4).astype(int):
    folder, count = f'{workdir}/{last}', itertools.count()
    refuse = lambda method, path: 403 * (buckets.is_write(method) and next(count) >= last)  # noqa: B023, E731
    with (
      bucket.refusing(refuse),
      pytest.raises((CheckpointError, OSError), match=r'Forbidden|403|PERMISSION_DENIED'),
    ):
      _write_run(folder, state)
    if whole := _committed(folder):
      _assert_whole(folder, state, max(whole))
    _write_run(folder, state)
    _assert_whole(folder, state, 2)


def test_a_bucket_that_cannot_be_reached_for_long(bucket, workdir, state, monkeypatch):
  """The message names the bucket, the status and the checkpoint that is left."""
  _write_run(workdir, state, steps=(1,))

  async def no_sleep(seconds):
    del seconds

  claim = records.Claim(workdir)
  monkeypatch.setattr('gcsfs.retry.asyncio', types.SimpleNamespace(sleep=no_sleep))
  with (
    Checkpoints(workdir, claim=claim) as checkpoints,
    bucket.refusing(lambda method, path: 503),
    pytest.raises(CheckpointError, match=rf'cannot write .* {workdir}.* 503'),
  ):
    checkpoints.save(state(2))
  monkeypatch.undo()
  _assert_whole(workdir, state, 1)
  _write_run(workdir, state)
  _assert_whole(workdir, state, 2)


def test_a_short_failure_is_not_seen(bucket, workdir, state):
  """One request in sixty is refused, of the checkpoints as well as of the records."""
  count = itertools.count(1)
  with bucket.refusing(lambda method, path: 503 * (next(count) % 60 == 0)):
    _write_run(workdir, state)
  _assert_whole(workdir, state, 2)


def _contents(workdir):
  return {
    os.path.join(folder, name): files.read(os.path.join(folder, name))
    for folder, _, names in files.walk(workdir)
    for name in names
  }


def test_the_later_of_two_starts_wins(workdir, state):
  """The earlier one ends at whatever it writes next, and nothing of it gets there."""
  earlier = records.Claim(workdir)
  _write_run(workdir, state, steps=(1,), claim=earlier)
  recorder = records.Recorder(workdir, resume_step=1, claim=earlier)
  with Checkpoints(workdir, claim=earlier) as checkpoints:
    records.Claim(workdir)
    before = _contents(workdir)
    recorder.write(2, {'loss': 1.0})
    for write in (
      recorder.upload,
      lambda: checkpoints.save(state(2)),
      lambda: checkpoints.save_if_best(lambda: state(2), 1.0),
    ):
      with pytest.raises(records.TakenOverError, match=f'another process was started in {workdir}'):
        write()
  recorder.close()
  assert _contents(workdir) == before
  _write_run(workdir, state)
  _assert_whole(workdir, state, 2)


def test_a_checkpoint_of_the_earlier_start_is_not_completed(bucket, workdir, state):
  """The other start comes while the checkpoint is being written."""
  earlier = records.Claim(workdir)
  _write_run(workdir, state, steps=(1,), claim=earlier)

  def start_another(method, path):
    if buckets.is_write(method) and 'checkpoints%2F2%2F' in path:
      bucket.refuse = lambda method, path: 0
      records.Claim(workdir)
    return 0

  with pytest.raises(records.TakenOverError), Checkpoints(workdir, claim=earlier) as checkpoints:
    bucket.refuse = start_another
    checkpoints.save(state(2))
  assert bucket.refuse is not start_another
  assert _committed(workdir) == [1]
  _write_run(workdir, state)
  _assert_whole(workdir, state, 2)


def test_patterns_in_names_are_refused(bucket):
  with pytest.raises(CheckpointError, match=r'may not have one of \* \? \[ \] \\ in its name'):
    Checkpoints(bucket.url('run[1]'))
