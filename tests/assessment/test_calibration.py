"""Calibration by hand, by another computation, and a temperature that is known beforehand."""

import numpy as np
import pytest
from scipy import special

from nfnets_augmult.assessment import calibration


def _sample(count, num_classes=5, temperature=1.0, seed=0):
  """Log probabilities, and labels that are drawn from those of logits over `temperature`."""
  random = np.random.default_rng(seed)
  logits = random.normal(0, 3, (count, num_classes)).astype(np.float32)
  true = special.softmax(logits / temperature, axis=1)
  labels = (true.cumsum(axis=1) < random.random((count, 1))).sum(axis=1)
  return special.log_softmax(logits, axis=1), np.minimum(labels, num_classes - 1)


def test_reliability_by_hand():
  """Two bins with two images each: 2/4 |0.5 - 0.35| + 2/4 |1 - 0.975|."""
  confidence = np.array([0.34, 0.36, 0.96, 0.99])
  bins, error = calibration.reliability(confidence, np.array([True, False, True, True]))
  assert [(one['images'], one['accuracy']) for one in bins] == [(2, 0.5), (2, 1.0)]
  assert [(one['low'], one['high']) for one in bins] == [(5 / 15, 6 / 15), (14 / 15, 1.0)]
  assert [one['confidence'] for one in bins] == pytest.approx([0.35, 0.975])
  assert error == pytest.approx(0.5 * 0.15 + 0.5 * 0.025)


def test_a_bin_has_its_upper_bound_and_not_its_lower_one():
  """Of 15; 0 is in the first, 1 in the last."""
  edges = np.arange(16) / 15
  bins, _ = calibration.reliability(edges, np.ones(16, bool))
  assert [one['images'] for one in bins] == [2, *[1] * 14]
  bins, _ = calibration.reliability(np.nextafter(edges[:-1], 1), np.ones(15, bool))
  assert [one['images'] for one in bins] == [1] * 15
  assert calibration.reliability(np.zeros(0), np.zeros(0, bool)) == ([], None)


def test_the_error_is_that_of_another_computation():
  """Image by image and bin by bin, with the formula of the paper."""
  random = np.random.default_rng(1)
  confidence, is_correct = random.random(500), random.random(500) < 0.6
  expected = 0.0
  for m in range(1, 16):
    inside = [i for i, p in enumerate(confidence) if (m - 1) / 15 < p <= m / 15]
    if inside:
      accuracy = sum(is_correct[i] for i in inside) / len(inside)
      mean = sum(confidence[i] for i in inside) / len(inside)
      expected += len(inside) / 500 * abs(accuracy - mean)
  assert calibration.reliability(confidence, is_correct).error == pytest.approx(expected)


def test_the_error_by_chance_is_that_of_true_probabilities():
  """One image of 0.5: |1 - 0.5| or |0 - 0.5|. Many: the mean error of labels drawn so."""
  assert calibration.error_by_chance(np.full(1, 0.5)) == 0.5
  random = np.random.default_rng(1)
  for count in (100, 4000):
    confidence = random.uniform(0.2, 1, count)
    errors = [
      calibration.reliability(confidence, random.random(count) < confidence).error
      for _ in range(40)
    ]
    assert calibration.error_by_chance(confidence) == pytest.approx(np.mean(errors), rel=0.15)
  assert calibration.error_by_chance(np.ones(5)) == 0
  assert calibration.error_by_chance(np.zeros(0)) is None


@pytest.mark.parametrize('factor', [0.5, 1.0, 4.0])
def test_a_known_temperature_is_found(factor):
  """Logits that are `factor` times those of the true probabilities need the temperature `factor`.

  At the minimum the mean cross entropy is that of no other temperature.
  """
  log_p, labels = _sample(20_000, temperature=factor)
  fitted = calibration.fit_temperature(log_p, labels)
  assert fitted == pytest.approx(factor, rel=0.05)

  def cross_entropy(temperature):
    scaled = special.log_softmax(log_p.astype(np.float64) / temperature, axis=1)
    return -scaled[np.arange(len(labels)), labels].mean()

  assert cross_entropy(fitted) <= min(cross_entropy(0.99 * fitted), cross_entropy(1.01 * fitted))


def test_scaling_is_measured_on_images_held_out():
  """Overconfident by 3: the error falls near zero; all images have the temperature of others."""
  log_p, labels = _sample(4000, temperature=3.0)
  predicted = log_p.argmax(axis=1)
  found = calibration.calibrate(log_p, labels, predicted)
  before = calibration.reliability(np.exp(log_p.max(axis=1)), predicted == labels)
  assert before.error > 0.15
  assert found['scaled']['expected_calibration_error'] < 0.04
  assert found['temperature'] == pytest.approx(3.0, rel=0.1)
  # What is fitted on the same images is better on them than what is fitted on others.
  fitted = special.log_softmax(log_p / found['temperature'], axis=1)
  on_itself = -fitted[np.arange(4000), labels].mean()
  assert on_itself < found['scaled']['cross_entropy'] < 1.01 * on_itself
  assert sum(one['images'] for one in found['scaled']['bins']) == 4000


def test_each_half_has_the_temperature_of_the_other(monkeypatch):
  """With a fit that is 1 for the first half and 2 for the second."""
  log_p, labels = _sample(100)
  fitted = iter([1.0, 2.0, 5.0])
  seen = []

  def fit(log_probabilities, labels):
    seen.append(log_probabilities)
    return next(fitted)

  monkeypatch.setattr(calibration, 'fit_temperature', fit)
  found = calibration.calibrate(log_p, labels, log_p.argmax(axis=1))
  assert [len(part) for part in seen] == [50, 50, 100]
  rows = {tuple(row): number for number, row in enumerate(log_p)}
  first, second = ([rows[tuple(row)] for row in part] for part in seen[:2])
  assert sorted(first + second) == list(range(100)) and first != list(range(50))
  expected = np.concatenate(
    [
      special.log_softmax(log_p[half] / temperature, axis=1)[np.arange(50), labels[half]]
      for half, temperature in ((first, 2.0), (second, 1.0))
    ]
  )
  assert found['scaled']['cross_entropy'] == pytest.approx(-expected.mean())
  assert found['temperature'] == 5.0
  assert 'the other half (1 and 2)' in found['temperature_text']


def test_all_right_and_all_wrong_end_at_the_bounds():
  log_p, _ = _sample(60)
  best, worst = log_p.argmax(axis=1), log_p.argmin(axis=1)
  found = calibration.calibrate(log_p, best, best)
  assert found['temperature'] == 0.05
  assert '0.05 is the least that is tried' in found['temperature_text']
  assert found['scaled']['expected_calibration_error'] < 0.01
  found = calibration.calibrate(log_p, worst, best)
  assert found['temperature'] == 20.0
  assert '20 is the largest that is tried' in found['temperature_text']


def test_too_few_images_and_outputs_without_numbers():
  log_p, labels = _sample(60)
  predicted = log_p.argmax(axis=1)
  found = calibration.calibrate(log_p[:49], labels[:49], predicted[:49])
  assert found['temperature'] is None and found['scaled'] is None
  assert found['temperature_text'].startswith('49 images are too few')
  assert calibration.calibrate(log_p[:50], labels[:50], predicted[:50])['temperature']
  expected = calibration.calibrate(log_p[5:], labels[5:], predicted[5:])
  log_p[:5] = 0
  log_p[[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]] = [np.nan, np.inf, -np.inf, np.nan, np.inf]
  assert calibration.calibrate(log_p, labels, predicted) == expected


def test_whether_scaling_helps_is_for_the_cross_entropy_to_say():
  """The calibration error may fall where the cross entropy rises."""
  for after, helps in ((0.4, True), (0.6, False), (0.5, False)):
    scaled = {'expected_calibration_error': 0.0, 'cross_entropy': after}
    assessment = {'cross_entropy': 0.5, 'calibration': {'scaled': scaled}}
    assert calibration.scaling_helps(assessment) == helps
  assert not calibration.scaling_helps({'cross_entropy': 0.5, 'calibration': {'scaled': None}})
