"""Every key of a config arrives in the settings under its own name."""

import dataclasses

import jax.numpy as jnp
import pytest

from nfnets_augmult import configs
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.data.evaluation_crop import EvaluationCrop
from nfnets_augmult.data.image_formats import DecodeRules
from nfnets_augmult.data.inception_crop import InceptionCrop
from nfnets_augmult.data.mixing import Mixing
from nfnets_augmult.data.randaugment import RandAugment
from nfnets_augmult.data.read_options import ReadOptions
from nfnets_augmult.data.table_source import TableOptions
from nfnets_augmult.runs import settings

_VALUES = {
  'seed': 11,
  'augmult': 4,
  'unique_images_per_batch': 6,
  'placement': 'neighbouring',
  'total_steps': 123,
  'dataset.name': 'folder',
  'dataset.data_dir': '/photos',
  'dataset.train_split': 'one',
  'dataset.test_split': 'two',
  'dataset.balance': 'classes',
  'dataset.csv.path_column': 'photo',
  'dataset.csv.label_column': 'species',
  'dataset.csv.split_column': 'fold',
  'dataset.csv.group_column': 'tree',
  'dataset.csv.image_dir': 'images',
  'dataset.csv.test_fraction': 0.3,
  'dataset.image_size': 24,
  'dataset.test_image_size': 32,
  'dataset.on_bad_image': 'skip',
  'dataset.jpeg_scaling': False,
  'dataset.apply_orientation': False,
  'dataset.max_pixels': 1234,
  'dataset.antialias': True,
  'dataset.canvas': (50, 40),
  'dataset.allow_download': True,
  'augmentation.crop': 'inception',
  'augmentation.flip': False,
  'augmentation.inception.area': (0.2, 0.5),
  'augmentation.inception.aspect': (0.5, 1.0),
  'augmentation.mixup.share': 0.25,
  'augmentation.mixup.alpha': 0.75,
  'augmentation.cutmix.share': 0.5,
  'augmentation.randaugment.layers': 3,
  'augmentation.randaugment.magnitude': 7.0,
  'augmentation.randaugment.behaviour': 'pil',
  'augmentation.mix_first': False,
  'model.name': 'wrn_10_1',
  'model.dropout_rate': 0.4,
  'dropout_masks': 2,
  'init_from': '/start.npz',
  'freeze': 'stem, stage_1',
  'freeze_steps': 66,
  'unfreeze': 'gradually',
  'compute_dtype': 'bfloat16',
  'label_smoothing': 0.125,
  'ema_decay': 0.875,
  'optimizer.learning_rate': 0.5,
  'optimizer.schedule': 'cosine',
  'optimizer.warmup_steps': 5,
  'sam.rho': 0.0625,
  'sam.ascent_fraction': 0.375,
  'sam.synchronize': True,
  'evaluation.every_epochs': 2.5,
  'evaluation.every_minutes': 12.5,
  'evaluation.batch_size': 77,
  'evaluation.train_images': 88,
  'evaluation.crop': 'resize_then_crop',
  'evaluation.crop_padding': 9,
  'checkpoint.every_steps': 55,
  'checkpoint.keep': 3,
  'log_every_steps': 7,
}


def _config(**changes):
  config = configs.default_config()
  config.update_from_flattened_dict({**_VALUES, **changes})
  return config


def test_every_key_arrives():
  """No two keys have the same value, so that none can stand in for another."""
  found = settings.read(_config())
  options = ReadOptions(24, 'skip', False, True, DecodeRules(False, 1234))
  expected = {
    'seed': 11,
    'batch_size': 6,
    'unique_images_per_batch': 6,
    'augmult': 4,
    'placement': 'neighbouring',
    'is_batch_size_fixed': False,
    'total_epochs': 0.0,
    'total_steps': 123,
    'dataset': settings.Dataset(
      name='folder',
      data_dir='/photos',
      allow_download=True,
      train_split='one',
      test_split='two',
      table_options=TableOptions('photo', 'species', 'fold', 'tree', 'images', 0.3),
      balance='classes',
      train_options=options,
      test_options=dataclasses.replace(options, image_size=32),
      evaluation_crop=EvaluationCrop('resize_then_crop', 9),
      canvas=(40, 50),
      is_cached=False,
    ),
    'augmentation': Augmentation(
      crop=InceptionCrop(area=(0.2, 0.5), aspect=(0.5, 1.0), flip=False),
      mixing=Mixing(mixup=0.25, cutmix=0.5, mixup_alpha=0.75),
      randaugment=RandAugment(layers=3, magnitude=7.0, behaviour='pil'),
      mix_first=False,
    ),
    'input': 'tf.data',
    'steps_per_dispatch': 1,
    'model_name': 'wrn_10_1',
    'init_from': '/start.npz',
    'freeze': ('stem', 'stage_1'),
    'freeze_steps': 66,
    'unfreeze': 'gradually',
    'compute_dtype': 'bfloat16',
    'dropout_masks': 2,
    'label_smoothing': 0.125,
    'ema_decay': 0.875,
    'learning_rate': 0.5,
    'schedule': 'cosine',
    'warmup_steps': 5,
    'sam': settings.Sam(rho=0.0625, ascent_fraction=0.375, synchronize=True),
    'evaluate_every_epochs': 2.5,
    'evaluate_every_minutes': 12.5,
    'evaluation_batch_size': 77,
    'evaluated_train_images': 88,
    'save_every_steps': 55,
    'keep_checkpoints': 3,
    'log_every_steps': 7,
  }
  # Two are functions: the model is tested by its parameters, the optimiser by an update.
  names = {field.name for field in dataclasses.fields(found)}
  assert names - expected.keys() == {'make_model', 'optimizer'}
  assert {name: getattr(found, name) for name in expected} == expected


def test_keys_of_the_optimizer_arrive():
  """Of one weight 2 with gradient 1: L2, momentum, Nesterov, and clipping by the norm."""
  weight = {'conv': {'w': jnp.full((1, 1), 2.0)}}

  def direction(**keys):
    changes = {f'optimizer.{key}': value for key, value in keys.items()}
    changes |= {'freeze': '', 'freeze_steps': 0, 'unfreeze': 'at_once'}
    optimizer = settings.read(_config(**changes)).optimizer
    state = optimizer.init(weight)
    for _ in range(2):
      update, state = optimizer.update({'conv': {'w': jnp.ones((1, 1))}}, state, weight)
    return float(update['conv']['w'][0, 0])

  plain = {'momentum': 0.5, 'weight_decay': 0.0}
  assert direction(**plain) == pytest.approx(1.5)
  assert direction(**plain, nesterov=True) == pytest.approx(1.75)
  assert direction(momentum=0.5, weight_decay=0.25) == pytest.approx(1.5 * 1.5)
  assert direction(**plain, clipping=0.25) == pytest.approx(1.5 * 0.5)
  assert direction(**plain, clipping=0.25, clipping_eps=3.0) == pytest.approx(1.5 * 0.75)


def test_keys_of_pad_and_device_input_arrive():
  """The fixed batch: B is stated, and U follows."""
  changes = {key: configs.flatten(configs.default_config())[key] for key in _VALUES if 'mi' in key}
  changes |= {
    'augmentation.crop': 'pad',
    'augmentation.pad': 3,
    'augmentation.pad_mode': 'constant',
    'augmentation.randaugment.layers': 0,
    'augmentation.mixup.share': 0.0,
    'augmentation.cutmix.share': 0.0,
    'placement': 'within',
    'batch_size': 24,
    'unique_images_per_batch': 0,
    'input': 'device',
    'dataset.cache': 'host',
    'steps_per_dispatch': 9,
  }
  found = settings.read(_config(**changes))
  assert found.augmentation.crop == CropFlip(pad=3, pad_mode='constant', flip=False)
  assert (found.is_device_input, found.steps_per_dispatch) == (True, 9)
  assert found.dataset.is_cached
  assert (found.batch_size, found.unique_images_per_batch, found.augmult) == (24, 6, 4)
  assert found.is_batch_size_fixed
  assert found.needs_tensorflow  # to decode the files of a folder


@pytest.mark.parametrize(('backend', 'expected'), [('cpu', False), ('gpu', True), ('tpu', True)])
def test_auto_makes_batches_on_accelerators(monkeypatch, backend, expected):
  found = settings.read(_config(input='auto', steps_per_dispatch=1))
  monkeypatch.setattr(settings.jax, 'default_backend', lambda: backend)
  assert found.is_device_input == expected
  assert not settings.read(_config(input='tf.data', steps_per_dispatch=1)).is_device_input


@pytest.mark.parametrize(
  ('crop', 'size', 'test_size', 'padding'),
  [
    ('pad', 32, 0, 0),  # whole squares, as in training
    ('pad', 224, 0, 0),
    ('inception', 32, 0, 4),  # not 32, which would leave a quarter of the image
    ('inception', 64, 0, 9),
    ('inception', 192, 256, 32),  # NFNet-F0, as published
    ('inception', 224, 0, 32),
    ('inception', 544, 0, 32),
  ],
)
def test_the_padding_of_the_evaluation_crop_fits_the_resolution(crop, size, test_size, padding):
  changes = {
    'augmentation.crop': crop,
    'dataset.image_size': size,
    'dataset.test_image_size': test_size,
    'evaluation.crop_padding': None,
  }
  assert settings.read(_config(**changes)).dataset.evaluation_crop.padding == padding


@pytest.mark.parametrize(
  ('crop', 'size', 'differs'),
  [('inception', 256, False), ('pad', 0, False), ('inception', 64, True), ('pad', 64, True)],
)
def test_runs_of_earlier_versions_had_a_padding_of_32(crop, size, differs):
  """They go on where it means the same."""
  ours = configs.flatten(configs.default_config())
  ours.update({'augmentation.crop': crop, 'dataset.image_size': size})
  theirs = {**ours, 'evaluation.crop_padding': 32}
  found = configs.differences(ours, theirs)
  if size:  # before there was such a key
    del theirs['evaluation.crop_padding']
    assert configs.differences(ours, theirs) == found
  assert [text.split(' ')[0] for text in found] == ['evaluation.crop_padding'] * differs


@pytest.mark.parametrize(
  ('changes', 'expected'),
  [
    ({}, False),
    ({'input': 'device'}, False),
    ({'augmentation.randaugment.layers': 1}, True),
    ({'augmentation.mixup.share': 0.5}, True),
    ({'augmentation.crop': 'inception'}, True),
    ({'dataset.name': 'folder'}, True),
    ({'dataset.name': 'folder', 'input': 'device'}, True),
    ({'augmentation.mixup.share': 0.5, 'input': 'device'}, False),
    ({'augmentation.randaugment.layers': 1, 'input': 'device'}, True),
    ({'dataset.name': 'cifar10'}, True),
  ],
)
def test_tensorflow_is_needed_for(changes, expected):
  """Encoded images, and more augmentation than the crop of arrays."""
  start = {
    'dataset.name': 'digits',
    'augmentation.crop': 'pad',
    'augmentation.randaugment.layers': 0,
    'augmentation.mixup.share': 0.0,
    'augmentation.cutmix.share': 0.0,
    'placement': 'within',
    'input': 'tf.data',
    'steps_per_dispatch': 1,
  }
  assert settings.read(_config(**start | changes)).needs_tensorflow == expected
