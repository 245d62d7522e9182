"""Aggregates, intervals, the table over n and its sentences, by hand."""

import numpy as np
import pytest

from nfnets_augmult.analysis import variance_components
from nfnets_augmult.analysis.variance_components import AGGREGATES, Components, jackknife

# One block each would do: image part 30, augmentation part 10, many images.
COMPONENTS = Components(np.array([29.0, 31.0]), np.array([10.0, 10.0]), num_images=10**9)


def test_aggregates_by_hand():
  """Layers of 2 and 4 parameters with variances 6 and 8."""
  by_layer, sizes = np.array([[6.0, 8.0]]), np.array([2, 4])
  assert AGGREGATES['total'](by_layer, sizes) == [14]
  assert AGGREGATES['layer_mean'](by_layer, sizes) == [(6 / 2 + 8 / 4) / 2]


def test_the_interval_of_a_mean_is_students():
  """Mean 2 of 1, 2, 3: standard error 1 / sqrt(3), and t of two degrees is 4.303."""
  estimate = jackknife(float, np.array([1.0, 2.0, 3.0]))
  assert estimate.value == 2
  assert estimate.high - 2 == pytest.approx(4.302653 / np.sqrt(3))
  assert estimate.low == 0  # a variance is not negative


def test_table_by_hand():
  """Growing, 8 images: 30 / 8 + 10 / (8 n). Fixed, 8 samples: 30 n / 8 + 10 / 8."""
  rows = variance_components.table(COMPONENTS, [1, 2, 3, 8], unique_images=8, batch_size=8)
  values = [(r.scheme, r.augmult, r.unique_images, r.variance.value) for r in rows]
  assert [v[:3] for v in values] == [
    *[('growing', n, 8) for n in (1, 2, 3, 8)],
    *[('fixed', n, 8 // n) for n in (1, 2, 8)],  # 3 does not divide 8
  ]
  growing = [30 / 8 + 10 / (8 * n) for n in (1, 2, 3, 8)]
  fixed = [30 * n / 8 + 10 / 8 for n in (1, 2, 8)]
  np.testing.assert_allclose([v[3] for v in values], growing + fixed, rtol=1e-6)
  assert rows[-1].augmentation.value == pytest.approx(10 / 8)
  assert rows[-1].ratio.value == pytest.approx((30 * 8 + 10) / 40)
  assert 'fixed' in variance_components.format_table(rows)


def test_all_images_leave_only_augmentation():
  """A batch of the whole training set: nothing is sampled but augmentations."""
  components = Components(np.array([5.0, 7.0]), np.array([2.0, 2.0]), num_images=10)
  assert components.minibatch(unique_images=10, augmult=4).value == pytest.approx(2 / 40)


def test_the_sentences_have_the_numbers():
  """Share 25 %; n = 4 removes 1 - 32.5 / 40 = 18.75 %; fixed batch 130 / 40 = 3.25."""
  text = ' '.join(variance_components.advice(COMPONENTS, unique_images=64, batch_size=64))
  for number in ('makes 25.0%', 'n = 4 removes 18.8%', 'would remove 75.0%', 'divided by 3.25'):
    assert number in text
