"""Runs that train together are the runs one by one: records, results, divergence, resuming."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import quickstart_digits
from nfnets_augmult import assembly, configs, evaluate, many_runs, train
from nfnets_augmult.training import feeding, loop, records
from nfnets_augmult.training.checkpoints import CheckpointError, Checkpoints
from tests.toy_runs import TEST_IMAGES, assert_same_records, device_config, stop_after

_NAMES = ('run_0_0.05', 'run_0_0.1', 'run_3_0.05', 'run_3_0.1')


def _together(**changes):
  config = device_config(steps_per_dispatch=4)
  config.runs.seeds = (0, 3)
  config.runs.learning_rates = (0.05, 0.1)
  config.update(changes)
  return config


@pytest.fixture(scope='module', name='finished')
def _finished(tmp_path_factory):
  """Two seeds with two learning rates that nothing interrupted: (work directory, results)."""
  workdir = str(tmp_path_factory.mktemp('together'))
  return workdir, many_runs.train_together(many_runs.prepare(_together(), workdir))


def _metrics(workdir, name):
  return records.read_metrics(os.path.join(workdir, name, 'metrics.jsonl'))


@pytest.mark.parametrize('name', [_NAMES[0], _NAMES[3]])
def test_each_run_is_the_run_by_itself(finished, name, tmp_path):
  """Records, config, result and final parameters of a run of its own seed and learning rate."""
  workdir, results = finished
  assert tuple(results) == _NAMES
  single = assembly.split_runs(_together())[name]
  state, result = train.train(train.prepare(single, str(tmp_path)))
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
  means = evaluate.evaluate(os.path.join(workdir, name))
  assert means['raw']['top_1'] == pytest.approx(
    results[name]['test/raw/top_1'], abs=2 / TEST_IMAGES
  )


def test_runs_differ(finished):
  """No two of them have the same loss: neither seed nor learning rate is lost on the way."""
  losses = {result['test/raw/cross_entropy'] for result in finished[1].values()}
  assert len(losses) == 4


def test_stopped_runs_go_on_bit_for_bit(finished, tmp_path):
  with pytest.raises(loop.StopRequested):
    many_runs.train_together(
      many_runs.prepare(_together(), str(tmp_path)), stop_requested=stop_after(3)
    )
  results = many_runs.train_together(many_runs.prepare(_together(), str(tmp_path)))
  assert results == finished[1]


def test_a_run_that_diverges_leaves_the_others_alone(finished, tmp_path, monkeypatch):
  """Recorded as diverged, also over a restart; the other does not notice. Dispatches of four."""
  monkeypatch.setattr(feeding, 'loops_are_slow', lambda: False)
  config = _together()
  config.runs.seeds = (0,)
  config.runs.learning_rates = (0.05, 1e9)
  with pytest.raises(loop.StopRequested):
    many_runs.train_together(many_runs.prepare(config, str(tmp_path)), stop_requested=stop_after(3))
  results = many_runs.train_together(many_runs.prepare(config, str(tmp_path)))
  assert results['run_0_1e+09'] is None
  status = records.read_json(str(tmp_path / 'run_0_1e+09' / 'status.json'))
  assert status['status'] == 'diverged'
  assert 'of step' in status['message']
  assert not (tmp_path / 'run_0_1e+09' / 'result.json').exists()
  ours, theirs = (_metrics(path, _NAMES[0]) for path in (str(tmp_path), finished[0]))
  assert_same_records(ours, theirs, rtol=2e-3)


def test_that_all_diverge_is_an_error(tmp_path):
  config = _together()
  config.runs.seeds, config.runs.learning_rates = (0, 1), (1e9,)
  with pytest.raises(loop.DivergedError, match=r'all runs diverged: run_0_1e\+09: the .* of step'):
    many_runs.train_together(many_runs.prepare(config, str(tmp_path)))


def test_runs_that_differ_little_keep_their_names_apart():
  config = _together()
  config.runs.learning_rates = (0.1234567, 0.12345678, 1.0)
  assert len(assembly.split_runs(config)) == 6
  assert 'run_3_1' in assembly.split_runs(config)


def test_progress_is_that_of_a_run_that_goes_on(tmp_path, caplog):
  """If the first run diverges the next one is shown, by its name; the plan is that of both."""
  config = _together(log_every_steps=2)
  config.runs.seeds = (0,)
  config.runs.learning_rates = (1e9, 0.05)
  with caplog.at_level('INFO', logger='absl'):
    many_runs.train_together(many_runs.prepare(config, str(tmp_path)))
  assert 'run_0_0.05: step 12 of 12' in caplog.text
  assert 'run_0_0.05: step 12, epoch' in caplog.text


def test_the_plan_names_all_learning_rates(tmp_path, capsys):
  many_runs._describe(many_runs.prepare(_together(), str(tmp_path)))
  printed = ' '.join(capsys.readouterr().out.split())
  assert 'learning rate 0.05, 0.1 (peaks)' in printed
  assert f'work directory {tmp_path} ' in printed


def test_other_programs_say_whose_folder_they_need(finished):
  workdir, _ = finished
  with pytest.raises(ValueError, match=r'trained together; give .* such as .*run_0_0.05'):
    evaluate.evaluate(workdir)
  with (
    Checkpoints(workdir, read_only=True) as checkpoints,
    pytest.raises(CheckpointError, match='trained together'),
  ):
    checkpoints.read_averaged_params()


def test_two_hosts_train_together(tmp_path):
  """Two processes of one device each: the results of this one with eight, and both end well."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  changes = {
    'total_steps': 4,
    'runs.seeds': (0, 3),
    'evaluation.train_images': 0,
    'optimizer.warmup_steps': 0,
    'optimizer.learning_rate': 0.1,
  }
  config = device_config(**{key.replace('.', '__'): value for key, value in changes.items()})
  plain = configs.flatten(quickstart_digits.get_config())
  overrides = [
    f'--config.{key}={tuple(value) if isinstance(value, list) else value}'
    for key, value in configs.flatten(config).items()
    if value != plain[key]
  ]
  environment = {**os.environ, 'XLA_FLAGS': '--xla_backend_optimization_level=0'}
  hosts = [
    subprocess.Popen(
      [
        *(sys.executable, '-m', 'nfnets_augmult.train'),
        *('--config=experiments/quickstart_digits.py', *overrides, f'--workdir={tmp_path / "two"}'),
        *('--multi_host', f'--coordinator={address}', '--num_hosts=2', f'--host_index={index}'),
      ],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for index in (0, 1)
  ]
  first, second = (host.communicate(timeout=300)[0] for host in hosts)
  assert [host.returncode for host in hosts] == [0, 0], f'{first}\n{second}'
  assert 'run_3_0.1: finished after 4 steps' in first
  assert 'finished' not in second and 'diverged' not in second
  ours = records.read_json(str(tmp_path / 'two' / 'result.json'))
  theirs = many_runs.train_together(many_runs.prepare(config, str(tmp_path / 'one')))
  for name in ('run_0_0.1', 'run_3_0.1'):
    assert ours[name]['test/raw/cross_entropy'] == pytest.approx(
      theirs[name]['test/raw/cross_entropy'], rel=1e-4
    )


def test_what_cannot_train_together_is_refused():
  with pytest.raises(ValueError, match=r"runs.seeds=\(0, 3\) .* only with input='device'"):
    assembly.check(_together(input='tf.data', steps_per_dispatch=1))
  config = _together()
  config.runs.seeds = (1, 1)
  with pytest.raises(ValueError, match=r'runs.seeds=\(1, 1\) names a value twice'):
    assembly.check(config)
  config.runs.seeds = (0, 0.5)
  with pytest.raises(ValueError, match=r'runs.seeds=\(0, 0.5\): seed=0.5 must be a whole number'):
    assembly.check(config)
  config.runs.seeds, config.runs.learning_rates = (1,), (0.1, -1.0)
  with pytest.raises(
    ValueError, match=r'runs.learning_rates=\(0.1, -1.0\): optimizer.learning_rate=-1.0'
  ):
    assembly.check(config)
