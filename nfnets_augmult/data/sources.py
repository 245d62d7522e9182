"""Labelled images by index: small data sets as arrays, all others as encoded files or records.

A source answers for any index, in any order, at a cost that does not depend on the index. That is
what makes a batch a pure function of (seed, step) and a resume at any step immediate.
"""

import dataclasses
import re
import zlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from nfnets_augmult.ops import addressed_random
from nfnets_augmult.ops.checks import check_choice

# What to do about an image that does not decode; see `decoding.ReadOptions`.
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
  """A data set whose images stay encoded (JPEG, PNG, GIF, BMP) until they are used."""

  class_names: tuple[str, ...]
  description: str

  @property
  def num_images(self) -> int:
    """N."""

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


def folder_source(*, split: str, data_dir: str) -> 'FolderSource':
  """Returns the images of a folder that has one sub-folder per class.

  Either `data_dir/train/CLASS/*.jpg` and `data_dir/test/CLASS/*.jpg`, or just
  `data_dir/CLASS/*.jpg`; then every file whose path has a CRC-32 divisible by 10 belongs to
  `test`, about one in ten. The choice of a file does not change when others come or go.
  Classes and files are taken in alphabetical order. Files and folders whose name begins with a
  dot are passed over, and so are files that have no image suffix (`.jpg .jpeg .png .gif .bmp`).

  Raises:
    ValueError: `data_dir` is missing, no folder, or holds no images for `split`.
  """
  from etils import epath

  require_data_dir('folder', data_dir)
  root = epath.Path(data_dir)
  if not root.is_dir():
    raise ValueError(f'dataset.data_dir={data_dir!r} is not a folder')
  has_splits = (root / 'train').is_dir() and (root / 'test').is_dir()
  if not has_splits:
    check_split('folder', split)
  elif not (root / split).is_dir():
    raise ValueError(f'no split {split!r}: there is no folder {root / split}')
  # The training folder names the classes of all splits.
  class_root = root / 'train' if has_splits else root
  class_names = tuple(sorted(p.name for p in class_root.iterdir() if _is_visible_folder(p)))
  if has_splits:
    theirs = {p.name for p in (root / split).iterdir() if _is_visible_folder(p)}
    if unknown := sorted(theirs - set(class_names)):
      raise ValueError(f'{root / split} has classes that {class_root} lacks: {", ".join(unknown)}')
  files, labels = [], []
  for label, class_name in enumerate(class_names):
    folder = (root / split if has_splits else root) / class_name
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    for file_name in names:
      if not file_name.lower().endswith(_IMAGE_SUFFIXES) or file_name.startswith('.'):
        continue
      held_out = zlib.crc32(f'{class_name}/{file_name}'.encode()) % 10 == 0
      if has_splits or held_out == (split == 'test'):
        files.append(str(folder / file_name))
        labels.append(label)
  if not files:
    raise ValueError(
      f'no images for split {split!r} in dataset.data_dir={data_dir!r}: it needs one sub-folder '
      f'per class with files that end in {" ".join(_IMAGE_SUFFIXES)}'
    )
  return FolderSource(tuple(files), np.array(labels, np.int32), class_names, f'folder/{split}')


@dataclasses.dataclass(frozen=True)
class FolderSource:
  """An `EncodedSource` of image files."""

  files: Sequence[str]
  labels: np.ndarray
  class_names: tuple[str, ...]
  description: str

  @property
  def num_images(self) -> int:
    """N."""
    return len(self.files)

  def read(self, index: int) -> tuple[bytes, int]:
    """Returns the bytes of the file and the label."""
    from etils import epath

    return epath.Path(self.files[index]).read_bytes(), int(self.labels[index])

  def image_name(self, index: int) -> str:
    """Returns the path of the file."""
    return self.files[index]


_IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.gif', '.bmp')


def require_data_dir(name: str, data_dir: str) -> None:
  """Raises ValueError if `data_dir` is empty."""
  if not data_dir:
    raise ValueError(
      f'dataset.data_dir is missing: say where the data set {name!r} lies, with '
      "--config.dataset.data_dir=DIR (only 'digits' needs none; every name but 'digits', "
      "'folder' and 'arrays' is taken as one of TensorFlow Datasets)"
    )


def check_bad_image_policy(policy: str) -> None:
  """Raises ValueError unless `policy` is one of `BAD_IMAGE_POLICIES`."""
  check_choice('dataset.on_bad_image', policy, BAD_IMAGE_POLICIES)


def check_image_size(source: Source, image_size: int) -> None:
  """Raises ValueError if the images of `source` differ in size and no size is asked for."""
  if image_size < 1 and not isinstance(source, ArraySource):
    raise ValueError(
      f'dataset.image_size={image_size}: the images of {source.description} differ in size; say '
      'how many pixels the network gets, as in --config.dataset.image_size=224'
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


def _is_visible_folder(path: Any) -> bool:
  return path.is_dir() and not path.name.startswith('.')
