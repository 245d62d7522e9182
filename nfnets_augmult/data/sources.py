"""Labelled images by index: small data sets as arrays, all others as encoded files or records.

A source answers for any index, in any order, at a cost that does not depend on the index. That is
what makes a batch a pure function of (seed, step) and a resume at any step immediate.
"""

import collections
import dataclasses
import re
import unicodedata
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from nfnets_augmult.ops import addressed_random

# What to do about an image that does not decode; see `read_options.ReadOptions`.
BAD_IMAGE_POLICIES = ('fail', 'skip')


class BadDataError(ValueError):
  """The data set cannot be read further; the message says what is wrong with it."""


@dataclasses.dataclass(frozen=True)
class ArraySource:
  """A data set that is held decoded in memory.

  Attributes:
    images: uint8 `[N, H, W, C]`.
    labels: int32 `[N]`, in `[0, num_classes)`.
    class_names: one string per class.
    description: for messages, for example `cifar100/train`.
  """

  images: np.ndarray
  labels: np.ndarray
  class_names: tuple[str, ...]
  description: str

  @property
  def num_images(self) -> int:
    """N."""
    return len(self.images)

  def image_name(self, index: int) -> str:
    """Returns a name of image `index` for people."""
    return f'{self.description}[{index}]'


class EncodedSource(Protocol):
  """A data set whose images stay encoded, as JPEG for example, until they are used."""

  class_names: tuple[str, ...]
  description: str

  @property
  def num_images(self) -> int:
    """N."""

  @property
  def listing(self) -> Sequence[str]:
    """What identifies the images without reading them: their files, in order."""

  def read(self, index: int) -> tuple[bytes, int]:
    """Returns the encoded image and the label; may be called from many threads."""

  def image_name(self, index: int) -> str:
    """Returns a name of image `index` for people, such as its file."""


Source = ArraySource | EncodedSource


def digits_source(*, split: str, data_dir: str = '') -> ArraySource:
  """Returns scikit-learn's handwritten digits: 1,437 for `train`, the other 360 for `test`.

  The division is a fixed shuffle. Grey levels 0..16 become 0..255. `data_dir` is not used. A part
  of a split is written as in TensorFlow Datasets, by image numbers: `train[:400]`, `train[400:]`.
  """
  del data_dir
  from sklearn import datasets

  digits = datasets.load_digits()
  order = addressed_random.random_permutation(
    addressed_random.key_for(0, 'digits split'), len(digits.images), stream=0
  )
  name, part = split_and_part('digits', split)
  chosen = np.array_split(order, [len(order) * 4 // 5])[check_split('digits', name)][part]
  images = np.round(digits.images[chosen] * (255 / 16)).astype(np.uint8)[..., np.newaxis]
  return ArraySource(
    images=images,
    labels=digits.target[chosen].astype(np.int32),
    class_names=tuple(str(digit) for digit in digits.target_names),
    description=f'digits/{split}',
  )


# How many names a message shows of a list.
_MOST_NAMES = 5


def describe_class_changes(ours: Sequence[str], theirs: Sequence[str]) -> str:
  """Says how two lists of class names differ, in their names or their order; '' if in nothing.

  For example `missing here: zapple; new here: apple; in another place: pear (1, was 0)`. Of many
  names it shows a few, with how many more there are.

  Args:
    ours: names in the order of their labels, `here`.
    theirs: those that `ours` is compared with.
  """
  here, there = _label_of_each(ours), _label_of_each(theirs)
  moved = [
    f'{display_name(name)} ({label}, was {there[name, count]})'
    for (name, count), label in here.items()
    if there.get((name, count), label) != label
  ]
  parts = {
    'missing here': [display_name(name) for name, count in there if (name, count) not in here],
    'new here': [display_name(name) for name, count in here if (name, count) not in there],
    'in another place': moved,
  }
  return '; '.join(f'{what}: {shorten(names)}' for what, names in parts.items() if names)


def _label_of_each(names: Sequence[str]) -> dict[tuple[str, int], int]:
  """From a name, and how often it came before, to its place: names may be there twice."""
  seen = collections.Counter()
  labels = {}
  for label, name in enumerate(names):
    labels[name, seen[name]] = label
    seen[name] += 1
  return labels


def display_name(name: str) -> str:
  """Returns a name for a list in a message: quoted where its end would not be seen otherwise."""
  text = printable(name)
  return text if text and text == text.strip() and not set(text) & set(',;:()') else repr(text)


def shorten(names: Sequence[str], most: int = _MOST_NAMES) -> str:
  """Returns the first few names with commas, and how many more there are."""
  more = f' and {len(names) - most:,} more' if len(names) > most else ''
  return ', '.join(names[:most]) + more


def printable(name: str) -> str:
  r"""Returns a name of a file or class as any terminal shows it.

  What is no UTF-8, cannot be seen, or is composed in an unusual way is written as `\xff` or
  `\u0301`, so that two names never look alike.
  """
  if name.isprintable() and unicodedata.is_normalized('NFC', name):
    return name
  name = name.encode('utf-8', 'surrogateescape').decode('utf-8', 'backslashreplace')
  return ''.join(
    c if c.isprintable() and not unicodedata.combining(c) else ascii(c)[1:-1] for c in name
  )


def require_data_dir(name: str, data_dir: str) -> None:
  """Raises ValueError if `data_dir` is empty."""
  if not data_dir:
    raise ValueError(
      f'data_dir={data_dir!r} is missing: say where the data set {name!r} lies, with '
      "data_dir=DIR (only 'digits' needs none; every name but 'digits', 'folder' and 'arrays' is "
      'taken as one of TensorFlow Datasets)'
    )


def check_not_empty(source: Source) -> None:
  """Raises ValueError unless there are images, and two classes to tell apart."""
  if not source.num_images:
    raise ValueError(f'{_split_name(source.description)} holds no images')
  if len(source.class_names) < 2:
    raise ValueError(
      f'{_split_name(source.description)} has only one class, '
      f'{shorten([display_name(name) for name in source.class_names])}: two are needed'
    )


def check_labels(
  labels: np.ndarray, num_classes: int, description: str, *, num_images: int | None = None
) -> None:
  """Checks that all labels are those of classes.

  Args:
    labels: integers; -1 is for images without a label, as of the test splits of competitions.
    num_classes: K.
    description: of the split, as that of a source.
    num_images: in the split, where `labels` are those of only some of them.

  Raises:
    ValueError: some are not; the message says how many.
  """
  is_known = (labels >= 0) & (labels < num_classes)
  if is_known.all():
    return
  looked_at = (
    '' if num_images in (None, len(labels)) else f' of {len(labels):,} that were looked at'
  )
  what = _split_name(description)
  if num_unlabelled := int((labels == -1).sum()):
    raise ValueError(
      f'{what} has {num_unlabelled:,} images without a label (-1){looked_at}; choose another split'
    )
  raise ValueError(
    f'{what} has {int((~is_known).sum()):,} images with labels outside [0, {num_classes})'
    f'{looked_at}, as {int(labels[~is_known][0])}; choose another split, or repair the labels'
  )


def _split_name(description: str) -> str:
  name, _, split = description.rpartition('/')
  return f'split {split!r} of {name!r}'


def check_image_size(source: Source, image_size: int) -> None:
  """Raises ValueError if the images of `source` differ in size and no size is asked for."""
  if image_size < 1 and not isinstance(source, ArraySource):
    raise ValueError(
      f'image_size={image_size}: the images of {source.description} differ in size; say '
      'how many pixels the network gets, as in image_size=224'
    )


def check_split(name: str, split: str, splits: Sequence[str] = ('train', 'test')) -> int:
  """Returns the index of `split` in `splits`, or raises ValueError with those there are."""
  if split not in splits:
    raise ValueError(f'{name!r} has no split {split!r}; it has {", ".join(splits)}')
  return list(splits).index(split)


def split_and_part(name: str, split: str) -> tuple[str, slice]:
  """Takes `train[10:20]` apart; the slice of a whole split is that of everything."""
  parts = re.fullmatch(r'(\w+)(?:\[(\d*):(\d*)\])?', split)
  if not parts:
    raise ValueError(f'{split!r} of {name!r} is no split; write train, train[:400] or train[400:]')
  start, stop = (int(number) if number else None for number in parts.groups()[1:])
  return parts[1], slice(start, stop)


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Returns mean and standard deviation of each channel of uint8 `[N, H, W, C]`, in 0..255."""
  counts = np.stack(
    [np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])]
  )
  shares = counts / counts.sum(axis=1, keepdims=True)
  mean = shares @ np.arange(256)
  std = np.sqrt(np.maximum(shares @ np.arange(256) ** 2 - mean**2, 1e-12))
  return tuple(mean.tolist()), tuple(std.tolist())
