"""Whether probabilities are true: reliability, expected calibration error, temperature scaling.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv:1706.04599).
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from nfnets_augmult.ops import addressed_random

_NUM_BINS = 15
_CHANCE_DRAWS = 40
_LEAST_TEMPERATURE, _MOST_TEMPERATURE = 0.05, 20.0
_LEAST_IMAGES = 50  # to fit and measure a temperature on
_ROWS_AT_A_TIME = 4096  # of log probabilities, for the memory of intermediate results


class Reliability(NamedTuple):
  """Attributes: `bins` as in `assessment.json`, and the expected calibration error in [0, 1]."""

  bins: list[dict[str, float]]
  error: float | None


def reliability(confidence: np.ndarray, is_correct: np.ndarray) -> Reliability:
  """Returns how often predictions are right, by the probability that they are given.

  Bin m of 15, counted from 1, holds the images whose predicted class has a probability in
  `((m - 1) / 15, m / 15]`, the first one also 0. The expected calibration error is the mean over
  the images of the difference, in its bin, between the share of right predictions and the mean
  probability: the sum over the bins of `images / N * |accuracy - confidence|`.

  Args:
    confidence: `[N]`, probabilities of the predicted classes.
    is_correct: bool `[N]`.

  Returns:
    The bins that hold images, each with its bounds `low` and `high`, the number of `images`, their
    mean `confidence` and their `accuracy`; and the error, None without images.

  Source: Guo et al. 2017, Section 2, equation 3, with its 15 bins.
  """
  edges = _edges()
  bin_of_image = _bin_of_image(confidence)
  bins = []
  for number in np.unique(bin_of_image):
    inside = bin_of_image == number
    bins.append(
      {
        'low': float(edges[number]),
        'high': float(edges[number + 1]),
        'images': int(inside.sum()),
        'confidence': float(np.mean(confidence[inside], dtype=np.float64)),
        'accuracy': float(np.mean(is_correct[inside])),
      }
    )
  if not bins:
    return Reliability([], None)
  gaps = [one['images'] * abs(one['accuracy'] - one['confidence']) for one in bins]
  return Reliability(bins, sum(gaps) / len(confidence))


def error_by_chance(confidence: np.ndarray) -> float | None:
  """Returns the expected calibration error if all probabilities were true, in [0, 1].

  It is not zero, since of few images in a bin another share is right than is to be expected. The
  mean over 40 draws, by a fixed seed, of which predictions are right; None without images.

  Args:
    confidence: `[N]`, probabilities of the predicted classes.
  """
  count = len(confidence)
  if not count:
    return None
  key = addressed_random.key_for(0, 'predictions that are right by chance')
  seed = np.stack(key, axis=-1)  # [1, 2]
  bin_of_image, images = _bin_of_image(confidence), np.arange(count, dtype=np.uint32)
  total = 0.0
  for draw in range(_CHANCE_DRAWS):
    seeds = addressed_random.seeds_for(seed, f'draw {draw}')
    is_right = addressed_random.random_uniform(seeds, images) < confidence
    total += np.abs(np.bincount(bin_of_image, is_right - confidence)).sum()
  return float(total / count / _CHANCE_DRAWS)


def _edges() -> np.ndarray:
  return np.arange(_NUM_BINS + 1) / _NUM_BINS


def _bin_of_image(confidence: np.ndarray) -> np.ndarray:
  """The number of the bin of each image, from 0."""
  return np.searchsorted(_edges()[1:-1], confidence, side='left')


def scaling_helps(assessment: Mapping[str, Any]) -> bool:
  """Whether images on which no temperature was fitted have a lower cross entropy after scaling."""
  scaled = assessment['calibration']['scaled']
  return scaled is not None and scaled['cross_entropy'] < assessment['cross_entropy']


def fit_temperature(log_probabilities: np.ndarray, labels: np.ndarray) -> float:
  """Returns the temperature by which logits are divided for the least cross entropy.

  Within [0.05, 20]: if all images are right, cross entropy falls without end as it goes to 0.

  Args:
    log_probabilities: float `[N, K]`, finite; logits serve as well.
    labels: int `[N]`.

  Source: Guo et al. 2017, Section 4.2.
  """
  # Here, since it takes half a second, and every run imports this module at its start.
  from scipy import optimize, special

  least, most = math.log(_LEAST_TEMPERATURE), math.log(_MOST_TEMPERATURE)

  def slope(log_temperature: float) -> float:
    """The derivative of the sum of cross entropies by 1 / temperature, in which it is convex."""
    total = 0.0
    for start in range(0, len(labels), _ROWS_AT_A_TIME):
      logits = log_probabilities[start : start + _ROWS_AT_A_TIME]
      own = labels[start : start + _ROWS_AT_A_TIME, np.newaxis]
      above = logits - np.take_along_axis(logits, own, axis=1)
      probabilities = special.softmax(logits / math.exp(log_temperature), axis=1)
      total += np.sum(probabilities * above, dtype=np.float64)
    return total

  if slope(least) <= 0:
    return _LEAST_TEMPERATURE
  if slope(most) >= 0:
    return _MOST_TEMPERATURE
  return math.exp(optimize.brentq(slope, least, most, xtol=1e-5))


def calibrate(
  log_probabilities: np.ndarray, labels: np.ndarray, predicted: np.ndarray
) -> dict[str, Any]:
  """Returns the temperature fitted on all images, and what scaling does on images held out.

  The images are divided into two halves by a fixed seed. What a temperature does is measured on the
  half that it was not fitted on, both ways.

  Args:
    log_probabilities: float32 `[N, K]`; images whose values are not all finite are left out.
    labels: int `[N]`.
    predicted: int `[N]`.

  Returns:
    `temperature`, `temperature_text` and `scaled` of `assessment.json`; None, with the reason in
    the text, if there are fewer than 50 images.
  """
  from scipy import special

  is_finite = np.isfinite(log_probabilities).all(axis=1)
  if not is_finite.all():
    log_probabilities = log_probabilities[is_finite]
    labels, predicted = labels[is_finite], predicted[is_finite]
  count = len(labels)
  if count < _LEAST_IMAGES:
    text = f'{count} images are too few to fit a temperature: it takes at least {_LEAST_IMAGES}'
    return {'temperature': None, 'temperature_text': text, 'scaled': None}
  key = addressed_random.key_for(0, 'halves for the temperature')
  halves = np.array_split(addressed_random.random_permutation(key, count, 0), 2)
  fitted = [fit_temperature(log_probabilities[half], labels[half]) for half in halves]
  temperatures = np.empty(count)
  for half, temperature in zip(halves[::-1], fitted, strict=True):
    temperatures[half] = temperature
  log_p_true, log_p_predicted = np.empty(count), np.empty(count)
  for start in range(0, count, _ROWS_AT_A_TIME):
    rows = np.arange(start, min(start + _ROWS_AT_A_TIME, count))
    scaled = special.log_softmax(log_probabilities[rows] / temperatures[rows, np.newaxis], axis=1)
    places = np.arange(len(rows))
    log_p_true[rows] = scaled[places, labels[rows]]
    log_p_predicted[rows] = scaled[places, predicted[rows]]
  bins, error = reliability(np.exp(log_p_predicted), predicted == labels)
  overall = fit_temperature(log_probabilities, labels)
  return {
    'temperature': overall,
    'temperature_text': _text(count, overall, fitted),
    'scaled': {
      'bins': bins,
      'expected_calibration_error': error,
      'cross_entropy': float(-log_p_true.mean()),
    },
  }


def _text(count: int, overall: float, fitted: list[float]) -> str:
  halves = ' and '.join(f'{temperature:.3g}' for temperature in fitted)
  text = (
    f'fitted on {count:,} images; what it does was measured on each half of them with the '
    f'temperature of the other half ({halves})'
  )
  if _LEAST_TEMPERATURE in (overall, *fitted):
    text += (
      f'; {_LEAST_TEMPERATURE} is the least that is tried: where all images are classified '
      'correctly, cross entropy always falls with the temperature'
    )
  if _MOST_TEMPERATURE in (overall, *fitted):
    text += (
      f'; {_MOST_TEMPERATURE:g} is the largest that is tried: there the probabilities say next to '
      'nothing about the classes'
    )
  return text
