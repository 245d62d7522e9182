"""The measurement of an accelerator: its parts, its limit of time, and all of it with toy sizes."""

import json
import os
import pathlib
import subprocess
import sys
import time

import chex
import jax
import pytest

from benchmarks import (
  accelerator_convolutions,
  accelerator_page,
  accelerator_parts,
  accelerator_scale,
  accelerator_tests,
  torch_process,
)
from benchmarks.accelerator_scale import TINY
from benchmarks.measured_parts import Parts
from benchmarks.random_images import NUM_CLASSES, random_run
from nfnets_augmult.models import grouped_conv
from nfnets_augmult.ops import compiling

pytestmark = pytest.mark.extended

ROOT = pathlib.Path(__file__).parents[2]


def _parts(folder, *, seconds=1000.0):
  now = time.time()
  return Parts(str(folder), started=now, deadline=now + seconds, pages=accelerator_page.write_pages)


def _refuse():
  raise AssertionError('measured again')


def test_a_part_that_fails_does_not_end_the_others(tmp_path):
  """It is recorded with one line; done once more, nothing is measured again."""
  parts = _parts(tmp_path)

  def fail():
    raise MemoryError('RESOURCE_EXHAUSTED: too large\nmore lines')

  parts.measure('first', 0, fail)
  parts.measure('second', 0, lambda: {'seconds': 3.5})
  again = _parts(tmp_path)
  assert again.parts['first']['status'] == 'failed'
  assert again.parts['first']['message'] == 'MemoryError: RESOURCE_EXHAUSTED: too large'
  assert again.result('second') == {'seconds': 3.5}
  again.measure('first', 0, _refuse)
  again.measure('second', 0, _refuse)
  assert again.parts['first']['message'].startswith('MemoryError')
  again.forget_failed()
  again.measure('first', 0, lambda: 1)
  assert _parts(tmp_path).result('first') == 1


def test_a_part_without_time_is_skipped_and_measured_the_next_time(tmp_path):
  parts = _parts(tmp_path, seconds=10)
  parts.measure('long', 60, _refuse)
  assert '60' in _parts(tmp_path).skipped['long'] and not _parts(tmp_path).is_over('long')
  later = _parts(tmp_path)
  later.measure('long', 60, lambda: 2)
  assert later.result('long') == 2 and not later.skipped


def test_what_a_crash_ended(tmp_path):
  """The part that ran does not count as measured, and others stay."""
  parts = _parts(tmp_path)
  parts.measure('a', 0, lambda: 1)

  def crash():
    found.extend(_parts(tmp_path).interrupted())  # as the process that started this one finds it

  found = []
  parts.measure('b', 0, crash)
  assert found == ['b']
  crashed = _parts(tmp_path)
  assert crashed.result('a') == 1 and not crashed.interrupted()


_MEASURES = (
  accelerator_parts.measure_first,
  accelerator_parts.measure_variants,
  accelerator_convolutions.measure_convolutions,
)


@pytest.fixture(name='measured', scope='module')
def _measured(tmp_path_factory):
  """All parts but the large network and timm, with toy sizes.

  Whole steps are those that other parts compile too, since an NFNet takes long to compile.
  """

  def wide_resnet_run(model, batch_size, variant='default', *, dtype='float32'):
    config = accelerator_parts.wide_resnet_run(TINY, TINY.wide_resnet_batch, 4, 1).config
    return random_run(config, num_classes=NUM_CLASSES)

  folder = tmp_path_factory.mktemp('accelerator')
  parts = _parts(folder)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(accelerator_parts, 'nfnet_run', wide_resnet_run)
    _add_toy_network(patch)
    for measure in _MEASURES:
      measure(parts, TINY)
    before = (folder / 'results.json').read_bytes()
    for measure in _MEASURES:
      measure(_parts(folder), TINY)
  assert (folder / 'results.json').read_bytes() == before, 'the second time does nothing again'
  return parts


def _add_toy_network(patch):
  patch.setattr(accelerator_scale.nfnet, 'VARIANTS', dict(accelerator_scale.nfnet.VARIANTS))
  patch.setattr(accelerator_scale.models, 'MODELS', dict(accelerator_scale.models.MODELS))
  accelerator_scale.add_toy_network()


@pytest.mark.parametrize('variant', accelerator_parts.VARIANTS)
def test_variants_are_runs_of_the_recipe(variant, monkeypatch):
  """Each has the batch and the resolution, and differs in what its name says."""
  _add_toy_network(monkeypatch)
  run = accelerator_parts.nfnet_run('nfnet_toy', 16, variant)
  assert run.settings.batch_size == 16 and run.settings.augmult == 1
  assert run.data.image_shape == (16, 16, 3)
  assert run.settings.compute_dtype == ('float32' if variant == 'float32' else 'bfloat16')
  assert bool(run.settings.sam.rho) == (variant == 'sam')


def test_random_states_are_those_of_the_network(monkeypatch):
  """In their shapes; the gains of branches are one."""
  _add_toy_network(monkeypatch)
  run = accelerator_parts.nfnet_run('nfnet_toy', 16)
  state = run.network.abstract_state
  drawn = accelerator_parts.random_state(run)
  jax.tree.map(lambda a, b: chex.assert_shape(a, b.shape), drawn, state)
  gains = [leaf['skip_gain'] for leaf in drawn.params.values() if 'skip_gain' in leaf]
  assert gains and all(gain == 1 for gain in gains)


def test_every_part_has_a_result(measured):
  assert {name: part.get('message') for name, part in measured.parts.items()} == dict.fromkeys(
    measured.parts
  )
  kinds = {f'convolutions, {kind}' for kind in grouped_conv.KINDS}
  assert {'environment', *kinds, 'batches on the device', 'runs together'} < set(measured.parts)


def test_convolutions_are_chosen_by_time(measured):
  result = accelerator_convolutions.all_convolutions(measured)
  assert {row['kind'] for row in result['rows']} == set(grouped_conv.KINDS)
  for kind, totals in result['totals'].items():
    chosen = result['algorithms'][kind]
    assert totals[chosen] <= 1.04 * min(totals.values())
  entry = json.loads((pathlib.Path(measured.folder) / 'conv_algorithms.json').read_text())
  assert set(entry['cpu']['algorithms']) == set(grouped_conv.KINDS)


def test_steps_have_times_rates_and_memory(measured):
  steps = [p['result'] for p in measured.parts.values() if 'images_per_second' in p['result']]
  assert steps
  for step in steps:
    assert 0 < step['seconds_min'] <= step['seconds'] <= step['seconds_max']
    assert step['images_per_second'] == pytest.approx(step['batch_size'] / step['seconds'])
    assert step['temporary_bytes'] > 0 and step['loss_is_finite']
  # Found in the cache of compiled programs or not: a time to compile is given only if not.
  assert all(step['compile_seconds'] is None or step['compile_seconds'] > 0 for step in steps)


def test_the_page_says_what_and_how(measured):
  page = (pathlib.Path(measured.folder) / 'cpu.md').read_text()
  for title in ('Ceilings', 'Convolutions', 'Steps', 'Memory', 'Batches made', 'Runs that train'):
    assert f'\n## {title}' in page
  assert 'nfnet_toy, default' in page and 'median' in page and 'JAX' in page


def test_the_largest_batch_is_planned(monkeypatch):
  """Temporary memory of 1 GiB a sample and 4 GiB of state: of 94 GiB of 100, 64 samples fit."""
  gib = 2**30
  measured = {'temporary_bytes': 8 * gib, 'program_bytes': 12 * gib, 'batch_size': 8}
  monkeypatch.setattr(accelerator_parts.jax, 'local_device_count', lambda: 1)
  monkeypatch.setattr(accelerator_parts.devices, 'memory_limit', lambda: 100 * gib)
  assert accelerator_parts.largest_batch(measured, most=4096) == 64
  assert accelerator_parts.largest_batch(measured, most=16) == 16


def test_a_convolution_is_compiled_as_the_package_does(monkeypatch):
  """With its options, or another library is measured: one that XLA does not know ends it."""
  convolution = accelerator_convolutions.Convolution((4, 4), (3, 3, 4, 4), stride=1, groups=1)
  shapes = ((2, 4, 4, 4), (3, 3, 4, 4), (2, 4, 4, 4))
  inputs = [jax.ShapeDtypeStruct(shape, 'float32') for shape in shapes]
  monkeypatch.setattr(compiling, 'compiler_options', lambda: {'xla_cpu_no_such_option': 'x'})
  with pytest.raises(jax.errors.JaxRuntimeError, match='xla_cpu_no_such_option'):
    accelerator_convolutions._compile_convolution(convolution, 'native', inputs)


def test_native_stays_unless_another_gains():
  assert accelerator_convolutions._fastest({'native': 1.0, 'split': 0.99}) == 'native'
  assert accelerator_convolutions._fastest({'native': 1.0, 'split': 0.9, 'dense': 0.95}) == 'split'


def test_outcomes_of_tests_are_counted(tmp_path):
  """Those of a real run of pytest, of which one fails."""
  (tmp_path / 'tests').mkdir()
  (tmp_path / 'tests' / 'test_toy.py').write_text(
    'import os\n'
    'def test_platform(): assert os.environ["JAX_PLATFORMS"] == "toy"\n'
    'def test_fails(): assert False\n'
  )
  result = accelerator_tests.run_tests(
    'toy', seconds=100, log=str(tmp_path / 'log'), tests=('tests',), folder=tmp_path
  )
  assert (result['passed'], result['failed'], result['is_complete']) == (1, 1, True)
  assert result['failures'] == ['tests/test_toy.py::test_fails']


def test_torch_answers_and_errors_are_read(tmp_path):
  """A stand-in for an interpreter with PyTorch, which prints other things too."""
  python = tmp_path / 'python'
  python.write_text(
    '#!/bin/sh\necho noise\nread line; echo \'RESULT {"seconds": 2.0}\'\n'
    'read line; echo \'RESULT {"error": "no memory"}\'\n'
  )
  python.chmod(0o755)
  process = torch_process.TorchProcess(str(python), 'torch_steps.py', 'dm_nfnet_f0', 2, 32, 10)
  process.ask('prepare eager')
  assert process.answer() == {'seconds': 2.0}
  process.ask('steps eager 1')
  with pytest.raises(RuntimeError, match='PyTorch: no memory'):
    process.answer()
  with pytest.raises(RuntimeError, match='has ended'):
    process.answer()
  process.end()


def test_the_command_ends_in_time_and_says_what_is_missing(tmp_path):
  """It ends the process that is still starting, and the same folder can be gone on with."""
  start = time.monotonic()
  done = subprocess.run(
    [ROOT / 'launch' / 'measure_accelerator.sh', '0.02', '--tiny', f'--output={tmp_path}'],
    env={**os.environ, 'PYTHON': sys.executable},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert time.monotonic() - start < 60
  assert 'the time was over' in done.stdout
  results = json.loads((tmp_path / 'results.json').read_text())
  assert 'what is left of: convolutions' in results['skipped']


def test_an_interrupt_ends_the_worker_and_fails_no_part(tmp_path):
  """The worker has a session of its own, which a signal to the command does not reach."""
  process = subprocess.Popen(
    [ROOT / 'launch' / 'measure_accelerator.sh', '9', '--tiny', f'--output={tmp_path}'],
    env={**os.environ, 'PYTHON': sys.executable},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )
  deadline = time.monotonic() + 120
  while not (tmp_path / 'results.json').exists():
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.05)
  process.terminate()
  # It closes only when the worker, which has it open too, has ended.
  assert process.communicate(timeout=60)[1].endswith('interrupted\n')
  assert process.returncode == 128 + 15
  parts = json.loads((tmp_path / 'results.json').read_text())['parts']
  assert 'failed' not in [part['status'] for part in parts.values()]
