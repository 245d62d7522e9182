"""Classes of different size: how they differ, and an order that draws every class equally often.

With balance an epoch has N entries, as many as there are images. Entry i of epoch e is number
`e N + i` of one endless sequence that goes round the K classes, so that any K successive entries
have one image of each. The images of a class take turns in a random order: all of them once, then
all again in another order. So a large class is covered over several epochs without repetition, and
the images of a small class come equally often, give or take one.
"""

from collections.abc import Sequence

import numpy as np

from nfnets_augmult.data.sources import display_name
from nfnets_augmult.ops import addressed_random

# What is drawn equally often.
BALANCES = ('none', 'classes')

# Classes that differ by less than this factor are not worth a word.
_NOTABLE_RATIO = 1.5


def balanced_images(labels: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
  """Returns the image of each entry of an epoch, int64 `[N]`, a function of (seed, epoch).

  Args:
    labels: integers `[N]`, of the images; a class without images is left out.
    seed: of the run.
    epoch: from 0.
  """
  classes, sizes = np.unique(labels, return_counts=True)
  by_class = np.split(np.argsort(labels, kind='stable'), np.cumsum(sizes)[:-1])
  key = addressed_random.key_for(seed, 'balanced classes')
  start, result = epoch * len(labels), np.empty(len(labels), np.int64)
  for place, images in enumerate(by_class):
    entries = np.arange((place - start) % len(classes), len(labels), len(classes))
    if len(entries):
      rounds, turn = np.divmod((start + entries) // len(classes), len(images))
      orders = _orders(key, images, np.arange(rounds[0], rounds[-1] + 1))
      result[entries] = orders[rounds - rounds[0], turn]
  return result


def _orders(key: tuple, images: np.ndarray, rounds: np.ndarray) -> np.ndarray:
  """The images of a class in a random order for each round, int64 `[rounds, images]`."""
  counter = rounds[:, np.newaxis].astype(np.uint32), images[np.newaxis].astype(np.uint32)
  high, low = addressed_random.threefry2x32(key, counter)
  words = (high.astype(np.uint64) << np.uint64(32)) | low
  return images[np.argsort(words, axis=1, kind='stable')]


def describe_imbalance(images_per_class: Sequence[int], class_names: Sequence[str]) -> str:
  """Returns the smallest and the largest class with their images, for a message; '' if alike.

  Args:
    images_per_class: for training, in the order of the classes.
    class_names: likewise.
  """
  smallest, largest = int(np.argmin(images_per_class)), int(np.argmax(images_per_class))
  least, most = images_per_class[smallest], images_per_class[largest]
  if most <= _NOTABLE_RATIO * least:
    return ''
  times = f', {most / least:.1f} times as many' if least else ''
  return (
    f'from {least:,} training images ({display_name(class_names[smallest])}) to {most:,} '
    f'({display_name(class_names[largest])}){times}'
  )
