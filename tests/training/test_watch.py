"""What watches training: records of each run, divergence, what is saved, one display."""

import math
import time

import jax
import numpy as np
import pytest

from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.training import devices, groups
from nfnets_augmult.training.plan import Cadence, Plan
from nfnets_augmult.training.run_log import BEST_BY, DivergedError, RunLog
from nfnets_augmult.training.watch import StopRequested, Watch
from tests.training import toy

_PLAN = Plan(Multiplicity(100, 4, 2, seed=0), 8, 0.1, cadence=Cadence(log=2, save=4, evaluate=4))


class _Recorder:
  """Keeps what is written."""

  is_taken_over = False

  def __init__(self):
    self.records, self.uploads = [], 0

  def write(self, step, values):
    self.records.append({'step': step, **values})

  def has(self, step, name):
    return any(record['step'] == step and name in record for record in self.records)

  def best(self, name):
    return max((record[name] for record in self.records if name in record), default=None)

  def upload(self):
    self.uploads += 1


class _Checkpoints:
  """Keeps the steps at which something was saved."""

  def __init__(self):
    self.saved, self.best = [], []

  def save(self, state):
    self.saved.append(int(state.step))

  def has(self, step):
    return step in self.saved

  def save_if_best(self, make_state, metric):
    self.best.append((int(make_state().step), metric))

  def wait(self):
    pass


def _watch(num_runs, **options):
  """A watch on so many runs, their recorders, and its checkpoints."""
  recorders = options.pop('recorders', None) or [_Recorder() for _ in range(num_runs)]
  checkpoints = _Checkpoints()
  _, evaluation_step, _ = toy.make()
  names = [f'run{index}' if num_runs > 1 else '' for index in range(num_runs)]
  watch = Watch(
    [RunLog(_PLAN, recorder, name=name) for recorder, name in zip(recorders, names, strict=True)],
    plan=_PLAN,
    evaluation_step=evaluation_step,
    evaluation_batches={'test': lambda: iter([toy.batch(16)])},
    checkpoints=checkpoints,
    stop_requested=options.pop('stop_requested', lambda: False),
    **options,
  )
  return watch, recorders, checkpoints


def _state(num_runs, *, step=0, diverged_at=()):
  _, _, state = toy.make()
  state = state._replace(step=np.int32(step))
  if num_runs == 1:
    return jax.device_get(state)
  group = jax.device_get(groups.stack_states([state] * num_runs))
  at = np.zeros(num_runs, np.int32)
  at[: len(diverged_at)] = diverged_at
  return group._replace(step=np.int32(step), diverged_at=at)


def _metrics(*losses):
  """Of one step of so many runs, as the devices return them."""
  values = np.squeeze(np.array(losses, np.float32))
  names = ('loss', 'accuracy', 'gradient_norm', 'learning_rate')
  return devices.replicate({name: values for name in names})


def test_means_since_the_last_record_of_each_run():
  """Every two steps; temperature is learning rate x n."""
  watch, recorders, _ = _watch(2)
  watch.start(_state(2))
  for step in range(4):
    watch.consume_metrics(step, step + 1, _metrics(step, 10.0 * step))
  watch.save(devices.replicate(_state(2, step=4)))  # looks at all of them
  for recorder, scale in zip(recorders, (1, 10), strict=True):
    assert [r['step'] for r in recorder.records] == [2, 4]
    assert [r['train/loss'] for r in recorder.records] == [0.5 * scale, 2.5 * scale]
    assert [r['temperature'] for r in recorder.records] == [2 * scale, 6 * scale]
    assert recorder.records[1]['epoch'] == pytest.approx(0.16)


def test_several_steps_of_a_dispatch_are_told_apart():
  """Of K = 3 entries those past the end do not count."""
  watch, (recorder,), _ = _watch(1)
  watch.start(_state(1))
  names = ('loss', 'accuracy', 'gradient_norm', 'learning_rate')
  values = np.array([1.0, 3.0, np.nan], np.float32)
  watch.consume_metrics(0, 2, devices.replicate({name: values for name in names}))
  assert [(r['step'], r['train/loss']) for r in recorder.records] == [(2, 2.0)]


def test_speeds_are_those_of_the_devices(monkeypatch):
  """Metrics are looked at two dispatches late, and the last three at once before a save.

  Each dispatch of two steps of 8 samples is done a second after the one before it; the save comes
  96 seconds later.
  """
  now = [0.0]
  monkeypatch.setattr(time, 'monotonic', lambda: now[0])
  monkeypatch.setattr(devices, 'max_steps_in_flight', lambda: 2)
  watch, (recorder,), _ = _watch(1)
  watch.start(_state(1))
  for number in range(4):
    now[0] = 1.0 + number
    values = np.ones(2, np.float32)
    metrics = {key: values for key in ('loss', 'accuracy', 'gradient_norm', 'learning_rate')}
    metrics = jax.block_until_ready(devices.replicate(metrics))
    watch.consume_metrics(2 * number, 2 * number + 2, metrics)
  now[0] = 100.0
  watch.save(devices.replicate(_state(1, step=8)))
  assert [record['images_per_second'] for record in recorder.records] == [16.0] * 4


def test_a_single_run_that_diverges_is_the_error():
  """With the facts; losses that are not finite are null, and what came before is recorded."""
  told = []
  watch, (recorder,), checkpoints = _watch(
    1, on_divergence=lambda index, error: told.append((index, error))
  )
  watch.start(_state(1))
  watch.consume_metrics(0, 1, _metrics(2.0))
  with pytest.raises(DivergedError, match=r'the loss of step 2 is inf.* last 2 losses: 2, inf'):
    watch.consume_metrics(1, 2, _metrics(math.inf))
    watch.save(devices.replicate(_state(1, step=2)))
  ((index, error),) = told
  assert index == 0
  assert error.facts == {'step': 2, 'last_losses': [2.0, None], 'learning_rate': math.inf}
  assert recorder.records[-1]['train/loss'] == 2.0
  assert not checkpoints.saved


def test_a_run_of_a_group_diverges_alone_until_none_is_left():
  told = []
  watch, recorders, _ = _watch(2, on_divergence=lambda index, _: told.append(index))
  watch.start(_state(2))
  watch.consume_metrics(0, 1, _metrics(1.0, 1.0))
  watch.consume_metrics(1, 2, _metrics(math.nan, 3.0))
  watch.save(devices.replicate(_state(2, step=2)))
  assert told == [0]
  assert [index for index, _ in watch.active_runs()] == [1]
  assert recorders[1].records[-1]['train/loss'] == 2.0
  with pytest.raises(DivergedError, match=r'all runs diverged: run0: .* step 2 .* run1: '):
    watch.consume_metrics(2, 3, _metrics(math.nan, math.nan))
    watch.save(devices.replicate(_state(2, step=3)))
  assert told == [0, 1]


def test_what_had_diverged_before_this_start_stays_out():
  watch, recorders, _ = _watch(2)
  watch.start(_state(2, step=4, diverged_at=(3,)))
  watch.consume_metrics(4, 5, _metrics(math.nan, 1.0))
  watch.consume_metrics(5, 6, _metrics(math.nan, 1.0))
  watch.save(devices.replicate(_state(2, step=6, diverged_at=(3,))))
  assert [len(recorder.records) for recorder in recorders] == [0, 1]
  watch, _, _ = _watch(2)
  with pytest.raises(DivergedError, match='all runs diverged: run0 at step 3; run1 at step 4'):
    watch.start(_state(2, step=4, diverged_at=(3, 4)))


def test_parameters_that_are_not_finite_are_never_saved():
  watch, _, checkpoints = _watch(1)
  state = _state(1, step=1)
  watch.start(state)
  watch.save(devices.replicate(state))
  bad = _state(1, step=2)
  bad = bad._replace(ema_params=jax.tree.map(lambda leaf: leaf * np.nan, bad.ema_params))
  with pytest.raises(DivergedError, match='the parameters after step 2 are not finite'):
    watch.save(devices.replicate(bad))
  assert checkpoints.saved == [1]


def test_records_are_uploaded_before_the_checkpoint_that_has_their_steps(monkeypatch):
  """A run that resumes from it would lack them otherwise."""
  watch, (recorder,), checkpoints = _watch(1)
  state = _state(1, step=1)
  watch.start(state)
  uploads_before = []
  monkeypatch.setattr(checkpoints, 'save', lambda state: uploads_before.append(recorder.uploads))
  watch.save(devices.replicate(state))
  assert uploads_before == [1]


@pytest.mark.parametrize('num_runs', [1, 3])
def test_evaluations_are_recorded_for_each_run(num_runs):
  """The best of a single run is kept; a group keeps none."""
  watch, recorders, checkpoints = _watch(num_runs)
  state = _state(num_runs, step=4)
  watch.start(state)
  assert not watch.is_evaluated(4)
  watch.evaluate(4, devices.replicate(state))
  assert watch.is_evaluated(4)
  for recorder in recorders:
    (record,) = recorder.records
    assert record['test/raw/count'] == 16
    assert record['test/raw/top_1'] == record[BEST_BY]
  expected = [(4, recorders[0].records[0][BEST_BY])] if num_runs == 1 else []
  assert checkpoints.best == expected


def test_a_state_is_copied_once(monkeypatch):
  """For the checkpoint and the best one together; a state that was saved before not at all."""
  copied = []
  copy = devices.copy_to_host
  monkeypatch.setattr(devices, 'copy_to_host', lambda tree: copied.append(1) or copy(tree))
  watch, _, checkpoints = _watch(1)
  watch.start(_state(1, step=4))
  state = devices.replicate(_state(1, step=4))
  watch.evaluate(4, state, saved=watch.save(state))
  assert checkpoints.saved == [step for step, _ in checkpoints.best] == [4]
  assert len(copied) == 1
  assert watch.save(state) is None
  assert len(copied) == 1


def test_other_hosts_hold_no_copy(monkeypatch):
  """Arrays of the shapes and types of the state, each of a single number."""
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  watch, _, checkpoints = _watch(1)
  watch.start(_state(1, step=4))
  saved = watch.save(devices.replicate(_state(1, step=4)))
  assert checkpoints.saved == [4]
  for ours, theirs in zip(*map(jax.tree.leaves, (saved, _state(1, step=4))), strict=True):
    assert (ours.shape, ours.dtype) == (np.shape(theirs), theirs.dtype)
    assert not any(ours.strides)


def test_a_run_that_was_taken_over_is_to_stop():
  """Saving then raises the error, on all of several hosts."""
  watch, recorders, _ = _watch(2)
  assert not watch.is_stopping()
  recorders[1].is_taken_over = True
  assert watch.is_stopping()


def test_an_evaluation_is_due_when_the_minutes_have_passed(monkeypatch):
  """Since the first step, and then since the end of the last one; never without the setting."""
  now = [100.0]
  monkeypatch.setattr(time, 'monotonic', lambda: now[0])
  watch, _, _ = _watch(1, evaluate_every_seconds=60.0)
  never, _, _ = _watch(1)
  state = _state(1, step=4)
  for each in (watch, never):
    each.start(state)
  now[0] = 150.0  # after compilation
  watch.consume_metrics(4, 5, _metrics(1.0))
  now[0] = 209.0
  assert not watch.is_evaluation_due()
  now[0] = 210.0
  assert watch.is_evaluation_due()
  now[0] = 250.0  # when it is over
  watch.evaluate(4, devices.replicate(state))
  now[0] = 309.0
  assert not watch.is_evaluation_due()
  now[0] = 310.0
  assert watch.is_evaluation_due()
  assert not never.is_evaluation_due()


def test_only_the_first_host_looks_at_its_clock(monkeypatch):
  """The others follow its vote, which `Votes` counts."""
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  watch, _, _ = _watch(1, evaluate_every_seconds=1e-9)
  watch.start(_state(1, step=4))
  assert not watch.is_evaluation_due()


def test_the_best_accuracy_is_displayed(caplog):
  """That of the best evaluation, also of one before this start, not of the last."""
  watch, (recorder,), _ = _watch(1)
  recorder.write(2, {BEST_BY: 0.875})
  watch, _, _ = _watch(1, recorders=[recorder])
  state = _state(1, step=4)
  with caplog.at_level('INFO', logger='absl'):
    watch.start(state)
    watch.evaluate(4, devices.replicate(state))
    watch.consume_metrics(4, 5, _metrics(1.0))
    watch.consume_metrics(5, 6, _metrics(1.0))
    watch.save(devices.replicate(_state(1, step=6)))
  assert recorder.records[1][BEST_BY] < 0.875
  assert 'best test accuracy 87.50 %' in caplog.records[-1].getMessage()


def test_a_stop_is_obeyed_between_the_batches_of_an_evaluation():
  watch, (recorder,), _ = _watch(1, stop_requested=lambda: True)
  state = _state(1, step=4)
  watch.start(state)
  assert watch.is_stopping()
  with pytest.raises(StopRequested):
    watch.evaluate(4, devices.replicate(state))
  assert not recorder.records


def test_one_display_shows_the_first_run_that_goes_on(caplog):
  watch, _, _ = _watch(2)
  with caplog.at_level('INFO', logger='absl'):
    watch.start(_state(2))
    for step, losses in enumerate([(1.0, 2.0), (1.0, 2.0), (math.nan, 2.0), (math.nan, 2.0)]):
      watch.consume_metrics(step, step + 1, _metrics(*losses))
    watch.save(devices.replicate(_state(2, step=4)))
  lines = [record.getMessage() for record in caplog.records]
  assert [line.split(':')[0] for line in lines] == ['run0', 'run1']
  assert 'step 2 of 8: loss 1.0000' in lines[0] and 'step 4 of 8: loss 2.0000' in lines[1]
