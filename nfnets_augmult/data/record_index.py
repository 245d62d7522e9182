"""Where the records of TFRecord files begin, in one file beside them.

The format has no index, and finding a record takes a small read of each one before it, which is too
slow in a bucket. `record_index.npz` has the sizes of all records of the files in its folder:

    names   the names of the files        counts  int64, the records of each
    sizes   uint64, of all payloads, one file after another
"""

import concurrent.futures
import io
import os
import re
import struct

import numpy as np

from nfnets_augmult.ops import files

NAME = 'record_index.npz'

# Before a payload lie its size and the checksum of the size, behind it its own.
BYTES_BEFORE, BYTES_BEHIND = 12, 4
_BYTES_OF_SIZE = 8
# Of a file in a bucket so many bytes are read at a time, as requests cost more than bytes.
_BLOCK = 8 * 2**20
_FILES_AT_A_TIME = 16


def write_index(folder: str) -> tuple[int, int]:
  """Reads the sizes of all records in a folder, and writes them there.

  Args:
    folder: of TFRecord files, local or in a bucket.

  Returns:
    How many files and records there are.

  Raises:
    ValueError: there is no such file, or one is cut off or damaged.
  """
  names = sorted(
    name for name in files.list_dir(folder) if re.search(r'\.tfrecord(-\d+-of-\d+)?$', name)
  )
  if not names:
    raise ValueError(f'{folder} has no TFRecord files (NAME.tfrecord-00000-of-00008)')
  length_of = files.sizes(folder)
  with concurrent.futures.ThreadPoolExecutor(_FILES_AT_A_TIME) as pool:
    by_file = list(
      pool.map(lambda name: _sizes(os.path.join(folder, name), length_of[name]), names)
    )
  arrays = {
    'names': np.array(names),
    'counts': np.array([len(sizes) for sizes in by_file]),
    'sizes': np.concatenate(by_file),
  }
  files.write_whole(
    os.path.join(folder, NAME), lambda file: np.savez_compressed(file, allow_pickle=False, **arrays)
  )
  return len(names), len(arrays['sizes'])


def read_index(folder: str) -> dict[str, np.ndarray]:
  """Returns where each record begins and the last one ends, int64 `[records + 1]`, by file name.

  Raises:
    ValueError: there is no index, or it does not belong to the files as they are.
  """
  path = os.path.join(folder, NAME)
  command = f'python -m nfnets_augmult.index --folder={folder}'
  try:
    with np.load(io.BytesIO(files.read(path)), allow_pickle=False) as arrays:
      names, counts, sizes = arrays['names'], arrays['counts'], arrays['sizes']
  except FileNotFoundError:
    raise ValueError(
      f'{folder} has no {NAME}, without which TFRecord files in a bucket cannot be read record by '
      f'record. This writes it, once: {command}'
    ) from None
  except (ValueError, KeyError) as error:
    raise ValueError(f'{path} is damaged: {error}. Write it again: {command}') from error
  starts = {}
  for name, of_file in zip(names, np.split(sizes, np.cumsum(counts)[:-1]), strict=True):
    ends = np.cumsum(of_file.astype(np.int64) + BYTES_BEFORE + BYTES_BEHIND)
    starts[str(name)] = np.concatenate([[0], ends])
  length_of = files.sizes(folder)
  if differ := [name for name, found in starts.items() if length_of.get(name) != found[-1]]:
    raise ValueError(
      f'{path} is not of the files that are there: {differ[0]} has another size. Is the copy of '
      f'the data set complete? If so, write it again: {command}'
    )
  return starts


def _sizes(path: str, length: int) -> np.ndarray:
  """The sizes of the payloads of a file of `length` bytes, uint64."""
  block_size = _BLOCK if files.is_url(path) else _BYTES_OF_SIZE
  sizes, place, block, block_start = [], 0, b'', 0
  while place < length:
    if place + _BYTES_OF_SIZE > block_start + len(block):
      block, block_start = files.read(path, place, min(place + block_size, length)), place
    if len(block) < _BYTES_OF_SIZE:
      break
    (size,) = struct.unpack_from('<Q', block, place - block_start)
    sizes.append(size)
    place += BYTES_BEFORE + size + BYTES_BEHIND
  if place != length:
    raise ValueError(f'{path} is cut off or damaged: prepare or copy the data set again')
  return np.array(sizes, np.uint64)
