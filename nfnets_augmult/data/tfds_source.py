"""Image classification data sets prepared by TensorFlow Datasets, as sources."""

import bisect
import concurrent.futures
import contextlib
import functools
import itertools
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath
from google.protobuf import message

from nfnets_augmult.data import decoding, record_index
from nfnets_augmult.data.image_formats import DEFAULT_RULES, DecodeError, DecodeRules
from nfnets_augmult.data.record_files import RECORD_FILES, RecordFile, TfRecordFile
from nfnets_augmult.data.sources import (
  ArraySource,
  EncodedSource,
  Source,
  check_labels,
  check_split,
  require_data_dir,
)
from nfnets_augmult.ops import files

# A data set whose images all have one shape is decoded into memory up to this size.
_MAX_BYTES_IN_MEMORY = 2 * 2**30

# Labels are checked before a run: all of a split of up to so many records; of a larger one only
# those of some stretches of records, evenly spread, so that few files are opened.
_MOST_RECORDS_LOOKED_AT = 10_000
_STRETCHES, _STRETCH = 32, 64

# Reads that one process has in flight at a time from a bucket: each takes some 50 ms.
_READS_AT_A_TIME = 64


def tfds_source(
  name: str,
  *,
  split: str,
  data_dir: str,
  allow_download: bool = False,
  rules: DecodeRules = DEFAULT_RULES,
) -> Source:
  """Returns a split of the prepared data set `name`; see `loading.load_source`.

  Images of one fixed shape (CIFAR, MNIST, SVHN ...) come as an `ArraySource`, if they fit in
  2 GiB, all others as an `EncodedSource` that reads records at random. A part of a split is asked
  for in the notation of TensorFlow Datasets: `train[:5000]`, `train[90%:]`.

  Raises:
    ValueError: unknown name or split, nothing prepared in `data_dir`, or images without a label. Of
      more than 10,000 encoded images the labels of some are looked at here, and each one when it is
      read.
  """
  require_data_dir(name, data_dir)
  if files.is_url(data_dir):
    files.configure()
  with files.explained(data_dir):
    return _load(name, split, data_dir, allow_download, rules)


def _load(name: str, split: str, data_dir: str, allow_download: bool, rules: DecodeRules) -> Source:
  """See `tfds_source`."""
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
    with _local(builder, split) as local:
      return _read_into_memory(local, split, image_key, label_key, rules)
  source = TfdsRecordSource(builder, split, image_key, label_key)
  source.check_labels()
  return source


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
    return f'data_dir={data_dir!r} is not a folder'
  prepared = sorted(
    p.name for p in root.iterdir() if p.is_dir() and _prepared_directory(p.name, data_dir)
  )
  has = f'prepared there: {", ".join(prepared)}' if prepared else 'nothing is prepared there'
  if plain_name not in known:
    return (
      f'unknown data set name={name!r}: neither digits nor folder, not prepared in '
      f'data_dir={data_dir!r} ({has}), and not known to TensorFlow Datasets'
    )
  # An argument of ours stands before `=` without a space, see `ops/argument_names.py`.
  return (
    f'name={name!r} is not prepared in data_dir={data_dir!r} ({has}). Prepare it in Python with '
    f'tensorflow_datasets.builder({name!r}, data_dir = {data_dir!r}).download_and_prepare(), or '
    'let this program do that with allow_download=True'
  )


def _supervised_keys(builder: tfds.core.DatasetBuilder) -> tuple[str, str]:
  keys = builder.info.supervised_keys
  features = builder.info.features
  if not keys or not isinstance(features[keys[0]], tfds.features.Image):
    raise ValueError(f'{builder.info.name!r} is no image classification data set')
  if not isinstance(features[keys[1]], tfds.features.ClassLabel):
    raise ValueError(f'the label {keys[1]!r} of {builder.info.name!r} is not a class')
  if features[keys[1]].num_classes is None:
    raise ValueError(f'the label {keys[1]!r} of {builder.info.name!r} has no list of classes')
  return keys[0], keys[1]


def _opener(file_format: str, directory: str) -> Callable[[str, int], RecordFile]:
  """Returns the function from path and number of records to a file, which keeps some open."""
  if not files.is_url(directory):
    record_file = RECORD_FILES[file_format]
    return functools.lru_cache(maxsize=record_file.max_open)(record_file)
  if file_format != 'tfrecord':
    raise ValueError(
      f'{directory} is prepared as {file_format}, which is read from file systems only: copy it to '
      'a disk, mount the bucket, or prepare it as tfrecord'
    )
  starts = record_index.read_index(directory)

  @functools.cache
  def open_indexed(path: str, num_records: int) -> TfRecordFile:
    return TfRecordFile(path, num_records, starts.get(os.path.basename(path), np.empty(0)))

  return open_indexed


class _ReadAhead:
  """Reads by many threads what will be asked for soon."""

  def __init__(self, read: Callable[[int], Any]):
    self._read = read
    self._pool = concurrent.futures.ThreadPoolExecutor(_READS_AT_A_TIME)
    self._started: dict[int, concurrent.futures.Future] = {}
    self._lock = threading.Lock()

  def start(self, indices: Sequence[int]) -> None:
    """Starts to read, unless it has been started."""
    with self._lock:
      for index in map(int, indices):
        if index not in self._started:
          self._started[index] = self._pool.submit(self._read, index)

  def take(self, index: int) -> Any:
    """Returns what was read, or reads it; raises what reading raised."""
    with self._lock:
      started = self._started.pop(int(index), None)
    return started.result() if started else self._read(index)


class TfdsRecordSource(EncodedSource):
  """Reads single examples of TFRecord or array_record files at random, image left encoded.

  Examples are counted in the order of the files. A file is opened when it is first used.
  """

  def __init__(self, builder: tfds.core.DatasetBuilder, split: str, image_key: str, label_key: str):
    """Opens nothing yet.

    Args:
      builder: of a data set prepared as TFRecord or array_record.
      split: its split, or a part of one.
      image_key: feature of the encoded image.
      label_key: feature of the class.

    Raises:
      ValueError: the data set is prepared in another file format, or the part holds no example.
    """
    file_format = builder.info.file_format.value
    if file_format not in RECORD_FILES:
      raise ValueError(
        f'{builder.info.name!r} is prepared as {file_format}; only {" and ".join(RECORD_FILES)} '
        'can be read'
      )
    self.class_names = tuple(builder.info.features[label_key].names)
    self.description = f'{builder.info.name}/{split}'
    self._image_key = image_key
    self._label_key = label_key
    self._parts = builder.info.splits[split].file_instructions
    self._first_index = [0, *itertools.accumulate(part.take for part in self._parts)]
    if not self.num_images:
      raise ValueError(f'{self.description} holds no images')
    self._open = _opener(file_format, str(builder.data_dir))
    self._ahead = _ReadAhead(self._example) if files.is_url(str(builder.data_dir)) else None

  @property
  def num_images(self) -> int:
    """N."""
    return self._first_index[-1]

  @property
  def listing(self) -> list[str]:
    """Name, first example and number of examples of each file."""
    return [
      f'{os.path.basename(part.filename)} {part.skip} {part.examples_in_shard} {part.take}'
      for part in self._parts
    ]

  @property
  def reads_ahead(self) -> bool:
    """Whether it lies in a bucket, so that waiting for one example after another takes long."""
    return self._ahead is not None

  def start_reading(self, indices: Sequence[int]) -> None:
    """Starts to read examples that will be asked for soon, where `reads_ahead`."""
    self._ahead.start(indices)

  def read(self, index: int) -> tuple[bytes, int]:
    """Returns the encoded image and the label of example `index`.

    Raises:
      ValueError: the file is cut off or damaged; the message names it.
    """
    example = self._ahead.take(index) if self._ahead else self._example(index)
    encoded = example[self._image_key].bytes_list.value if self._image_key in example else ()
    label = self._label(example)
    if len(encoded) != 1 or label is None:
      raise ValueError(
        f'{self.description}[{index}] lacks {self._image_key!r} or {self._label_key!r}; prepare '
        'the data set again'
      )
    if not 0 <= label < len(self.class_names):
      what = 'has no label (-1)' if label == -1 else f'has the label {label}'
      raise ValueError(
        f'{self.image_name(index)} {what}; labels must be in [0, {len(self.class_names)})'
      )
    return encoded[0], label

  def check_labels(self) -> None:
    """Checks the labels of all records, or of evenly spread ones if there are many.

    Records that cannot be read are passed over: reading them for a batch raises the error.

    Raises:
      ValueError: some images have no label.
    """
    indices = np.arange(self.num_images)
    if self.num_images > _MOST_RECORDS_LOOKED_AT:
      starts = np.linspace(0, self.num_images - _STRETCH, _STRETCHES).astype(int)
      indices = (starts[:, np.newaxis] + np.arange(_STRETCH)).ravel()

    def label(index: int) -> int | None:
      try:
        found = self._label(self._example(index))
      except (ValueError, OSError, tf.errors.OpError):
        return None
      return -1 if found is None else found

    with concurrent.futures.ThreadPoolExecutor(_READS_AT_A_TIME if self._ahead else 8) as pool:
      labels = [found for found in pool.map(label, indices.tolist()) if found is not None]
    check_labels(
      np.array(labels, np.int64),
      len(self.class_names),
      self.description,
      num_images=self.num_images if len(indices) < self.num_images else None,
    )

  def _label(self, example: Mapping[str, tf.train.Feature]) -> int | None:
    """The label of an example; None if there is none, or several."""
    if self._label_key not in example:
      return None
    values = example[self._label_key].int64_list.value
    return values[0] if len(values) == 1 else None

  def image_id(self, index: int) -> str:
    """Returns the example's `file_name` or `id`; its index if it has none, or is in a bucket."""
    names = [] if self.reads_ahead else self._names(index)
    return names[0] if names else str(index)

  def image_name(self, index: int) -> str:
    """Returns the example's `file_name` or `id` if it has one, and its index in the split."""
    return ' '.join([*self._names(index), f'({self.description}[{index}])'])

  def _names(self, index: int) -> list[str]:
    example = self._example(index)
    return [
      name.decode('utf-8', 'surrogateescape')
      for key in ('file_name', 'id')
      if key in example
      for name in example[key].bytes_list.value
    ]

  def _example(self, index: int) -> Mapping[str, tf.train.Feature]:
    if not 0 <= index < self.num_images:
      raise IndexError(f'{self.description} has {self.num_images} images: no {index}')
    which = bisect.bisect_right(self._first_index, index) - 1
    part = self._parts[which]
    number = part.skip + int(index) - self._first_index[which]
    record = self._open(os.fspath(part.filename), part.examples_in_shard).read(number)
    # The parser of TensorFlow Datasets takes three times as long, under the interpreter lock.
    try:
      return tf.train.Example.FromString(record).features.feature
    except message.DecodeError as error:
      raise ValueError(f'{self.description}[{index}] is no tf.train.Example') from error


@contextlib.contextmanager
def _local(builder: tfds.core.DatasetBuilder, split: str) -> Iterator[tfds.core.DatasetBuilder]:
  """Yields the builder, or one of a local copy of a split that lies in a bucket."""
  directory = str(builder.data_dir)
  if not files.is_url(directory):
    yield builder
    return
  shards = {
    os.path.basename(part.filename) for part in builder.info.splits[split].file_instructions
  }
  described = {name for name in files.list_dir(directory) if name.endswith(('.json', '.txt'))}
  with tempfile.TemporaryDirectory() as folder:
    for name in shards | described:
      content = files.read(os.path.join(directory, name))
      files.write_whole(os.path.join(folder, name), content)
    yield tfds.builder_from_directory(folder)


def _read_into_memory(
  builder: tfds.core.DatasetBuilder, split: str, image_key: str, label_key: str, rules: DecodeRules
) -> ArraySource:
  """Reads all examples in the order of the files, as TfdsRecordSource does."""
  source = TfdsRecordSource(builder, split, image_key, label_key)
  shape = builder.info.features[image_key].shape
  mode = {1: 'L', 3: 'RGB', 4: 'RGBA'}[shape[-1]]

  def read(index: np.ndarray) -> tuple[bytes, np.int64]:
    encoded, label = source.read(int(index))
    return encoded, np.int64(label)

  if builder.info.file_format is tfds.core.FileFormat.TFRECORD:
    # TensorFlow reads this format several times as fast. By default it interleaves the files.
    records = builder.as_dataset(
      split=split,
      shuffle_files=False,
      read_config=tfds.ReadConfig(interleave_cycle_length=1),
      decoders={image_key: tfds.decode.SkipDecoding()},
    ).map(lambda example: (example[image_key], example[label_key]))
  else:
    records = tf.data.Dataset.range(source.num_images).map(
      lambda index: tf.numpy_function(read, [index], (tf.string, tf.int64), stateful=False)
    )

  def is_plain(encoded: np.ndarray) -> np.ndarray:
    return np.array([decoding.is_plain(one, rules) for one in encoded])

  def decode_any(encoded: bytes) -> np.ndarray:
    return np.ascontiguousarray(decoding.decode(encoded, rules, mode=mode))

  def decode(encoded: tf.Tensor, label: tf.Tensor, plain: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    # Plain images are decoded without Python, and so on all cores.
    image = tf.cond(
      plain,
      lambda: tf.io.decode_image(encoded, shape[-1], expand_animations=False),
      lambda: tf.numpy_function(decode_any, [encoded], tf.uint8, stateful=False),
    )
    return tf.ensure_shape(image, shape), label

  examples = (
    records.batch(256)
    .map(
      lambda encoded, label: (
        encoded,
        label,
        tf.numpy_function(is_plain, [encoded], tf.bool, stateful=False),
      )
    )
    .unbatch()
    .map(decode, num_parallel_calls=tf.data.AUTOTUNE)
  )
  try:
    batches = list(examples.batch(1024).as_numpy_iterator())
  except tf.errors.OpError as error:
    source.check_labels()
    raise ValueError(
      f'{source.description} in {builder.data_dir} is damaged; prepare or copy it again: '
      f'{_first_problem(source, rules, mode, shape) or error.message}'
    ) from error
  labels = np.concatenate([labels for _, labels in batches])
  check_labels(labels, len(source.class_names), source.description)
  return ArraySource(
    images=np.concatenate([images for images, _ in batches]),
    labels=labels.astype(np.int32),
    class_names=source.class_names,
    description=source.description,
  )


def _first_problem(
  source: TfdsRecordSource, rules: DecodeRules, mode: str, shape: tuple[int, ...]
) -> str:
  """What is wrong with the first image that cannot be read; '' if none is found."""
  for index in range(source.num_images):
    try:
      pixels = decoding.decode(source.read(index)[0], rules, mode=mode)
    except DecodeError as error:
      return f'{source.image_name(index)}: {error}'
    except ValueError as error:
      return str(error)
    if pixels.shape != tuple(shape):
      return f'{source.image_name(index)} is {list(pixels.shape)}, not {list(shape)}'
  return ''
