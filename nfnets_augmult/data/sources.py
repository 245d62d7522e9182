"""Labelled images by index: small data sets as arrays, all others as encoded files or records.

A source returns any image, in any order, at a cost that does not depend on the index. So a batch
can be a pure function of (seed, step), and resuming at any step takes no time.
"""

import collections
import dataclasses
import importlib.util
import pathlib
import re
import unicodedata
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from nfnets_augmult.ops import addressed_random

# What to do about an image that does not decode; see `read_options.ReadOptions`.
BAD_IMAGE_POLICIES = ('fail', 'skip')


class BadDataError(ValueError):
  """The data set cannot be read; the message says what is wrong with it."""


@dataclasses.dataclass(frozen=True)
class ArraySource:
  """A data set held in memory, decoded.

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

  def image_id(self, index: int) -> str:
    """Returns the index."""
    return str(index)

  def image_name(self, index: int) -> str:
    """Returns a name of image `index` for messages."""
    return f'{self.description}[{index}]'


class EncodedSource(Protocol):
  """A data set whose images stay encoded, for example as JPEG, until they are used."""

  class_names: tuple[str, ...]
  description: str

  @property
  def num_images(self) -> int:
    """N."""

  @property
  def listing(self) -> Sequence[str]:
    """Strings that identify the images without reading them, such as their files in order."""

  def read(self, index: int) -> tuple[bytes, int]:
    """Returns the encoded image and the label; may be called from many threads."""

  def image_id(self, index: int) -> str:
    """Returns what tells image `index` from the others in tables, such as its file."""

  def image_name(self, index: int) -> str:
    """Returns a name of image `index` for messages, such as its file."""


Source = ArraySource | EncodedSource


def digits_source(*, split: str, data_dir: str = '') -> ArraySource:
  """Returns scikit-learn's handwritten digits: 1,437 for `train`, the other 360 for `test`.

  The division is a fixed shuffle. Grey levels 0..16 become 0..255. `data_dir` is not used. A part
  of a split is written as in TensorFlow Datasets, by image numbers: `train[:400]`, `train[400:]`.
  """
  del data_dir
  grey_levels, classes = _digits_table()
  order = addressed_random.random_permutation(
    addressed_random.key_for(0, 'digits split'), len(classes), stream=0
  )
  name, part = split_and_part('digits', split)
  check_split('digits', name)
  train, test = np.array_split(order, [len(order) * 4 // 5])
  chosen = (train if name == 'train' else test)[part]
  images = np.round(grey_levels[chosen] * (255 / 16)).astype(np.uint8)
  return ArraySource(
    images=images.reshape(-1, 8, 8, 1),
    labels=classes[chosen].astype(np.int32),
    class_names=tuple(str(digit) for digit in range(10)),
    description=f'digits/{split}',
  )


def _digits_table() -> tuple[np.ndarray, np.ndarray]:
  """Returns scikit-learn's digits: grey levels `[1797, 64]` in 0..16 and classes `[1797]`.

  Read from the file in the installed package where it is, because importing scikit-learn for its
  loader takes a second.
  """
  package = importlib.util.find_spec('sklearn')
  if package is not None and package.origin is not None:
    file = pathlib.Path(package.origin).parent / 'datasets' / 'data' / 'digits.csv.gz'
    if file.is_file():
      table = np.loadtxt(file, delimiter=',')
      return table[:, :-1], table[:, -1]
  from sklearn import datasets

  digits = datasets.load_digits()
  return digits.data, digits.target


def describe_class_changes(ours: Sequence[str], theirs: Sequence[str]) -> str:
  """Returns how two lists of class names differ, in names or order, for a message; '' if equal.

  For example `missing here: zapple; new here: apple; in another place: pear (1, was 0)`. Only the
  first few names are listed.

  Args:
    ours: names in the order of their labels, `here`.
    theirs: the names to compare with.
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
  """From a name, and how often it came before, to its label: names may repeat."""
  seen = collections.Counter()
  labels = {}
  for label, name in enumerate(names):
    labels[name, seen[name]] = label
    seen[name] += 1
  return labels


def display_name(name: str) -> str:
  """Returns a name for a list in a message, quoted if it would be unclear where it ends."""
  text = printable(name)
  return text if text and text == text.strip() and not set(text) & set(',;:()') else repr(text)


def shorten(names: Sequence[str], most: int = 5) -> str:
  """Returns the first `most` names with commas, and the number of others."""
  more = f' and {len(names) - most:,} more' if len(names) > most else ''
  return ', '.join(names[:most]) + more


def printable(name: str) -> str:
  r"""Returns the name of a file or class so that different names look different on any terminal.

  Bytes that are not UTF-8, invisible characters and combining ones are written as `\xff` or
  `\u0301`.
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
      f'data_dir={data_dir!r} is missing: say where the data set {name!r} is, with '
      "data_dir=DIR (only 'digits' needs none; every name but 'digits', 'folder', 'csv' and "
      "'arrays' is taken as one of TensorFlow Datasets)"
    )


def images_per_class(source: Source) -> list[int] | None:
  """Returns how many images each class has; None if images must be read for that."""
  if not hasattr(source, 'labels'):
    return None
  return np.bincount(source.labels, minlength=len(source.class_names)).tolist()


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
  """Checks that all labels are in `[0, num_classes)`.

  Args:
    labels: integers; -1 stands for no label, as in the test splits of competitions.
    num_classes: K.
    description: of the split, as in a source.
    num_images: in the split, if `labels` are only some of its labels.

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
  """Raises ValueError if the images of `source` differ in size and `image_size` is not set."""
  if image_size < 1 and not isinstance(source, ArraySource):
    raise ValueError(
      f'image_size={image_size}: the images of {source.description} differ in size; say '
      'how many pixels the network gets, as in image_size=224'
    )


def check_split(name: str, split: str, splits: Sequence[str] = ('train', 'test')) -> None:
  """Raises ValueError unless `split` is one of `splits`, which are listed."""
  if split not in splits:
    raise ValueError(f'{name!r} has no split {split!r}; it has {", ".join(splits)}')


def split_and_part(name: str, split: str) -> tuple[str, slice]:
  """Returns `train` and `slice(10, 20)` for `train[10:20]`; without brackets, the slice is all."""
  parts = re.fullmatch(r'(\w+)(?:\[(\d*):(\d*)\])?', split)
  if not parts:
    raise ValueError(
      f'{split!r} of {name!r} is not a split; write train, train[:400] or train[400:]'
    )
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
