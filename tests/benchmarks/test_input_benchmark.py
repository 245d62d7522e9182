"""The comparison of input pipelines, and the cost of the parts."""

import numpy as np
import pytest

from benchmarks import input_benchmark
from benchmarks.random_images import random_run
from experiments import cifar100_wrn16_4, nf_resnet50, nfnet, quickstart_digits
from nfnets_augmult.runs.run import Run
from tests import shared_data

pytestmark = pytest.mark.extended


def _imagenet(config=None, **changes):
  """A run on the ImageNet sample, crops of 16 pixels in batches of 8."""
  config = config or nf_resnet50.get_config()
  config.dataset.data_dir = shared_data.tfds_dir()
  config.dataset.train_split = 'validation'
  config.dataset.image_size = 16
  config.batch_size = 8
  config.augmult = 2
  config.update(changes)
  return Run(config)


def _digits():
  config = quickstart_digits.get_config()
  config.batch_size = 8
  config.unique_images_per_batch = 0
  return Run(config)


@pytest.mark.parametrize('kind', ['digits', 'imagenet'])
def test_comparison(kind):
  """Every pipeline has a speed; ratios lie between their least and greatest, ours has none."""
  run = _digits() if kind == 'digits' else _imagenet()
  table = input_benchmark.compare(run, augmult=2, seconds=0.03)
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
  source = _imagenet().data.train
  copies = input_benchmark.CopiesAsImages(source, 3)
  assert copies.num_images == 3 * 64
  for index in (0, 2, 3, 191):
    assert copies.read(index) == source.read(index // 3)
    assert copies.image_name(index) == source.image_name(index // 3)


def test_stages():
  """Every part of the work has a cost, and mixing and RandAugment only where they are on."""
  run = _imagenet(nfnet.get_config())
  assert input_benchmark.has_stages(run)
  parts = input_benchmark.stages(run, augmult=2)
  always = ['reading', 'decoding', 'crop and resize', 'batching']
  assert sorted(parts) == sorted([*always, 'mixing', 'RandAugment'])
  assert all(value > 0 for value in parts.values())
  assert sorted(input_benchmark.stages(_imagenet(), augmult=2)) == sorted(always)
  assert not input_benchmark.has_stages(_digits())


def test_peak_memory_is_that_of_the_process():
  """Touching 64 MiB more than ever before raises the peak by about that."""
  before = input_benchmark.peak_memory_mib()
  held = [np.ones(2**23) for _ in range(int(before // 64) + 2)]
  assert input_benchmark.peak_memory_mib() >= len(held) * 64


@pytest.mark.parametrize(
  ('recipe', 'augmults', 'message'),
  [
    (cifar100_wrn16_4, [1, 3], 'augmult=3 does not divide batch_size=8'),
    (cifar100_wrn16_4, [0], 'augmult=0 must be a whole number from 1'),
    (nf_resnet50, [1], "augmentation.crop='inception'.* use augmentation.crop='pad'"),
  ],
)
def test_what_cannot_be_compared(recipe, augmults, message):
  config = recipe.get_config()
  config.batch_size = 8
  config.dataset.image_size = 16
  run = random_run(config, num_classes=10, num_images=64)
  with pytest.raises(ValueError, match=message):
    input_benchmark.check(run, augmults)


def test_mixing_needs_two_images_at_every_n():
  input_benchmark.check(_imagenet(nfnet.get_config()), [1, 4])
  with pytest.raises(ValueError, match='unique_images_per_batch=1: Mixup and CutMix need'):
    input_benchmark.check(_imagenet(nfnet.get_config()), [8])
