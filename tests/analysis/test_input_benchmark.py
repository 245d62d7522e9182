"""The plain pipeline of the benchmark, and the comparison with it."""

import collections

import numpy as np
import pytest

from nfnets_augmult.analysis import input_benchmark
from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.data.loading import load_source
from nfnets_augmult.data.sources import ArraySource
from tests import real_images

_PHOTOS = real_images.photos(6, 12, 12)
_OFF = CropFlip(pad=0, flip=False)


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
  batches = input_benchmark.plain_batches(
    _load(kind, tmp_path), augmult=4, batch_size=8, augmentation=_OFF, image_size=12
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
  batches = input_benchmark.plain_batches(
    _load('array', None),
    augmult=8,
    batch_size=48,
    augmentation=CropFlip(pad=1, pad_mode='mirror', flip=True),
    image_size=0,
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


def test_comparison_is_of_positive_speeds():
  """For each n the row has both speeds, and the ratios lie between their least and greatest."""
  source = load_source('digits', split='train')
  rows = input_benchmark.compare(
    source, augmults=(1, 4), batch_size=32, augmentation=CropFlip(pad=1), seconds=0.03
  )
  assert [row['augmult'] for row in rows] == [1, 4]
  for row in rows:
    assert row['images_per_second'] > 100
    assert row['plain_images_per_second'] > 100
    assert 0 < row['ratio_min'] <= row['ratio'] <= row['ratio_max']


def test_random_images():
  """The images of the benchmark are uint8 of the size asked for, and not all the same."""
  source = input_benchmark.random_images(num_images=20, image_size=8)
  assert source.images.shape == (20, 8, 8, 3) and source.images.dtype == np.uint8
  assert source.labels.shape == (20,) and source.labels.dtype == np.int32
  assert len(np.unique(source.images)) > 200
