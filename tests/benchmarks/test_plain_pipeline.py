"""The plain pipeline that the benchmark compares with does what it says."""

import collections

import numpy as np
import pytest

from benchmarks import plain_pipeline
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.data.decoding import ReadOptions
from nfnets_augmult.data.inception_crop import InceptionCrop
from nfnets_augmult.data.loading import load_source
from nfnets_augmult.data.mixing import Mixing
from nfnets_augmult.data.randaugment import RandAugment
from nfnets_augmult.data.sources import ArraySource
from tests import real_images, shared_data

_PHOTOS = real_images.photos(6, 12, 12)
_READ = ReadOptions(image_size=12)
_OFF = Augmentation(crop=CropFlip(pad=0, flip=False))


def _load(kind, folder):
  """The same six photographs in memory or as PNG files."""
  if kind == 'array':
    labels = np.arange(6, dtype=np.int32)
    return ArraySource(_PHOTOS, labels, tuple('abcdef'), 'photos')
  (folder / 'test').mkdir()
  for photo, name in zip(_PHOTOS, 'abcdef', strict=True):
    real_images.save(photo, folder / 'train' / name / '0.png')
  return load_source('folder', split='train', data_dir=str(folder))


@pytest.mark.parametrize('kind', ['array', 'folder'])
def test_plain_pipeline_repeats_each_record(tmp_path, kind):
  """Each record comes n = 4 times in a row, every one once per epoch, in another order."""
  batches = plain_pipeline.plain_batches(
    _load(kind, tmp_path), augmult=4, batch_size=8, augmentation=_OFF, read_options=_READ
  )
  taken = [next(batches) for _ in range(9)]  # 72 samples, 18 records, 3 epochs
  images, labels = (np.concatenate([b[key] for b in taken]) for key in ('image', 'label'))
  np.testing.assert_array_equal(images, _PHOTOS[labels])
  records = labels.reshape(3, 6, 4)
  assert np.all(records == records[..., :1])
  assert np.all(np.sort(records[..., 0], axis=1) == np.arange(6))
  # Shuffled: the chance that all three of the 720 orders are the stored one is 3e-9.
  assert np.any(records[..., 0] != np.arange(6))


def test_plain_pipeline_augments_each_copy_anew():
  """Copies of a record are crops of its padded image, flipped or not, and they differ."""
  batches = plain_pipeline.plain_batches(
    _load('array', None),
    augmult=8,
    batch_size=48,
    augmentation=Augmentation(crop=CropFlip(pad=1, pad_mode='mirror', flip=True)),
    read_options=_READ,
  )
  batch = next(batches)
  padded = np.pad(_PHOTOS, ((0, 0), (1, 1), (1, 1), (0, 0)), mode='reflect')
  kinds = collections.Counter()
  for copy, label in zip(batch['image'], batch['label'], strict=True):
    found = [
      (top, left, flip)
      for top in range(3)
      for left in range(3)
      for flip in (1, -1)
      if np.array_equal(copy, padded[label, top : top + 12, left : left + 12][:, ::flip])
    ]
    assert len(found) == 1
    kinds[found[0]] += 1
  assert len(kinds) > 9  # of 18 kinds, 48 draws; fewer than ten have a chance below 1e-6


@pytest.mark.parametrize('mix_first', [True, False])
def test_plain_pipeline_of_the_nfnet_recipe(mix_first):
  """On real JPEGs it crops, mixes half and half, applies RandAugment, and tells the mixture."""
  source = load_source('imagenet2012', split='validation', data_dir=shared_data.tfds_dir())
  batch = next(
    plain_pipeline.plain_batches(
      source,
      augmult=1,
      batch_size=16,
      augmentation=Augmentation(
        crop=InceptionCrop(),
        mixing=Mixing(mixup=0.5, cutmix=0.5),
        randaugment=RandAugment(layers=1),
        mix_first=mix_first,
      ),
      read_options=ReadOptions(image_size=32),
    )
  )
  assert batch['image'].shape == (16, 32, 32, 3) and batch['image'].dtype == np.uint8
  assert batch['image'].std() > 20
  np.testing.assert_array_equal(batch['partner_label'], batch['label'][::-1])
  assert np.all((batch['mix_weight'] >= 0) & (batch['mix_weight'] <= 1))
  assert np.unique(batch['mix_weight']).size > 8


def test_plain_mixture_by_hand():
  """The first half is the mean with the reversed batch, weighted as told; the second is pasted."""
  augmentation = Augmentation(
    crop=CropFlip(pad=0, flip=False), mixing=Mixing(mixup=0.5, cutmix=0.5)
  )
  batch = next(
    plain_pipeline.plain_batches(
      _load('array', None), augmult=1, batch_size=6, augmentation=augmentation, read_options=_READ
    )
  )
  own, other = _PHOTOS[batch['label']].astype(float), _PHOTOS[batch['partner_label']].astype(float)
  weight = batch['mix_weight'][:, None, None, None]
  blend = weight * own + (1 - weight) * other
  assert np.abs(batch['image'] - blend)[:3].max() <= 0.51
  is_own, is_other = (np.all(batch['image'] == images, axis=-1) for images in (own, other))
  assert np.all((is_own | is_other)[3:])
  np.testing.assert_allclose(is_own[3:].mean(axis=(1, 2)), batch['mix_weight'][3:], atol=0.02)
