"""Reading `.npz` files that may be damaged or hostile, within memory bounded by their size.

The archive is read by `zip_reader`. Headers of arrays are matched against a regular expression, not
evaluated.
"""

import re
import zipfile
from typing import BinaryIO

import numpy as np

from nfnets_augmult.weights import checks, metadata, zip_reader

METADATA_MEMBER = '__metadata__'
PROGRAM_MEMBER = '__program__'

_SUFFIX = '.npy'
_MAGIC = b'\x93NUMPY'
_LONGEST_HEADER = 10_000
_HEADER = re.compile(
  r"\{(?:'(?:descr|fortran_order|shape)':(?:'[^']*'|True|False|\([\dL,]*\)),?)*\}"
)
_HEADER_ITEM = re.compile(r"'(descr|fortran_order|shape)':('[^']*'|True|False|\([\dL,]*\))")
_TEXT = re.compile(r'([<>])U(\d{1,9})')


def read_arrays(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
  """Returns the arrays of a `.npz` of `size` bytes by name, in native byte order.

  Raises:
    ValueError: the archive or a member is damaged, not an array of real numbers, or larger than
      `checks.check_size` allows.
  """
  with zip_reader.opened(file, size, _SUFFIX) as (archive, members):
    return {
      name: _read_array(archive, info, name)
      for name, info in members.items()
      if name not in (METADATA_MEMBER, PROGRAM_MEMBER)
    }


def read_program(file: BinaryIO, size: int) -> bytes | None:
  """Returns the program in a `.npz` of `size` bytes, see `stablehlo`; None if it has none.

  Raises:
    ValueError: the archive or the program is damaged.
  """
  with zip_reader.opened(file, size, _SUFFIX) as (archive, members):
    if PROGRAM_MEMBER not in members:
      return None
    return _read_array(archive, members[PROGRAM_MEMBER], PROGRAM_MEMBER).tobytes()


def read_metadata(file: BinaryIO, size: int) -> dict[str, object]:
  """Returns the metadata of a `.npz` of `size` bytes, `{}` if it has none.

  Raises:
    ValueError: the archive or its metadata is damaged.
  """
  with zip_reader.opened(file, size, _SUFFIX) as (archive, members):
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
  if len(sizes) > checks.MOST_AXES or not all(size.isdigit() and len(size) < 19 for size in sizes):
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
      buffer = zip_reader.read_rest(member, info.file_size - start)
      return checks.make_array(buffer, dtype, shape, is_fortran=is_fortran)
  except MemoryError:
    raise
  except Exception as error:  # A member that is cut or forged can fail in any way.
    raise ValueError(f'member {checks.show(name)}: {checks.short_message(error)}') from error
