"""Training with batches made on the devices: the curves of tf.data, resuming, no TensorFlow."""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from nfnets_augmult.runs import settings
from nfnets_augmult.training import feeding, records
from nfnets_augmult.training.checkpoints import Checkpoints
from nfnets_augmult.training.run_log import DivergedError
from nfnets_augmult.training.watch import StopRequested
from tests import session
from tests.toy_runs import assert_same_records, device_config, stop_after, train_run

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module', name='run')
def _run(tmp_path_factory):
  """Runs a config once: (state, records by step)."""

  @functools.cache
  def run(**changes):
    workdir = str(tmp_path_factory.mktemp('run'))
    state, _ = train_run(device_config(**changes), workdir)
    return state, records.read_metrics(os.path.join(workdir, 'metrics.jsonl'))

  return run


@pytest.fixture(name='loops')
def _loops(monkeypatch):
  """Several steps in one program, though that is slow on a CPU."""
  monkeypatch.setattr(feeding, 'loops_are_slow', lambda: False)


def test_trains_as_with_tf_data(run):
  """On eight devices: the same batches on the same devices give the same curves."""
  _, ours = run()
  _, theirs = run(input='tf.data')
  assert_same_records(ours, theirs, rtol=1e-4)
  assert [r['step'] for r in ours if 'train/loss' in r] == [3, 6, 9, 12]
  assert [r['step'] for r in ours if 'test/ema/top_1' in r] == [8, 12]


@pytest.mark.extended
@pytest.mark.long
def test_steps_per_dispatch_change_nothing(run, loops):
  """Events after 3, 5, 6, 8 ... steps split dispatches of four; other splits give equal bits.

  A program of one step rounds otherwise.
  """
  state, ours = run(steps_per_dispatch=4)
  others, _ = run(steps_per_dispatch=4, log_every_steps=2)
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(others), strict=True):
    np.testing.assert_array_equal(a, b)
  assert_same_records(ours, run()[1], rtol=1e-4)


@pytest.mark.parametrize('calls', [1, 4])
def test_a_stopped_run_goes_on_bit_for_bit(run, loops, tmp_path, calls):
  """Stopped between dispatches of four, in the first or just before an evaluation."""
  config = device_config(steps_per_dispatch=4)
  with pytest.raises(StopRequested):
    train_run(config, str(tmp_path), stop_requested=stop_after(calls))
  with Checkpoints(str(tmp_path), read_only=True) as checkpoints:
    assert 0 < checkpoints.latest_step < 12
  resumed, _ = train_run(config, str(tmp_path))
  state, _ = run(steps_per_dispatch=4)
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(resumed), strict=True):
    np.testing.assert_array_equal(a, b)


def test_divergence_inside_a_dispatch_names_its_step(loops, tmp_path):
  """The same step as with one step at a time, and nothing after the last good state is saved."""
  messages = []
  for steps in (1, 6):
    config = device_config(steps_per_dispatch=steps, log_every_steps=100)
    config.optimizer.learning_rate = 1e9
    workdir = str(tmp_path / str(steps))
    with pytest.raises(DivergedError) as error:
      train_run(config, workdir)
    messages.append(str(error.value))
    with Checkpoints(workdir, read_only=True) as checkpoints:
      assert checkpoints.latest_step is None
  assert messages[0] == messages[1]


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'input': 'gpu'}, "input='gpu' must be one of auto, tf.data, device"),
    ({'steps_per_dispatch': 0}, 'steps_per_dispatch=0 must be a whole number from 1'),
    ({'steps_per_dispatch': 2, 'input': 'tf.data'}, "steps_per_dispatch=2 needs input='device'"),
  ],
)
def test_bad_configs_are_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    settings.read(device_config(**changes))


_WITHOUT_TENSORFLOW = """
import sys
sys.modules['tensorflow'] = sys.modules['tensorflow_datasets'] = None  # importing them fails
from nfnets_augmult.runs.evaluating import evaluate
from tests.toy_runs import device_config, train_run
workdir, data_dir = sys.argv[1:]
config = device_config(steps_per_dispatch=4)
config.dataset.name, config.dataset.data_dir = 'arrays', data_dir
config.dataset.test_split = 'test'
_, result = train_run(config, workdir)
means = evaluate(workdir)
assert means['raw']['top_1'] == result['test/raw/top_1']
config.input, config.steps_per_dispatch = 'tf.data', 1  # the crops of arrays are made by NumPy
_, on_host = train_run(config, workdir + '_host')
assert abs(on_host['test/raw/top_1'] - result['test/raw/top_1']) < 0.05
"""


@pytest.mark.extended
def test_arrays_train_without_tensorflow(run, tmp_path):
  """Convert the digits; train and evaluate on one device where TensorFlow cannot be imported."""
  data_dir, workdir = str(tmp_path / 'arrays'), str(tmp_path / 'run')
  config = ['-m', 'nfnets_augmult.convert', '--config=experiments/quickstart_digits.py']
  for command in (
    [*config, '--config.dataset.test_split=test[:64]', f'--output={data_dir}'],
    ['-c', _WITHOUT_TENSORFLOW, workdir, data_dir],
  ):
    done = subprocess.run(
      [sys.executable, *command], cwd=ROOT, env=session.one_device(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
  ours = records.read_metrics(os.path.join(workdir, 'metrics.jsonl'))
  assert_same_records(ours, run()[1], rtol=1e-3)  # eight devices add in another order
  assert os.path.exists(os.path.join(workdir, 'contact_sheet.png'))
