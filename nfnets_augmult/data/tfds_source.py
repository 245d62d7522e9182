"""Image classification data sets that TensorFlow Datasets has prepared, by index."""

import bisect
import functools
import itertools
import os
import re
import struct
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath

from nfnets_augmult.data.sources import (
  ArraySource,
  EncodedSource,
  Source,
  check_split,
  require_data_dir,
)

# A data set whose images all have one shape is decoded into memory up to this size.
_MAX_BYTES_IN_MEMORY = 2 * 2**30


def tfds_source(name: str, *, split: str, data_dir: str, allow_download: bool = False) -> Source:
  """Returns a split of the prepared data set `name`; see `sources.load_source`.

  Images of one fixed shape (CIFAR, MNIST, SVHN ...) come as an `ArraySource`, if they fit in
  2 GiB, all others as an `EncodedSource` that reads records at random. Of an `ArraySource` a part
  can be had, in the notation of TensorFlow Datasets: `train[:5000]`, `train[90%:]`.

  Raises:
    ValueError: unknown name or split, or nothing prepared in `data_dir`.
  """
  require_data_dir(name, data_dir)
  directory = _prepared_directory(name, data_dir)
  if directory is None and allow_download:
    builder = tfds.builder(name, data_dir=data_dir)
    builder.download_and_prepare()
    directory = builder.data_dir
  if directory is None:
    raise ValueError(_not_prepared(name, data_dir))
  builder = tfds.builder_from_directory(directory)
  check_split(name, split.split('[')[0], list(builder.info.splits))
  image_key, label_key = _supervised_keys(builder)
  shape = builder.info.features[image_key].shape
  num_images = builder.info.splits[split].num_examples
  if None not in shape and num_images * int(np.prod(shape)) <= _MAX_BYTES_IN_MEMORY:
    return _read_into_memory(builder, split, image_key, label_key)
  if '[' in split:
    raise ValueError(f'{name!r} is read record by record, only whole splits of it: not {split!r}')
  return TfdsRecordSource(builder, split, image_key, label_key)


def _prepared_directory(name: str, data_dir: str) -> str | None:
  """The newest prepared version of `name` (or the one it asks for), without using the network."""
  path, _, version = name.partition(':')
  root = epath.Path(data_dir) / path
  if not root.is_dir():
    return None
  versions = [
    p.name
    for p in root.iterdir()
    if re.fullmatch(r'\d+\.\d+\.\d+', p.name) and (p / 'dataset_info.json').exists()
  ]
  if version:
    versions = [v for v in versions if v == version]
  if not versions:
    return None
  return str(root / max(versions, key=lambda v: tuple(map(int, v.split('.')))))


def _not_prepared(name: str, data_dir: str) -> str:
  known = tfds.list_builders(with_community_datasets=False)
  plain_name = re.split('[/:]', name)[0]
  root = epath.Path(data_dir)
  if not root.is_dir():
    return f'dataset.data_dir={data_dir!r} is not a folder'
  prepared = sorted(
    p.name for p in root.iterdir() if p.is_dir() and _prepared_directory(p.name, data_dir)
  )
  has = f'prepared there: {", ".join(prepared)}' if prepared else 'nothing is prepared there'
  if plain_name not in known:
    return (
      f'unknown data set dataset.name={name!r}: neither digits nor folder, not prepared in '
      f'dataset.data_dir={data_dir!r} ({has}), and not known to TensorFlow Datasets'
    )
  return (
    f'dataset.name={name!r} is not prepared in dataset.data_dir={data_dir!r} ({has}). Prepare it '
    f'with `tfds build {name} --data_dir={data_dir}`, or let this program download it with '
    '--config.dataset.allow_download=True'
  )


def _supervised_keys(builder: tfds.core.DatasetBuilder) -> tuple[str, str]:
  keys = builder.info.supervised_keys
  features = builder.info.features
  if not keys or not isinstance(features[keys[0]], tfds.features.Image):
    raise ValueError(f'{builder.info.name!r} is no image classification data set')
  if not isinstance(features[keys[1]], tfds.features.ClassLabel):
    raise ValueError(f'the label {keys[1]!r} of {builder.info.name!r} is not a class')
  return keys[0], keys[1]


def _read_into_memory(
  builder: tfds.core.DatasetBuilder, split: str, image_key: str, label_key: str
) -> ArraySource:
  # In the order of the files, as TfdsRecordSource counts; the default would interleave them.
  read_config = tfds.ReadConfig(interleave_cycle_length=1)
  examples = builder.as_dataset(split=split, shuffle_files=False, read_config=read_config)
  examples = examples.map(lambda example: (example[image_key], example[label_key]))
  batches = list(examples.batch(1024).as_numpy_iterator())
  return ArraySource(
    images=np.concatenate([images for images, _ in batches]),
    labels=np.concatenate([labels for _, labels in batches]).astype(np.int32),
    class_names=tuple(builder.info.features[label_key].names),
    description=f'{builder.info.name}/{split}',
  )


class TfdsRecordSource(EncodedSource):
  """Reads single examples of TFRecord shards at random, image left encoded.

  A TFRecord file has no index, but each record begins with its length, so the offsets of a
  shard are found by hopping from header to header; that happens when a shard is first used.
  """

  def __init__(self, builder: tfds.core.DatasetBuilder, split: str, image_key: str, label_key: str):
    """Opens nothing yet.

    Args:
      builder: of a data set prepared as TFRecord.
      split: its split.
      image_key: feature of the encoded image.
      label_key: feature of the class.

    Raises:
      ValueError: the data set is prepared in another file format.
    """
    file_format = builder.info.file_format
    if file_format is not tfds.core.FileFormat.TFRECORD:
      raise ValueError(
        f'{builder.info.name!r} is prepared as {file_format.value}; only tfrecord can be read'
      )
    info = builder.info.splits[split]
    self.class_names = tuple(builder.info.features[label_key].names)
    self.description = f'{builder.info.name}/{split}'
    self._features = builder.info.features
    self._decoders = {image_key: tfds.decode.SkipDecoding()}
    self._image_key = image_key
    self._label_key = label_key
    self._files = [os.fspath(path) for path in info.filepaths]
    self._first_index = [0, *itertools.accumulate(info.shard_lengths)]
    self._offsets = functools.lru_cache(maxsize=None)(_record_offsets)

  @property
  def num_images(self) -> int:
    """N."""
    return self._first_index[-1]

  def read(self, index: int) -> tuple[bytes, int]:
    """Returns the encoded image and the label of example `index`."""
    example = self._example(index)
    return example[self._image_key], int(example[self._label_key])

  def image_name(self, index: int) -> str:
    """Returns the example's `file_name` or `id` where it has one, and its place in the split."""
    example = self._example(index)
    names = [example[key].decode() for key in ('file_name', 'id') if key in example]
    return ' '.join([*names, f'({self.description}[{index}])'])

  def _example(self, index: int) -> dict[str, Any]:
    shard = bisect.bisect_right(self._first_index, index) - 1
    file = self._files[shard]
    offset, size = self._offsets(file)[index - self._first_index[shard]]
    return self._features.deserialize_example_np(
      _read_range(file, offset, size), decoders=self._decoders
    )


def _record_offsets(file: str) -> list[tuple[int, int]]:
  """Offset and size of the payload of every record: uint64 size, 4 bytes, payload, 4 bytes."""
  offsets = []
  position = 0
  with tf.io.gfile.GFile(file, 'rb') as records:
    end = records.size()
    while position < end:
      records.seek(position)
      (size,) = struct.unpack('<Q', records.read(8))
      offsets.append((position + 12, size))
      position += 12 + size + 4
  if position != end:
    raise ValueError(f'{file} ends in the middle of a record: prepare the data set again')
  return offsets


def _read_range(file: str, offset: int, size: int) -> bytes:
  """`size` bytes of a local or remote file."""
  if '://' in file:
    with tf.io.gfile.GFile(file, 'rb') as remote:
      remote.seek(offset)
      return remote.read(size)
  with open(file, 'rb', buffering=0) as local:
    return os.pread(local.fileno(), size, offset)
