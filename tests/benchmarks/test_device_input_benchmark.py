"""The benchmark of batches made on the device runs, and measures what it says."""

import pytest

from benchmarks import device_input_benchmark
from benchmarks.random_images import random_run
from experiments import cifar100_wrn16_4

pytestmark = pytest.mark.extended


def _run(**changes):
  config = cifar100_wrn16_4.get_config()
  config.model.name = 'wrn_10_1'
  config.dataset.image_size = 8
  config.batch_size, config.augmult = 16, 2
  config.update(changes)
  return random_run(config, num_classes=10, num_images=64)


def test_compares_two_ways_of_the_same_step():
  """Ratios lie between their extremes, and the medians are those of positive speeds."""
  run = _run(input='device', steps_per_dispatch=2)
  result = device_input_benchmark.compare(run, steps=3, rounds=3)
  assert 0 < result['ratio_min'] <= result['ratio'] <= result['ratio_max']
  assert min(result['images_per_second'], result['resident_images_per_second']) > 0


def test_batches_made_elsewhere_are_refused():
  with pytest.raises(ValueError, match='makes batches on the host'):
    device_input_benchmark.compare(_run())
