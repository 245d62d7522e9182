"""Measurements on the digits, at initialization and at a checkpoint, and the program."""

import json
import pathlib
import runpy
import subprocess
import sys

import numpy as np
import pytest

from nfnets_augmult import configs
from nfnets_augmult.runs import network, settings
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import records
from nfnets_augmult.training.checkpoints import CheckpointError, Checkpoints
from nfnets_augmult.variance import measuring, report
from tests import real_images

pytestmark = pytest.mark.extended

ROOT = pathlib.Path(__file__).parents[2]


def _config(**augmentation):
  get_config = runpy.run_path(str(ROOT / 'experiments/figures/fig9_variance.py'))['get_config']
  config = get_config('tiny')
  config.batch_size = 8
  config.augmentation.update(augmentation)
  return config


@pytest.fixture(scope='module')
def raw():
  return measuring.measure(
    Run(_config()),
    checkpoint='initialization',
    blocks=10,
    images_per_block=16,
    screened_images=64,
    copies=2,
    augmults=(1, 4),
    minibatches=32,
  )


@pytest.mark.long
def test_prediction_and_measurement_agree(raw):
  """Two independent ways to the variance of a mini-batch, for both aggregates."""
  for aggregate in ('total', 'layer_mean'):
    measured = report.measured(raw, aggregate)
    table = report.table(raw, aggregate)
    assert [(m.scheme, m.augmult) for m in measured] == [(t.scheme, t.augmult) for t in table]
    for point, row in zip(measured, table, strict=True):
      assert row.variance.low < point.variance.high
      assert point.variance.low < row.variance.high
      assert point.variance.value == pytest.approx(row.variance.value, rel=0.35)


def test_the_papers_finding(raw):
  """Figure 9: at a fixed batch the variance grows with n; at a growing batch it hardly changes."""
  found = {(m.scheme, m.augmult): m.variance.value for m in report.measured(raw, 'layer_mean')}
  assert found['fixed', 4] > 2 * found['fixed', 1]
  assert found['fixed', 1] == found['growing', 1]  # one and the same batch
  assert 0.5 < found['growing', 4] / found['growing', 1] < 1.5


def test_without_augmentation_its_part_is_zero():
  """Equal copies have equal gradients; with dropout the masks differ, and that counts."""
  config = _config(pad=0)
  arguments = {
    'checkpoint': 'initialization',
    'blocks': 2,
    'images_per_block': 4,
    'screened_images': 16,
    'copies': 2,
  }
  plain = measuring.measure(Run(config), **arguments)
  total = report.components_of(plain, 'total')
  assert total.augmentation_share().value < 1e-9
  assert total.image.mean() > 0
  assert not plain['network_draws']
  config.model.dropout_rate = 0.4
  dropout = measuring.measure(Run(config), **arguments)
  assert dropout['network_draws']
  assert report.components_of(dropout, 'total').augmentation_share().value > 0.01


def test_strong_augmentation_counts_as_augmentation(tmp_path):
  """Inception crops and RandAugment of photographs, each more of the variance than the last."""
  for number, photo in enumerate(real_images.photos(8, 40, 48)):
    for split in ('train', 'test'):
      real_images.save(photo, tmp_path / split / f'class_{number % 2}' / f'{number}.jpg')
  config = _config(pad=0)
  config.dataset.update(name='folder', data_dir=str(tmp_path), image_size=16)
  shares = []
  for crop, layers in (('pad', 0), ('inception', 0), ('inception', 2)):
    config.augmentation.crop = crop
    config.augmentation.randaugment.layers = layers
    found = measuring.measure(
      Run(config), checkpoint='initialization', blocks=2, images_per_block=4, copies=2
    )
    assert np.isfinite(found['augmentation']).all()
    shares.append(report.components_of(found, 'total').augmentation_share().value)
  assert shares[0] < 1e-9
  assert shares[0] < shares[1] < shares[2]


@pytest.mark.parametrize('kind', ['mixup', 'cutmix'])
def test_mixed_samples_are_refused(kind):
  """They belong to two images; the message has both keys."""
  config = _config(**{kind: {'share': 0.5}})
  with pytest.raises(ValueError, match=rf'augmentation\.{kind}\.share=0\.5.*set both keys to 0'):
    measuring.measure(Run(config), checkpoint='initialization')


def test_balanced_classes_are_refused():
  """The estimates are of images that are all drawn equally often."""
  config = _config()
  config.dataset.balance = 'classes'
  with pytest.raises(
    ValueError, match=r"^dataset\.balance='classes': .*say dataset\.balance='none'"
  ):
    measuring.measure(Run(config), checkpoint='initialization')


def test_of_a_run_with_its_own_config_and_drawn_again(tmp_path):
  """From the command line, at a checkpoint; the same tables follow from the raw numbers alone."""
  config = _config()
  config.input = 'device'  # its process need not import TensorFlow
  run = Run(config)
  state, _ = network.first_state(run.network, run.parameters_key)
  state = state._replace(step=np.array(2, np.int32))
  with Checkpoints(str(tmp_path)) as checkpoints:
    checkpoints.save(state)
  records.write_json(str(tmp_path / 'config.json'), configs.flatten(config))
  command = [
    *(sys.executable, '-m', 'nfnets_augmult.variance', f'--workdir={tmp_path}'),
    *('--blocks=2', '--images_per_block=2', '--screened_images=64', '--copies=2'),
    '--augmults=1,2,4',
  ]
  printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
  assert 'step 2;' in printed
  assert 'Fixed batch of 8 samples: n = 4 multiplies the variance by' in printed
  found = json.loads((tmp_path / 'variance.json').read_text())
  assert np.shape(found['raw']['image']) == (2, len(found['raw']['layers']))
  (tmp_path / 'variance.png').unlink()
  report.write(str(tmp_path), report.read_raw(str(tmp_path)))
  assert json.loads((tmp_path / 'variance.json').read_text()) == found
  assert (tmp_path / 'variance.png').read_bytes().startswith(b'\x89PNG')


def test_an_override_without_a_config_file_says_what_it_needs(tmp_path):
  program = [sys.executable, '-m', 'nfnets_augmult.variance', f'--workdir={tmp_path}']
  done = subprocess.run(
    [*program, '--config.augmentation.pad=2'], cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert done.returncode == 1
  assert done.stderr.startswith('error: --config.augmentation.pad=2 overrides a config file')


@pytest.mark.parametrize(
  ('numbers', 'word'),
  [
    ({'copies': 1}, '^copies=1'),
    ({'images_per_block': 800}, r'^images_per_block=800 .* 1437 images'),
    ({'screened_images': 8}, '^screened_images=8 '),
    ({'screened_images': 1438}, '^screened_images=1438 '),
    ({'minibatches': 4}, '^minibatches=4'),
    ({'augmults': (0,)}, '^augmults=0'),
    ({'augmults': (1, 10**7), 'minibatches': 64}, '^augmults=10000000'),
  ],
)
def test_numbers_that_allow_no_estimate_are_refused(numbers, word):
  with pytest.raises(ValueError, match=word):
    measuring.measure(Run(_config()), checkpoint='initialization', **numbers)


def test_a_folder_without_a_run_is_refused(tmp_path):
  with pytest.raises(CheckpointError, match='no checkpoint'):
    measuring.measure(Run(_config(), str(tmp_path)))
  with pytest.raises(ValueError, match=r'no config\.json'):
    Run.open(str(tmp_path))
  together = configs.flatten(_config())
  together.update({'input': 'device', 'runs.seeds': [0, 1]})
  records.write_json(str(tmp_path / 'config.json'), together)
  with pytest.raises(ValueError, match='trained together: give the folder of one of them'):
    Run.open(str(tmp_path))


@pytest.mark.parametrize('arguments', ['', 'small', 'tiny'])
def test_the_configs_of_figure_9(arguments):
  """All are of 16 images and 16 samples, without L2."""
  get_config = runpy.run_path(str(ROOT / 'experiments/figures/fig9_variance.py'))['get_config']
  config = get_config(arguments)
  settings.read(config)
  assert (config.batch_size, config.augmult, config.optimizer.weight_decay) == (16, 1, 0)
  with pytest.raises(ValueError, match='large'):
    get_config('large')
