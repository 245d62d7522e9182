"""Data sets as plain arrays in a folder: read with NumPy alone, mapped into memory, no pickle.

train_images.npy  uint8 [N, H, W, C]    train_labels.npy  int32 [N]
test_images.npy   likewise              test_labels.npy
data_set.json     {"name": ..., "class_names": [...]}, written last: it marks a complete data set
"""

import io
import json
import os

import numpy as np

from nfnets_augmult.data import sources
from nfnets_augmult.data.sources import ArraySource
from nfnets_augmult.ops import files

SPLITS = ('train', 'test')
_DESCRIPTION = 'data_set.json'


def write_data_set(folder: str, *, name: str, train: ArraySource, test: ArraySource) -> None:
  """Writes both splits of a data set into `folder`, which is created if it does not exist.

  Raises:
    ValueError: the folder holds a data set already, or the splits differ in their classes.
  """
  if files.exists(os.path.join(folder, _DESCRIPTION)):
    raise ValueError(f'{folder} holds a data set already; choose another folder or remove it')
  if train.class_names != test.class_names:
    raise ValueError(f'{train.description} and {test.description} have different classes')
  files.make_dirs(folder)
  for split, source in zip(SPLITS, (train, test), strict=True):
    _write_array(os.path.join(folder, f'{split}_images.npy'), source.images, np.uint8)
    _write_array(os.path.join(folder, f'{split}_labels.npy'), source.labels, np.int32)
  text = json.dumps({'name': name, 'class_names': train.class_names}, indent=2) + '\n'
  files.write_whole(os.path.join(folder, _DESCRIPTION), text.encode())


def array_source(*, split: str, data_dir: str) -> ArraySource:
  """Returns a split of the data set in `data_dir`, or a part of one, as `train[:400]`.

  Images are read when they are used, those of a bucket at once.

  Raises:
    ValueError: there is no data set or no such split, or the arrays do not fit together.
  """
  sources.require_data_dir('arrays', data_dir)
  name, part = sources.split_and_part('arrays', split)
  sources.check_split('arrays', name, SPLITS)
  path = os.path.join(data_dir, _DESCRIPTION)
  if not files.exists(path):
    raise ValueError(
      f'data_dir={data_dir!r} holds no arrays: there is no {_DESCRIPTION}. '
      'python -m nfnets_augmult.convert writes them'
    )
  description = json.loads(files.read(path).decode())
  images, labels = (
    _read_array(os.path.join(data_dir, f'{name}_{what}.npy'))[part] for what in ('images', 'labels')
  )
  class_names = tuple(description['class_names'])
  problem = _problem(images, labels)
  if problem:
    raise ValueError(f'the {split} arrays in {data_dir} are not a data set: {problem}')
  source = ArraySource(images, np.array(labels), class_names, f'{description["name"]}/{split}')
  sources.check_labels(source.labels, len(class_names), source.description)
  return source


def _write_array(path: str, array: np.ndarray, dtype: type) -> None:
  files.write_whole(path, lambda file: np.save(file, np.asarray(array, dtype), allow_pickle=False))


def _read_array(path: str) -> np.ndarray:
  try:
    if files.is_url(path):
      return np.load(io.BytesIO(files.read(path)), allow_pickle=False)
    return np.load(path, mmap_mode='r', allow_pickle=False)
  except (OSError, ValueError) as error:
    raise ValueError(f'{path} cannot be read: {error}') from error


def _problem(images: np.ndarray, labels: np.ndarray) -> str:
  """What is wrong with the arrays of a split, '' if nothing."""
  if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape[1:]:
    return f'images must be uint8 [N, H, W, C], not {images.dtype} {list(images.shape)}'
  if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
    return f'labels must be int32 [{len(images)}], not {labels.dtype} {list(labels.shape)}'
  return ''
