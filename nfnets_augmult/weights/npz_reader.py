"""Reading `.npz` files that may be damaged or hostile, within memory bounded by their size.

The standard library reads the archive, in pieces, and checks its CRCs. The sizes that an archive
states are checked before memory is allocated, and headers of arrays are matched against a regular
expression, not evaluated.
"""

import contextlib
import re
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from nfnets_augmult.weights import checks, metadata

METADATA_MEMBER = '__metadata__'

_SUFFIX = '.npy'
_PIECE = 2**20  # bytes
# The list of members is read at once, and parsing takes twenty times its size in memory. That of
# the largest NFNet has 0.3 MB.
_LARGEST_READ = 4 * 2**20
_MAGIC = b'\x93NUMPY'
_LONGEST_HEADER = 10_000
_HEADER = re.compile(
  r"\{(?:'(?:descr|fortran_order|shape)':(?:'[^']*'|True|False|\([\dL,]*\)),?)*\}"
)
_HEADER_ITEM = re.compile(r"'(descr|fortran_order|shape)':('[^']*'|True|False|\([\dL,]*\))")
_TEXT = re.compile(r'([<>])U(\d{1,9})')
_MOST_AXES = 32


def read_arrays(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
  """Returns the arrays of a `.npz` of `size` bytes by name, in native byte order.

  Raises:
    ValueError: the archive or a member is damaged, not an array of real numbers, or larger than
      `checks.check_size` allows.
  """
  with _opened(file, size) as (archive, members):
    return {
      name: _read_array(archive, info, name)
      for name, info in members.items()
      if name != METADATA_MEMBER
    }


def read_metadata(file: BinaryIO, size: int) -> dict[str, object]:
  """Returns the metadata of a `.npz` of `size` bytes, `{}` if it has none.

  Raises:
    ValueError: the archive or its metadata is damaged.
  """
  with _opened(file, size) as (archive, members):
    if METADATA_MEMBER not in members:
      return {}
    with archive.open(members[METADATA_MEMBER]) as member:
      descr, shape, _ = _read_header(member)
      match = _TEXT.fullmatch(descr)
      if not match or shape or int(match[2]) > metadata.MAX_CHARACTERS:
        raise ValueError(f'{METADATA_MEMBER} is not one text of bounded length')
      encoded = member.read(4 * int(match[2]) + 1)
    if len(encoded) != 4 * int(match[2]):
      raise ValueError(f'{METADATA_MEMBER} is not as long as it says')
    text = encoded.decode('utf-32-le' if match[1] == '<' else 'utf-32-be').rstrip('\0')
  return metadata.from_json(text)


class _BoundedFile:
  """A file with bounded reads, independent of the sizes that the archive states."""

  def __init__(self, file: BinaryIO) -> None:
    self._file = file

  def __getattr__(self, name: str) -> Any:
    return getattr(self._file, name)

  def read(self, size: int = -1) -> bytes:
    data = self._file.read(min(size, _LARGEST_READ + 1) if size >= 0 else _LARGEST_READ + 1)
    if len(data) > _LARGEST_READ:
      raise ValueError('its list of members is too long')
    return data


@contextlib.contextmanager
def _opened(
  file: BinaryIO, size: int
) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
  """Yields the archive and its members by array name, after checking names and sizes."""
  try:
    with zipfile.ZipFile(_BoundedFile(file)) as archive:
      yield archive, _members(archive, size)
  except ValueError:
    raise
  except MemoryError as error:
    raise ValueError('it does not fit into memory') from error
  except Exception as error:  # An archive that is cut or forged can fail in any way.
    raise ValueError(f'not a whole .npz: {checks.short_message(error)}') from error


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
  members: dict[str, zipfile.ZipInfo] = {}
  for info in archive.infolist():
    if info.is_dir() and info.file_size == 0:
      continue
    if not info.filename.endswith(_SUFFIX):
      raise ValueError(f'member {checks.show(info.filename)} is not an array')
    name = info.filename.removesuffix(_SUFFIX)
    if name in members:
      raise ValueError(f'two members are called {checks.show(name)}')
    if info.flag_bits & 0x1:
      raise ValueError(f'member {checks.show(name)} is encrypted')
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
      raise ValueError(f'member {checks.show(name)} is compressed in a way that NumPy does not use')
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
      raise ValueError(f'member {checks.show(name)} is damaged: its two sizes differ')
    members[name] = info
  checks.check_count(len(members))
  if sum(info.compress_size for info in members.values()) > size:
    raise ValueError('its members are larger than the file: it is cut off, or they overlap')
  checks.check_size(sum(info.file_size for info in members.values()), size)
  return members


def _read_header(member: zipfile.ZipExtFile) -> tuple[str, tuple[int, ...], bool]:
  """Returns type code, shape, and whether the data are in Fortran order."""
  start = member.read(8)
  if start[:6] != _MAGIC or len(start) != 8 or start[6] not in (1, 2, 3):
    raise ValueError('it does not begin as an array does')
  width = 2 if start[6] == 1 else 4
  length = int.from_bytes(member.read(width), 'little')
  if length > _LONGEST_HEADER:
    raise ValueError(f'a header of {length:,} bytes')
  text = ''.join(member.read(length).decode('latin1').split())
  items = dict(_HEADER_ITEM.findall(text)) if _HEADER.fullmatch(text) else {}
  descr, order, shape = (items.get(key, '') for key in ('descr', 'fortran_order', 'shape'))
  if descr[:1] != "'" or order not in ('True', 'False') or shape[:1] != '(':
    raise ValueError('its header is not that of a plain array')
  sizes = [size.rstrip('L') for size in shape[1:-1].split(',') if size]
  if len(sizes) > _MOST_AXES or not all(size.isdigit() and len(size) < 19 for size in sizes):
    raise ValueError(f'a shape of {checks.show(shape)}')
  return descr[1:-1], tuple(map(int, sizes)), order == 'True'


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> np.ndarray:
  try:
    with archive.open(info) as member:
      descr, shape, is_fortran = _read_header(member)
      if not checks.PLAIN_TYPE.fullmatch(descr):
        raise ValueError(f'it is of type {checks.show(descr)}; only real numbers are read')
      dtype = np.dtype(descr)
      start = member.tell()
      checks.check_shape(shape, dtype, info.file_size - start)
      buffer = np.empty(info.file_size - start, np.uint8)
      view, filled = memoryview(buffer), 0
      # The library checks the CRC with the last piece.
      while filled < len(buffer):
        count = member.readinto(view[filled : filled + _PIECE])
        if not count:
          raise ValueError('it is cut off')
        filled += count
      return checks.make_array(buffer, dtype, shape, is_fortran=is_fortran)
  except MemoryError:
    raise
  except Exception as error:  # A member that is cut or forged can fail in any way.
    raise ValueError(f'member {checks.show(name)}: {checks.short_message(error)}') from error
