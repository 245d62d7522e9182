"""Runs of a group are the runs one by one: records, results, divergence, resuming."""

import os

import jax
import numpy as np
import pytest

from nfnets_augmult.runs import summary, training
from nfnets_augmult.runs.evaluating import evaluate
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import feeding, records
from nfnets_augmult.training.checkpoints import CheckpointError, Checkpoints
from nfnets_augmult.training.run_log import DivergedError
from nfnets_augmult.training.watch import StopRequested
from tests.toy_runs import (
  TEST_IMAGES,
  assert_same_records,
  device_config,
  stop_after,
  toy_config,
  train_run,
)

pytestmark = pytest.mark.extended

_SEEDS, _RATES = (0, 3), (0.05, 0.1)
_NAMES = ('run_0_0.05', 'run_0_0.1', 'run_3_0.05', 'run_3_0.1')


def _config(seed, learning_rate, **changes):
  return device_config(
    steps_per_dispatch=4, seed=seed, optimizer__learning_rate=learning_rate, **changes
  )


def _prepare(workdir, seeds=_SEEDS, learning_rates=_RATES, **changes):
  """Every seed with every learning rate, each in a folder of its own."""
  group = os.path.join(workdir, 'group')
  return [
    Run(_config(seed, rate, **changes), os.path.join(workdir, f'run_{seed}_{rate:g}')).prepare(
      checkpoint_dir=group
    )
    for seed in seeds
    for rate in learning_rates
  ], group


def _train(runs_and_folder, **options):
  """The results by the names of the folders."""
  runs, folder = runs_and_folder
  results = training.train(runs, folder, **options).results
  return {os.path.basename(run.workdir): result for run, result in zip(runs, results, strict=True)}


@pytest.fixture(scope='module', name='finished')
def _finished(tmp_path_factory):
  """Two seeds with two learning rates that nothing interrupted: (work directory, results)."""
  workdir = str(tmp_path_factory.mktemp('together'))
  return workdir, _train(_prepare(workdir))


def _metrics(workdir, name):
  return records.read_metrics(os.path.join(workdir, name, 'metrics.jsonl'))


@pytest.mark.parametrize(('seed', 'learning_rate'), [(0, 0.05), (3, 0.1)])
def test_each_run_is_the_run_by_itself(finished, seed, learning_rate, tmp_path):
  """Records, config, result and final parameters of a run of its own seed and learning rate."""
  workdir, results = finished
  assert tuple(results) == _NAMES
  name = f'run_{seed}_{learning_rate:g}'
  state, result = train_run(_config(seed, learning_rate), str(tmp_path))
  assert_same_records(_metrics(workdir, name), _metrics(str(tmp_path), ''), rtol=2e-3)
  assert result['step'] == results[name]['step'] == 12
  for file in ('config.json', 'run.json'):
    ours, theirs = (
      records.read_json(os.path.join(p, file)) for p in (f'{workdir}/{name}', tmp_path)
    )
    assert ours == theirs
  with Checkpoints(os.path.join(workdir, name), read_only=True) as checkpoints:
    ours = checkpoints.restore(jax.tree.map(np.asarray, state))
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(state), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
  means = evaluate(os.path.join(workdir, name))
  assert means['raw']['top_1'] == pytest.approx(
    results[name]['test/raw/top_1'], abs=2 / TEST_IMAGES
  )


@pytest.mark.long
def test_runs_differ(finished):
  """No two of them have the same loss: both seed and learning rate matter."""
  losses = {result['test/raw/cross_entropy'] for result in finished[1].values()}
  assert len(losses) == 4


def test_stopped_runs_go_on_bit_for_bit(finished, tmp_path):
  with pytest.raises(StopRequested):
    _train(_prepare(str(tmp_path)), stop_requested=stop_after(3))
  assert _train(_prepare(str(tmp_path))) == finished[1]


def test_a_run_that_diverges_leaves_the_others_alone(finished, tmp_path, monkeypatch):
  """It is recorded as diverged, also over a restart. With dispatches of four steps."""
  monkeypatch.setattr(feeding, 'loops_are_slow', lambda: False)
  runs = {'seeds': (0,), 'learning_rates': (0.05, 1e9)}
  with pytest.raises(StopRequested):
    _train(_prepare(str(tmp_path), **runs), stop_requested=stop_after(3))
  results = _train(_prepare(str(tmp_path), **runs))
  assert results['run_0_1e+09'] is None
  status = records.read_json(str(tmp_path / 'run_0_1e+09' / 'status.json'))
  assert status['status'] == 'diverged'
  assert 'of step' in status['message']
  assert not (tmp_path / 'run_0_1e+09' / 'result.json').exists()
  ours, theirs = (_metrics(path, _NAMES[0]) for path in (str(tmp_path), finished[0]))
  assert_same_records(ours, theirs, rtol=2e-3)


def test_what_came_after_the_checkpoint_is_forgotten(tmp_path):
  """A run that diverged before the first checkpoint is one to resume, not one that is done."""
  runs, _ = prepared = _prepare(str(tmp_path), (0,))
  for run in runs:
    records.write_status(run.workdir, 'diverged', 'at a step that was not saved')
  with pytest.raises(StopRequested):
    _train(prepared, stop_requested=stop_after(1))
  assert [records.read_status(run.workdir)[0] for run in runs] == ['unfinished'] * 2


def test_divergence_of_all_runs_is_an_error(tmp_path):
  """Also where they had diverged before this start."""
  runs = {'seeds': (0, 1), 'learning_rates': (1e9,)}
  for _ in range(2):
    with pytest.raises(DivergedError, match=r'all runs diverged: run_0_1e\+09: the .* of step'):
      _train(_prepare(str(tmp_path), **runs))


def test_progress_is_that_of_a_run_that_has_not_diverged(tmp_path, caplog):
  """If the first run diverges, the next one is shown, by its name."""
  with caplog.at_level('INFO', logger='absl'):
    _train(_prepare(str(tmp_path), (0,), (1e9, 0.05), log_every_steps=2))
  assert 'run_0_0.05: step 12 of 12' in caplog.text
  assert 'run_0_0.05: step 12, epoch' in caplog.text


def test_the_plan_names_all_runs_and_learning_rates(tmp_path):
  runs, folder = _prepare(str(tmp_path))
  text = ' '.join(summary.plan_text(runs, folder).split())
  assert 'learning rate 0.05, 0.1 (peaks)' in text
  assert 'temperature 0.2, 0.4 = learning rate x n' in text
  assert f'work directory {folder} ' in text
  assert f'4 in one program: {", ".join(_NAMES)}' in text


def test_other_programs_ask_for_the_folder_of_a_run(finished):
  with (
    Checkpoints(os.path.join(finished[0], 'group'), read_only=True) as checkpoints,
    pytest.raises(CheckpointError, match='trained together'),
  ):
    checkpoints.read_averaged_params()


def test_runs_that_cannot_form_a_group_are_refused():
  """Runs that differ in more than seed and learning rate, and batches made on the host."""
  training.check_group(
    [Run(device_config(seed=1)), Run(device_config(optimizer__learning_rate=3.0))]
  )
  with pytest.raises(ValueError, match=r'these differ in augmult \(4 there, 2 now\)'):
    training.check_group([Run(device_config()), Run(device_config(augmult=2, seed=1))])
  with pytest.raises(ValueError, match="only with input='device'"):
    training.check_group([Run(toy_config()), Run(toy_config(seed=1))])
