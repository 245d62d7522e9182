"""Aggregates, intervals, the table over n and its sentences, by hand."""

import re

import numpy as np
import pytest

from nfnets_augmult.variance import figures, report
from nfnets_augmult.variance.components import (
  AGGREGATES,
  Components,
  advice,
  format_table,
  jackknife,
  table,
)

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
  rows = table(COMPONENTS, [1, 2, 3, 8], unique_images=8, batch_size=8)
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
  assert 'fixed' in format_table(rows)


def test_batches_that_the_data_set_is_too_small_for_are_left_out():
  """Of 20 images a batch has at most 10, or all 20; without n = 1 there is nothing to compare."""
  components = Components(np.full(8, 6.0), np.full(8, 2.0), num_images=20)
  sizes = {'unique_images': 4, 'batch_size': 64}
  rows = table(components, [1, 4, 8, 16], **sizes)
  assert [(r.scheme, r.unique_images) for r in rows[4:]] == [('fixed', 8), ('fixed', 4)]
  assert {r.ratio for r in rows[4:]} == {None}
  lines = format_table(rows).splitlines()
  assert len(lines) == 8 and len(set(map(len, lines))) == 1  # as wide as each other
  text = ' '.join(advice(components, screened_images=20, **sizes))
  assert 'Growing batch of 4' in text and 'Fixed batch' not in text
  assert 'times as many images' not in text  # 16 of 20
  rows = table(components, [1, 2], unique_images=4, batch_size=20)
  assert [r.unique_images for r in rows[2:]] == [20, 10]


def test_impossible_values_are_not_shown():
  """The estimate of the image part is negative, which it may be: shown are 100 % and once."""
  components = Components(np.array([-1.0, -1.5]), np.array([10.0, 11.0]), num_images=1000)
  assert components.augmentation_share().value > 1
  sizes = {'unique_images': 16, 'batch_size': 64}
  text = ' '.join(advice(components, screened_images=20, **sizes))
  assert 'augmentation makes 100.0% (95 % interval' in text
  assert 'multiplies the variance by 1.00' in text
  rows = table(components, [1, 64], **sizes)
  assert rows[-1].variance.value < 0
  assert rows[-1].variance.shown().value == rows[-1].variance.low == 0
  assert not re.search(r'-\d', format_table(rows))
  (axes, _) = figures.draw_parts(rows, title='').axes
  assert min(bar.get_height() for bar in axes.patches) >= 0


def test_what_cannot_be_said_is_not_said():
  """No variance at all, an interval that has everything in it, and a block that has most."""
  sizes = {'unique_images': 16, 'batch_size': 64}
  none = Components(np.zeros(4), np.zeros(4), num_images=1000)
  (sentence,) = advice(none, screened_images=64, **sizes)
  assert 'do not vary' in sentence
  few = Components(np.array([1.0, 30.0]), np.array([20.0, 1.0]), num_images=1000)
  (sentence,) = advice(few, screened_images=64, **sizes)
  assert 'makes 0% to 100%' in sentence and '--blocks' in sentence
  heavy = np.ones(16)
  assert not Components(heavy, heavy, 1000).few_images_dominate()
  heavy[3] = 8.0
  components = Components(heavy, 2 * heavy, 1000)
  assert components.few_images_dominate()
  for screened, remedy in ((64, '--screened_images=1000 for all'), (1000, 'raise --images_per')):
    (sentence,) = advice(components, screened_images=screened, **sizes)
    assert sentence.startswith('A few images make most') and remedy in sentence
    assert '%' not in sentence


def test_all_images_leave_only_augmentation():
  """A batch of the whole training set: nothing is sampled but augmentations."""
  components = Components(np.array([5.0, 7.0]), np.array([2.0, 2.0]), num_images=10)
  assert components.minibatch(unique_images=10, augmult=4).value == pytest.approx(2 / 40)


def test_the_sentences_have_the_numbers():
  """Share s = 25 % (17.1 to 32.9); n = 4 removes 3/4 s; fixed batch 130 / 40 = 3.25."""
  text = ' '.join(advice(COMPONENTS, unique_images=64, batch_size=64, screened_images=64))
  for number in (
    'makes 25.0%',
    'n = 4 removes 18.8% (12.8% to 24.7%)',
    'would remove 75.0%',
    'divided by 3.25',
  ):
    assert number in text


def test_a_report_refuses_where_a_few_images_dominate():
  """No table and no advice on numbers; and the figure says it."""
  raw = {
    'config': {'model.name': 'toy', 'dataset.name': 'digits'},
    'step': 9,
    'num_images': 1000,
    'images_per_block': 16,
    'screened_images': 64,
    'copies': 4,
    'squared_gradient_norm': 0.1,
    'augmults': [1, 4],
    'unique_images_per_batch': 16,
    'batch_size': 64,
    'layer_sizes': [5],
    'image': np.ones((16, 1)).tolist(),
    'augmentation': np.ones((16, 1)).tolist(),
    'minibatches': [],
  }
  assert '\n\n| scheme' in report.text(raw)
  assert 'dominate' not in report.draw(raw)['variance.png'].get_suptitle()
  raw['image'][3] = [40.0]
  text = report.text(raw)
  assert 'scheme' not in text and '--screened_images=1000' in text
  assert 'a few images dominate' in report.draw(raw)['variance.png'].get_suptitle()
