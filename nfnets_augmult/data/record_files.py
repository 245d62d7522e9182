"""Records of TFRecord and array_record files by number, each checked for damage."""

import contextlib
import functools
import os
import struct
from collections.abc import Callable, Iterator
from typing import ClassVar, Protocol

import numpy as np
import tensorflow as tf

from nfnets_augmult.data import crc32c
from nfnets_augmult.data.record_index import BYTES_BEFORE as _BYTES_BEFORE
from nfnets_augmult.data.record_index import BYTES_BEHIND as _BYTES_BEHIND
from nfnets_augmult.ops import files


class RecordFile(Protocol):
  """One file of records; `read` may be called from many threads.

  Attributes:
    max_open: how many of these may be kept for use at a time; None for any number.
  """

  max_open: ClassVar[int | None]

  def __init__(self, path: str, num_records: int):
    """Raises ValueError naming the file unless it holds `num_records` whole records."""

  def read(self, number: int) -> bytes | memoryview:
    """Returns record `number`, or raises ValueError naming the file if it is damaged."""


class TfRecordFile(RecordFile):
  """A TFRecord file, local or in a bucket, which is open only while something is read from it.

  The format has no index, but each record begins with its size: opening one hops from size to
  size. The checksum of a record is compared when it is read for the first time.
  """

  max_open = None

  def __init__(self, path: str, num_records: int, starts: np.ndarray | None = None):
    """Opens a file.

    Args:
      path: of the file.
      num_records: that it must hold.
      starts: of the records, and the end of the last one, if they are known: see `record_index`.

    Raises:
      ValueError: naming the file, unless it holds `num_records` whole records.
    """
    self._path = path
    self._starts = _record_starts(path, num_records) if starts is None else starts
    if len(self._starts) != num_records + 1:
      raise ValueError(_not_whole(path, num_records))
    self._is_checked = np.zeros(num_records, bool)

  def read(self, number: int) -> memoryview:
    """Returns record `number`."""
    start, stop = self._starts[number : number + 2]
    size = int(stop - start) - _BYTES_BEFORE
    with _reader_of(self._path) as read_at:
      payload_and_checksum = memoryview(read_at(int(start) + _BYTES_BEFORE, size))
    payload, checksum = payload_and_checksum[:-_BYTES_BEHIND], payload_and_checksum[-_BYTES_BEHIND:]
    if not self._is_checked[number]:
      if crc32c.masked_crc32c(payload) != int.from_bytes(checksum, 'little'):
        raise ValueError(
          f'record {number} of {self._path} is damaged: it does not agree with its checksum; '
          'prepare or copy the data set again'
        )
      self._is_checked[number] = True
    return payload


class ArrayRecordFile(RecordFile):
  """A local array_record file, which has an index, and checks what it reads itself."""

  # They stay open, and many systems allow a process no more than 1,024 open files.
  max_open = 256

  def __init__(self, path: str, num_records: int):
    # TensorFlow Datasets brings it along on Linux only.
    from array_record.python import array_record_module

    self._path = path
    # One record at a time, without threads of its own.
    self._reader = array_record_module.ArrayRecordReader(
      path, options='readahead_buffer_size:0,max_parallelism:0', file_reader_buffer_size=2**15
    )
    if not self._reader.ok() or self._reader.num_records() != num_records:
      raise ValueError(_not_whole(path, num_records))

  def read(self, number: int) -> bytes:
    """Returns record `number`."""
    try:
      return self._reader.read([number])[0]
    except RuntimeError as error:
      raise ValueError(
        f'record {number} of {self._path} is damaged; prepare or copy the data set again: {error}'
      ) from error


# By the name of the format in TensorFlow Datasets.
RECORD_FILES: dict[str, type[RecordFile]] = {
  'tfrecord': TfRecordFile,
  'array_record': ArrayRecordFile,
}


def _record_starts(path: str, num_records: int) -> np.ndarray:
  """Where each record begins and the last one ends, in bytes; int64 `[num_records + 1]`."""
  end = tf.io.gfile.stat(path).length
  starts = [0]
  with _reader_of(path) as read_at:
    while starts[-1] < end and len(starts) <= num_records:
      (size,) = struct.unpack('<Q', read_at(starts[-1], 8).ljust(8, b'\xff'))
      starts.append(starts[-1] + _BYTES_BEFORE + size + _BYTES_BEHIND)
  if len(starts) != num_records + 1 or starts[-1] != end:
    raise ValueError(_not_whole(path, num_records))
  return np.array(starts)


def _not_whole(path: str, num_records: int) -> str:
  return (
    f'{path} does not hold the {num_records} whole records that it should: it is missing, cut off '
    'or damaged; prepare or copy the data set again'
  )


@contextlib.contextmanager
def _reader_of(path: str) -> Iterator[Callable[[int, int], bytes]]:
  """A function of offset and size that reads from a file, local or in a bucket."""
  if files.is_url(path):
    yield lambda offset, size: files.read(path, offset, offset + size)
  else:
    with open(path, 'rb', buffering=0) as local:
      yield functools.partial(_pread, local.fileno())


def _pread(file: int, offset: int, size: int) -> bytes:
  return os.pread(file, size, offset)
