"""The benchmark of batches made on the device runs, and measures what it says."""

import pytest

from nfnets_augmult.analysis import device_input_benchmark


def test_compares_two_ways_of_the_same_step():
  """Ratios lie between their extremes, and the medians are those of positive speeds."""
  result = device_input_benchmark.compare(
    'wrn_10_1', image_size=8, batch_size=16, augmult=2, num_images=64, steps=3, rounds=3,
    steps_per_dispatch=2,
  )  # fmt: skip
  assert 0 < result['ratio_min'] <= result['ratio'] <= result['ratio_max']
  assert min(result['images_per_second'], result['resident_images_per_second']) > 0


def test_sizes_that_do_not_go_together():
  with pytest.raises(ValueError, match='n = 3 does not divide the batch of 16'):
    device_input_benchmark.compare('wrn_10_1', batch_size=16, augmult=3)
