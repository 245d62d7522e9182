"""The comparison of input pipelines, and the cost of the parts."""

import numpy as np
import pytest

from nfnets_augmult.analysis import input_benchmark
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.data.decoding import ReadOptions
from nfnets_augmult.data.inception_crop import InceptionCrop
from nfnets_augmult.data.loading import load_source
from nfnets_augmult.data.mixing import Mixing
from nfnets_augmult.data.randaugment import RandAugment
from tests import shared_data

_ALL = Augmentation(
  crop=InceptionCrop(), mixing=Mixing(mixup=1.0), randaugment=RandAugment(layers=1)
)


def _imagenet():
  return load_source('imagenet2012', split='validation', data_dir=shared_data.tfds_dir())


@pytest.mark.parametrize('kind', ['digits', 'imagenet'])
def test_comparison(kind):
  """Every pipeline has a speed; ratios lie between their least and greatest, ours has none."""
  if kind == 'digits':
    source, augmentation = load_source('digits', split='train'), Augmentation(CropFlip(pad=1))
  else:
    source, augmentation = _imagenet(), Augmentation(InceptionCrop())
  table = input_benchmark.compare(
    source,
    augmult=2,
    batch_size=8,
    augmentation=augmentation,
    read_options=ReadOptions(image_size=16),
    seconds=0.03,
  )
  expected = {'ours', 'plain'} | ({'decoding again'} if kind == 'imagenet' else set())
  assert set(table) == expected
  for name, speed in table.items():
    assert speed.images_per_second > 1 and speed.cpu_milliseconds > 0
    if name == 'ours':
      assert speed.ratio is None and speed.cpu_ratio is None
    else:
      median, least, greatest = speed.ratio
      assert 0 < least <= median <= greatest and speed.cpu_ratio > 0


def test_copies_as_images_read_the_same():
  """What 'decoding again' reads are n times the images of the source, in their order."""
  source = _imagenet()
  copies = input_benchmark.CopiesAsImages(source, 3)
  assert copies.num_images == 3 * 64
  for index in (0, 2, 3, 191):
    assert copies.read(index) == source.read(index // 3)
    assert copies.image_name(index) == source.image_name(index // 3)


def test_stages():
  """Every part of the work has a cost, and mixing and RandAugment only where they are on."""
  options = dict(augmult=2, batch_size=8, read_options=ReadOptions(image_size=32))
  parts = input_benchmark.stages(_imagenet(), augmentation=_ALL, **options)
  always = ['reading', 'decoding', 'crop and resize', 'batching']
  assert sorted(parts) == sorted([*always, 'mixing', 'RandAugment'])
  assert all(value > 0 for value in parts.values())
  parts = input_benchmark.stages(_imagenet(), augmentation=Augmentation(InceptionCrop()), **options)
  assert sorted(parts) == sorted(always)


def test_peak_memory_is_that_of_the_process():
  """Touching 64 MiB more than ever before raises the peak by about that."""
  before = input_benchmark.peak_memory_mib()
  held = [np.ones(2**23) for _ in range(int(before // 64) + 2)]
  assert input_benchmark.peak_memory_mib() >= len(held) * 64


def test_random_images():
  """The images of the benchmark are uint8 of the size asked for, and not all the same."""
  source = input_benchmark.random_images(num_images=20, image_size=8)
  assert source.images.shape == (20, 8, 8, 3) and source.images.dtype == np.uint8
  assert source.labels.shape == (20,) and source.labels.dtype == np.int32
  assert len(np.unique(source.images)) > 200
