"""Reading zip archives that may be damaged or hostile, within memory bounded by their size.

The standard library reads the archive, in pieces, and checks its CRCs. The sizes that an archive
states are checked before memory is allocated.
"""

import contextlib
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from nfnets_augmult.weights import checks

_PIECE = 2**20  # bytes
# The list of members is read at once, and parsing takes twenty times its size in memory. That of
# the largest NFNet has 0.3 MB.
_LARGEST_READ = 4 * 2**20


def read_rest(member: zipfile.ZipExtFile, size: int) -> np.ndarray:
  """Returns the `size` bytes that are left of a member, uint8.

  Raises:
    ValueError: there are fewer.
  """
  buffer = np.empty(size, np.uint8)
  view, filled = memoryview(buffer), 0
  # The library checks the CRC with the last piece.
  while filled < size:
    count = member.readinto(view[filled : filled + _PIECE])
    if not count:
      raise ValueError('it is cut off')
    filled += count
  return buffer


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


def has_member(file: BinaryIO, suffix: str) -> bool:
  """Returns whether a member's name ends in `suffix`; False for what cannot be read."""
  try:
    with zipfile.ZipFile(_BoundedFile(file)) as archive:
      return any(name.endswith(suffix) for name in archive.namelist())
  except Exception:  # An archive that is cut or forged can fail in any way.
    return False


@contextlib.contextmanager
def opened(
  file: BinaryIO, size: int, suffix: str = ''
) -> Iterator[tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]]:
  """Yields the archive and its members by name, after checking names and sizes.

  Args:
    file: the archive.
    size: of the file, in bytes.
    suffix: that the names of all members have in the file; it is left out.

  Raises:
    ValueError: the archive is damaged, or a member is encrypted, unlike an array, or larger than
      `checks.check_size` allows.
  """
  try:
    with zipfile.ZipFile(_BoundedFile(file)) as archive:
      yield archive, _members(archive, size, suffix)
  except ValueError:
    raise
  except MemoryError as error:
    raise ValueError('it does not fit into memory') from error
  except Exception as error:  # An archive that is cut or forged can fail in any way.
    raise ValueError(f'not a whole archive: {checks.short_message(error)}') from error


def _members(archive: zipfile.ZipFile, size: int, suffix: str) -> dict[str, zipfile.ZipInfo]:
  members: dict[str, zipfile.ZipInfo] = {}
  for info in archive.infolist():
    if info.is_dir() and info.file_size == 0:
      continue
    if not info.filename.endswith(suffix):
      raise ValueError(f'member {checks.show(info.filename)} is not an array')
    name = info.filename.removesuffix(suffix)
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
