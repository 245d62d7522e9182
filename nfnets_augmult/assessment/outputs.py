"""What a network says about each image of a split, collected in bounded memory."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nfnets_augmult.ops import addressed_random

# Log probabilities that are kept, of 1 GiB.
_MOST_KEPT = 2**28
# Images of each kind that are kept to be shown.
_MOST_SHOWN = 40
_COLUMNS = ('image_index', 'label', 'predicted', 'in_top_5', 'log_p_true', 'log_p_predicted')


class ShownImage(NamedTuple):
  """An image to be shown.

  Attributes:
    score: by which it was chosen; the lowest come first.
    row: of `Outputs`.
    image: uint8 `[H, W, C]`, C 1 or 3, as the network gets it.
  """

  score: float
  row: int
  image: np.ndarray


class Outputs(NamedTuple):
  """Of N images what a network for K classes says about them. Logarithms are natural.

  Attributes:
    image_index: int64 `[N]`, place in the split.
    label: int `[N]`, the true class.
    predicted: int `[N]`.
    in_top_5: bool `[N]`, whether the label is among the five most probable classes.
    log_p_true: float32 `[N]`, log probability of the true class; nan if the network has no number.
    log_p_predicted: float32 `[N]`, likewise.
    kept: int64 `[M]`, the rows of those images whose probabilities of all classes are kept: all of
      them, or a random part if they are too many.
    log_probabilities: float32 `[M, K]`.
    worst: of all images those with the least probable true class.
    least_sure: of all images those whose predicted class is the least probable.
  """

  image_index: np.ndarray
  label: np.ndarray
  predicted: np.ndarray
  in_top_5: np.ndarray
  log_p_true: np.ndarray
  log_p_predicted: np.ndarray
  kept: np.ndarray
  log_probabilities: np.ndarray
  worst: Sequence[ShownImage]
  least_sure: Sequence[ShownImage]


def collect(
  batches: Iterable[Mapping[str, np.ndarray]],
  *,
  num_images: int,
  num_classes: int,
  most_kept: int = _MOST_KEPT,
) -> Outputs:
  """Returns what the batches say.

  Args:
    batches: without padding, each with `image` uint8 `[B, H, W, C]`, `log_probabilities` float32
      `[B, K]`, and `image_index`, `label`, `predicted` and `in_top_5`, see `Outputs`.
    num_images: of the split; fewer may come, not more.
    num_classes: K.
    most_kept: log probabilities that are kept of all classes.

  Raises:
    ValueError: there are no images.
  """
  key = addressed_random.key_for(0, 'images whose log probabilities are kept')
  is_kept = np.zeros(num_images, bool)
  chosen = addressed_random.random_permutation(key, num_images, 0)[: most_kept // num_classes]
  is_kept[chosen] = True
  kept = np.empty((is_kept.sum(), num_classes), np.float32)
  columns = {name: [] for name in _COLUMNS}
  worst, least_sure = [], []
  start = num_kept = 0
  for batch in batches:
    log_p = batch['log_probabilities']
    places = np.arange(len(log_p))
    batch = {
      **batch,
      'log_p_true': log_p[places, batch['label']],
      'log_p_predicted': log_p[places, batch['predicted']],
    }
    for name, column in columns.items():
      column.append(np.array(batch[name]))
    rows = log_p[is_kept[batch['image_index']]]
    kept[num_kept : num_kept + len(rows)] = rows
    worst = _with_lowest(worst, batch['log_p_true'], batch['image'], start)
    least_sure = _with_lowest(least_sure, batch['log_p_predicted'], batch['image'], start)
    num_kept, start = num_kept + len(rows), start + len(log_p)
  if not start:
    raise ValueError('there is no image to evaluate')
  columns = {name: np.concatenate(column) for name, column in columns.items()}
  return Outputs(
    **columns,
    kept=np.flatnonzero(is_kept[columns['image_index']]),
    log_probabilities=kept[:num_kept],
    worst=worst,
    least_sure=least_sure,
  )


def _with_lowest(
  shown: Sequence[ShownImage], scores: np.ndarray, images: np.ndarray, start: int
) -> list[ShownImage]:
  """The images of the lowest scores, of those so far and of a batch; nan is the lowest."""
  scores = np.where(np.isnan(scores), -np.inf, scores)
  found = [
    # A copy, so that the batch need not stay in memory.
    ShownImage(float(scores[place]), start + int(place), np.array(images[place]))
    for place in np.argsort(scores, kind='stable')[:_MOST_SHOWN]
  ]
  return sorted([*shown, *found], key=lambda image: image.score)[:_MOST_SHOWN]
