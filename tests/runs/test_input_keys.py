"""The keys of a config reach the input: batches are those of the pipeline with these options."""

import numpy as np
import pytest

from experiments import nf_resnet50
from nfnets_augmult.data import loading, pipeline
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.decoding import ReadOptions
from nfnets_augmult.data.evaluation_crop import EvaluationCrop
from nfnets_augmult.data.inception_crop import InceptionCrop
from nfnets_augmult.data.mixing import Mixing
from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.data.randaugment import RandAugment
from nfnets_augmult.data.sources import BadDataError
from nfnets_augmult.runs import batches, settings
from nfnets_augmult.runs.run import Run
from tests import real_images, shared_data


@pytest.fixture(scope='module', name='source')
def _source():
  return loading.load_source('imagenet2012', split='validation', data_dir=shared_data.tfds_dir())


def _config():
  """A config without default values."""
  config = nf_resnet50.get_config()
  config.dataset.image_size, config.dataset.test_image_size = 24, 32
  config.dataset.antialias = True
  config.dataset.jpeg_scaling = False
  config.evaluation.crop, config.evaluation.crop_padding = 'resize_then_crop', 8
  config.evaluation.batch_size = 16
  keys = config.augmentation
  keys.flip = False
  keys.inception.area, keys.inception.aspect = (0.2, 0.5), (0.5, 1.0)
  keys.mixup.share, keys.mixup.alpha, keys.cutmix.share = 0.25, 1.0, 0.5
  keys.randaugment.layers, keys.randaugment.magnitude = 1, 15.0
  keys.randaugment.behaviour = 'pil'
  keys.mix_first = False
  return config


def test_training_keys(source):
  """Every key of the augmentation and of the reading."""
  multiplicity = Multiplicity(64, 4, 4, 0)
  ours = next(
    batches.train_batches(settings.read(_config()), source, multiplicity, start_step=0, stop_step=1)
  )
  expected = next(
    pipeline.train_batches(
      source,
      multiplicity,
      augmentation=Augmentation(
        crop=InceptionCrop(area=(0.2, 0.5), aspect=(0.5, 1.0), flip=False),
        mixing=Mixing(mixup=0.25, cutmix=0.5, mixup_alpha=1.0),
        randaugment=RandAugment(layers=1, magnitude=15.0, behaviour='pil'),
        mix_first=False,
      ),
      start_step=0,
      stop_step=1,
      read_options=ReadOptions(image_size=24, jpeg_scaling=False, antialias=True),
    )
  )
  for key, array in expected.items():
    np.testing.assert_array_equal(ours[key], array, err_msg=key)


def test_evaluation_keys(source):
  """The crop, its margin, the test resolution and the reading."""
  ours = next(batches.evaluation_batches(settings.read(_config()), source))
  batch_size = len(ours['image'])
  expected = next(
    pipeline.evaluation_batches(
      source,
      batch_size=batch_size,
      crop=EvaluationCrop('resize_then_crop', 8),
      read_options=ReadOptions(image_size=32, jpeg_scaling=False, antialias=True),
    )
  )
  np.testing.assert_array_equal(ours['image'], expected['image'])


@pytest.mark.parametrize('split', ['train', 'test'])
def test_errors_while_reading_name_keys(tmp_path, split):
  """An image that does not decode raises an error with the key that would skip it."""
  photo = real_images.photos(1, 32, 32)[0]
  for path in ('train/a', 'train/b', 'test/a', 'test/b'):
    real_images.save(photo, tmp_path / path / '0.jpg')
  (tmp_path / split / 'b' / '0.jpg').write_bytes(b'\xff\xd8\xff')
  config = _config()
  config.dataset.name, config.dataset.data_dir = 'folder', str(tmp_path)
  config.augmentation.mixup.share = config.augmentation.cutmix.share = 0.0
  config.dataset.test_split = 'test'
  config.update(batch_size=2, augmult=1)
  run = Run(config)
  if split == 'train':
    made = run.train_batches(0, 1, multiplicity=Multiplicity(2, 2, 1, 0))
  else:
    made = run.evaluation_batches(split)
  with pytest.raises(BadDataError, match=r"b/0\.jpg.* with dataset\.on_bad_image='skip'"):
    next(made)
