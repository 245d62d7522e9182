"""The plan of memory is that of XLA for the step, and the table follows from it."""

import json
import subprocess
import sys

import jax
import pytest

from benchmarks import memory_plan
from experiments import cifar100_wrn16_4
from nfnets_augmult.ops import compiling

pytestmark = pytest.mark.extended


def _config():
  config = cifar100_wrn16_4.get_config()
  config.model.name = 'wrn_10_1'
  config.dataset.image_size = 8
  config.sam.rho, config.sam.ascent_fraction = 0.05, 0.2
  return config


@pytest.fixture(scope='module', name='record')
def _record():
  return memory_plan.measure(_config(), jax.local_devices()[0], batch_sizes=(8, 16))


def test_plans_are_those_of_one_device(record):
  """The whole batch is on it; each image costs at least its pixels; nothing is negative."""
  assert record['model'] == 'wrn_10_1' and record['image_size'] == 8
  small, large = record['programs']
  assert large - small >= 8 * 8 * 8 * 3
  assert record['bytes_per_image'] == (large - small) / 8
  assert record['fixed_bytes'] + 16 * record['bytes_per_image'] == pytest.approx(large)
  # Parameters, momentum and average are arguments.
  kept = sum(record['replicated'][name] for name in ('parameters', 'optimizer', 'average'))
  assert small > kept
  assert record['replicated']['perturbed parameters'] == record['replicated']['parameters']


def test_a_plan_is_of_a_step_as_it_is_compiled(monkeypatch):
  """With the options of the package: one that XLA does not know ends it."""
  monkeypatch.setattr(compiling, 'compiler_options', lambda: {'xla_cpu_no_such_option': 'x'})
  with pytest.raises(jax.errors.JaxRuntimeError, match='xla_cpu_no_such_option'):
    memory_plan.measure(_config(), jax.devices()[0], batch_sizes=(2, 4))


def test_estimate_counts_what_must_be_kept(record):
  """Of this network, by hand: the results of its convolutions and the means, in float32."""
  estimate = memory_plan.estimate(_config(), 'TPU')
  same = ('model', 'image_size', 'compute_dtype', 'remat', 'scan_blocks', 'replicated')
  assert all(estimate[key] == record[key] for key in same)
  pixels = 64 * 16 + 64 * 2 * 16 + 16 * 3 * 32 + 4 * 3 * 64  # stem, and stages with shortcuts
  kept = estimate['bytes_per_image'] / memory_plan.PLANNED_OVER_KEPT['TPU']
  assert 4 * pixels <= kept < 1.3 * 4 * pixels
  parts = record['replicated']
  assert estimate['fixed_bytes'] == sum(parts.values()) + parts['parameters']


@pytest.mark.parametrize(('available', 'expected'), [(99, 0), (100, 0), (129, 2), (130, 3)])
def test_largest_batch(available, expected):
  """By the straight line, rounded down, and never negative."""
  assert (
    memory_plan.largest_batch({'fixed_bytes': 100, 'bytes_per_image': 10}, available) == expected
  )


@pytest.mark.parametrize(('device', 'maker'), [('TPU v5 lite', 'TPU'), ('NVIDIA H200', 'NVIDIA')])
def test_table_has_a_row_for_each_record(device, maker, record):
  """Its batches are those of `largest_batch`, on devices of the same maker."""
  record = record | {'device': device}
  header, _, row, other = memory_plan.table([record, record | {'remat': True}]).splitlines()
  cells = [cell.strip() for cell in row.strip('|').split('|')]
  assert cells[:2] == ['wrn_10_1', '8'] and other.startswith('| wrn_10_1, remat |')
  names = [cell.strip() for cell in header.strip('|').split('|')]
  for name, gib in memory_plan.DEVICE_GIB[maker].items():
    assert cells[names.index(name)] == f'{memory_plan.largest_batch(record, gib * 2**30):,}'
  assert len(names) == 5 + len(memory_plan.DEVICE_GIB[maker])


def test_program_prints_the_table_of_a_file(record, tmp_path):
  """And a wrong flag is one line."""
  file = tmp_path / 'records.json'
  file.write_text(json.dumps([record]))
  command = [sys.executable, '-m', 'benchmarks.memory', f'--records={file}']
  shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
  assert shown.strip() == memory_plan.table([record])
  wrong = [*command, '--config=experiments/cifar100_wrn16_4.py', '--batch_sizes=16,8']
  ended = subprocess.run(wrong, capture_output=True, text=True)
  assert ended.returncode == 1 and ended.stderr.startswith('error: --batch_sizes=')


def test_topology_without_its_library(monkeypatch):
  """One message that says what is missing."""
  from jax.experimental import topologies

  def fail(**unused):
    raise RuntimeError('no libtpu here')

  monkeypatch.setattr(topologies, 'get_topology_desc', fail)
  with pytest.raises(ValueError, match=r"topology='v5e:2x2': no libtpu here; it takes the package"):
    memory_plan.tpu_device('v5e:2x2')
