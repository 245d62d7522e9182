"""The numbers of the step benchmark, and that it needs no data and no TensorFlow."""

import pathlib
import statistics
import subprocess
import sys

import jax
import pytest

from benchmarks import machine_limits, step_benchmark
from benchmarks.random_images import random_run
from experiments import cifar100_wrn16_4
from nfnets_augmult.models import make_model, table
from tests import session

pytestmark = pytest.mark.extended

# The batch is that of all simulated devices together.
_DEVICES = jax.local_device_count()


def _run(**changes):
  config = cifar100_wrn16_4.get_config()
  config.model.name = 'wrn_10_1'
  config.dataset.image_size = 16
  config.batch_size = 2 * _DEVICES
  config.update(changes)
  return random_run(config, num_classes=10)


@pytest.fixture(scope='module')
def result():
  return step_benchmark.measure_step(_run(), steps=3, breakdown=True)


def test_times_are_positive_and_consistent(result):
  """Two compile times; the median step lies in the range; what follows from it does."""
  assert result['lower_seconds'] > 0 and result['compile_seconds'] > 0
  assert 0 < result['step_seconds_min'] <= result['step_seconds'] <= result['step_seconds_max']
  step = result['step_seconds']
  assert result['images_per_second'] == pytest.approx(2 * _DEVICES / step)
  assert result['flops_per_second'] == pytest.approx(result['flops_per_step'] / step)
  assert result['update_share'] == pytest.approx(result['update_seconds'] / step)
  assert result['update_seconds'] > 0


def test_flops_are_six_times_the_multiply_adds(result):
  """Two operations per multiply-add, once forward and twice backward, for each image."""
  images = jax.ShapeDtypeStruct((1, 16, 16, 3), 'float32')
  model = make_model('wrn_10_1', num_classes=10)
  multiply_adds = table.count_multiply_adds(
    lambda params, x: model.apply(params, None, x, is_training=False),
    table.abstract_params(model, 16),
    images,
  )
  assert result['flops_per_step'] == 6 * multiply_adds * 2 * _DEVICES
  # The stem alone, by hand: 16 x 16 positions, a 3x3 kernel, 3 channels to 16.
  assert multiply_adds > 16 * 16 * 9 * 3 * 16


def test_memory_holds_the_state(result):
  """Parameters, their average and the momentum are arguments, and the outputs take their place."""
  model = make_model('wrn_10_1', num_classes=10)
  state_bytes = 3 * 4 * table.count_parameters(table.abstract_params(model, 16))
  assert result['argument_bytes'] >= state_bytes
  assert result['output_bytes'] >= state_bytes
  assert result['program_bytes'] <= (
    result['argument_bytes'] + result['output_bytes'] + result['temporary_bytes'] - state_bytes
  )
  assert result['process_peak_bytes'] > 50e6  # Python with JAX is larger than that
  assert result['peak_share'] is None and result['device_peak_bytes'] is None  # on CPU


def test_limits_are_measured(monkeypatch):
  """Of all devices at once: they do 64 operations in 2 s, and each moves 16 bytes in 4 s."""

  def time_product(dtype, *, devices):
    assert dtype == 'float32'
    return {'flops': 64 * len(devices), 'seconds_min': 2.0}

  def time_addition(*, devices):
    return {'bytes': 16 * len(devices), 'seconds_min': 4.0}

  monkeypatch.setattr(machine_limits, 'time_product', time_product)
  monkeypatch.setattr(machine_limits, 'time_addition', time_addition)
  result = step_benchmark.measure_step(_run(), steps=1, limits=True)
  assert result['product_flops_per_second'] == 32 * _DEVICES
  assert result['product_share'] == pytest.approx(result['flops_per_second'] / (32 * _DEVICES))
  assert result['addition_bytes_per_second'] == 4
  parameters = table.count_parameters(
    table.abstract_params(make_model('wrn_10_1', num_classes=10), 16)
  )
  # And the count of steps, read and written.
  assert result['update_bytes'] == 7 * 4 * parameters + 2 * 4


@pytest.mark.parametrize('devices', [None, jax.local_devices()])
def test_operations_and_bytes_of_the_limits(devices):
  """A device does two operations for each of 8^3 multiply-adds, or reads and writes 40 bytes."""
  product = machine_limits.time_product('float32', side=8, sample_seconds=1e-3, devices=devices)
  addition = machine_limits.time_addition(size=40, sample_seconds=1e-3, devices=devices)
  count = len(devices or [0])
  assert (product['flops'], addition['bytes']) == (1024 * count, 80 * count)
  assert product['seconds_min'] > 0 and addition['seconds_min'] > 0


def test_the_step_is_real():
  """Steps change the parameters, their average and the count; updates alone do so too."""
  plain = step_benchmark.prepare_step(_run())
  before = jax.tree.map(lambda leaf: leaf.copy(), plain.state)
  plain.run()
  for name in ('params', 'ema_params'):
    assert any(
      bool((old != new).any())
      for old, new in zip(
        jax.tree.leaves(getattr(before, name)),
        jax.tree.leaves(getattr(plain.state, name)),
        strict=True,
      )
    )
  assert int(plain.state.step[0]) == 1
  assert all(seconds > 0 for seconds in plain.run_updates(2))
  assert int(plain.state.step[0]) == 4  # one update to warm up, and two


def test_bad_arguments_are_named():
  with pytest.raises(ValueError, match='steps=0 must be'):
    step_benchmark.measure_step(_run(), steps=0)
  with pytest.raises(ValueError, match=f'do not divide batch_size={_DEVICES + 1}'):
    step_benchmark.measure_step(_run(batch_size=_DEVICES + 1))


@pytest.mark.parametrize(
  ('device_kind', 'flops'),
  [
    ('TPU v2', 45e12 / 2),  # two cores to a chip
    ('TPU v3', 123e12 / 2),
    ('TPU v4', 275e12),
    ('TPU v5 lite', 197e12),
    ('TPU v5', 459e12),
    ('TPU v5p', 459e12),
    ('TPU v6 lite', 918e12),
    ('NVIDIA A100-SXM4-80GB', 312e12),
    ('NVIDIA H100 80GB HBM3', 989e12),
    ('NVIDIA H200', 989e12),
    ('Tesla V100-SXM2-16GB', 125e12),
    ('NVIDIA H100 PCIe', None),  # slower than SXM; not in the table
    ('cpu', None),
  ],
)
def test_peaks(device_kind, flops):
  found = step_benchmark.peak_flops(device_kind)
  assert found is None if flops is None else found == pytest.approx(flops, rel=1e-3)


def _benchmark(*arguments, statement='None'):
  """Runs the program in a process of its own, then `statement`; one device, as for a user."""
  config = ['--config=experiments/cifar100_wrn16_4.py', '--config.model.name=wrn_10_1']
  code = f"""
import atexit, runpy, sys
sys.argv = {['benchmark', *config, *arguments]!r}
atexit.register(lambda: {statement})
runpy.run_module('benchmarks.step', run_name='__main__')
"""
  return subprocess.run(
    [sys.executable, '-c', code],
    cwd=pathlib.Path(__file__).parents[2],
    env=session.one_device(),
    capture_output=True,
    text=True,
    check=False,
  )


def test_the_program_prints_a_report_without_tensorflow():
  done = _benchmark(
    *('--config.dataset.image_size=8', '--config.batch_size=5', '--config.sam.rho=0.05'),
    *('--num_classes=3', '--steps=2'),
    statement="print('tensorflow' in sys.modules)",
  )
  assert done.returncode == 0, done.stderr
  *lines, has_tensorflow = done.stdout.splitlines()
  assert has_tensorflow == 'False'
  assert 'wrn_10_1, 8 pixels, batch 5, n = 1, float32, SAM of 100%; 1 x' in lines[0]
  names = [line[:14].strip() for line in lines[1:]]
  assert names == ['compile', 'step', 'images/s', 'model FLOP/s', 'memory', 'process peak']
  assert 'median of 2' in lines[2]
  assert 'unknown' in lines[4]


@pytest.mark.parametrize(
  ('argument', 'message'),
  [
    ('--conv_algorithm=native', "the model 'wrn_10_1' has no option conv_algorithm"),
    ('--config.model.remat=True', "the config has no key 'model.remat'"),
  ],
)
def test_bad_flags_are_one_line(argument, message):
  done = _benchmark(argument)
  assert done.returncode == 1
  assert done.stderr.count('\n') == 1 and message in done.stderr


def test_median_is_of_the_steps(monkeypatch):
  """The step to warm up is not among them: 9, then 1, 2, 6 seconds have median 2."""
  seconds = iter([9.0, 1.0, 2.0, 6.0])
  monkeypatch.setattr(step_benchmark.PreparedStep, 'run', lambda self: next(seconds))
  result = step_benchmark.measure_step(_run(), steps=3)
  assert (result['step_seconds_min'], result['step_seconds_max']) == (1.0, 6.0)
  assert result['step_seconds'] == statistics.median([1.0, 2.0, 6.0])
