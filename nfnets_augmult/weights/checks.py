"""What parameters are: a dict of dicts of finite real arrays, under names that can be written."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

Params = dict[str, dict[str, np.ndarray]]

# How NumPy spells the types of real numbers, in files too.
PLAIN_TYPE = re.compile(r'[<>|=]?(?:b1|[iu][1248]|f[248])')

# No name of a network is nearly as long; a file could hold one of its own size.
_LONGEST_NAME = 500
_LONGEST_SHOWN = 100
_LONGEST_MESSAGE = 400
_LARGEST_EMPTY = 2**31
_MOST_ARRAYS = 10_000

# Arrays that come out of a file may be larger than it is, since a `.npz` can be compressed and an
# array be used under two names. Trained float32 compresses by a tenth, 90 % of zeros by 8. The
# constant lets a small file of zeros through.
_MOST_EXPANSION = 8
_FREE_BYTES = 16 * 2**20


class NotParametersError(ValueError):
  """Something is no dict of dicts of finite real arrays, or claims more than its file can hold."""


def shorten(text: str) -> str:
  """Returns `text` in printable characters, and cut in the middle if it is long."""
  if len(text) > _LONGEST_SHOWN:
    half = _LONGEST_SHOWN // 2
    text = f'{text[:half]}...{text[-half:]}'
  return text if text.isprintable() else repr(text)[1:-1]


def show(text: str) -> str:
  """Returns `text` as `shorten` does, in quotes."""
  return f"'{shorten(text)}'"


def check_size(num_bytes: int, file_size: int) -> None:
  """Refuses `num_bytes` of arrays in a file of `file_size` bytes if it cannot be meant.

  Raises:
    NotParametersError: there are more than 16 MiB and 8 times the file's size.
  """
  most = _FREE_BYTES + _MOST_EXPANSION * file_size
  if num_bytes > most:
    raise NotParametersError(
      f'claims to hold {num_bytes / 2**20:,.1f} MiB of arrays in a file of '
      f'{file_size / 2**20:,.1f} MiB; at most {most / 2**20:,.1f} MiB are read from it'
    )


def check_count(count: int) -> None:
  """Refuses more arrays than a network can have.

  Raises:
    NotParametersError: there are more than 10,000; the largest NFNet has 1,700.
  """
  if count > _MOST_ARRAYS:
    raise NotParametersError(f'{count:,} arrays; at most {_MOST_ARRAYS:,} are read from one file')


def check_name(module: Any, name: Any) -> None:
  """Refuses what cannot be written as `module/parameter` and read back as the same.

  Raises:
    NotParametersError: the name is empty, long, not printable, or would be another when read back.
  """
  for part in (module, name):
    if not isinstance(part, str):
      raise NotParametersError(f'a name of type {type(part).__name__}; names are text')
    if len(part) > _LONGEST_NAME or not part.isprintable():
      raise NotParametersError(f'{show(part)} is no name: it is long, or cannot be printed')
  parts = module.split('/')
  if '/' in name or not name or any(part in ('', '.', '..') for part in parts):
    raise NotParametersError(f'{show(f"{module}/{name}")} is not of the form module/parameter')


def check_params(params: Mapping[str, Mapping[str, Any]]) -> Params:
  """Returns `params` as NumPy arrays in the machine's byte order, if they are parameters.

  bool, integers, float16, float32 and float64 keep their type. Narrower floating point numbers,
  which files cannot keep, become float32, which changes none. Arrays of NumPy are not copied
  otherwise.

  Raises:
    NotParametersError: there are none, a name cannot be written, an array is of another type, or a
      number is nan or infinite; the message names the parameter.
  """
  checked: Params = {}
  not_finite: dict[str, str] = {}
  for module, values in params.items():
    if not isinstance(values, Mapping):
      raise NotParametersError(
        f'{show(str(module))} holds a {type(values).__name__}, not a dict of arrays'
      )
    checked[module] = {}
    for name, leaf in values.items():
      check_name(module, name)
      array = _as_plain(leaf, show(f'{module}/{name}'))
      if array.dtype.kind == 'f' and (bad := int(array.size - np.isfinite(array).sum())):
        not_finite[f'{module}/{name}'] = f'{bad:,} of {array.size:,}'
      checked[module][name] = array
  if not any(checked.values()):
    raise NotParametersError('there are no parameters')
  if not_finite:
    (first, counts), *others = not_finite.items()
    rest = f', and so are some of {len(others):,} other parameters' if others else ''
    raise NotParametersError(f'{show(first)}: {counts} values are nan or infinite{rest}')
  return checked


def _as_plain(leaf: Any, shown_name: str) -> np.ndarray:
  """Returns an array of a type that NumPy itself has, in the machine's byte order."""
  array = np.asarray(leaf)
  if not PLAIN_TYPE.fullmatch(array.dtype.str):
    # bfloat16 and narrower, which come from outside of NumPy; nothing else can be cast.
    if not np.can_cast(array.dtype, np.float32):
      kind = show(str(array.dtype))
      raise NotParametersError(f'{shown_name} is of type {kind}; parameters are real numbers')
    array = array.astype(np.float32)
  return array.astype(array.dtype.newbyteorder('='), copy=False)


def check_shape(shape: tuple[int, ...], dtype: np.dtype, num_bytes: int) -> None:
  """Refuses a shape that is not that of `num_bytes` bytes.

  Raises:
    NotParametersError: it is of more or fewer, or an array of none claims a length.
  """
  if math.prod(shape) * dtype.itemsize != num_bytes:
    raise NotParametersError(f'{num_bytes:,} bytes for an array of shape {shape} and type {dtype}')
  if math.prod(size for size in shape if size) > _LARGEST_EMPTY and not num_bytes:
    raise NotParametersError(f'an empty array of shape {shape}')


def make_array(
  buffer: np.ndarray, dtype: np.dtype, shape: tuple[int, ...], *, is_fortran: bool
) -> np.ndarray:
  """Returns the array in `buffer`, in the machine's byte order and C order.

  Args:
    buffer: uint8 `[bytes]`, as many as `shape` and `dtype` need; it is used, not copied.
    dtype: of real numbers, in any byte order.
    shape: of the array.
    is_fortran: whether the first axis is the fastest in `buffer`.

  Raises:
    NotParametersError: a truth value is neither 0 nor 1.
  """
  if dtype.kind == 'b' and buffer.max(initial=0) > 1:
    raise NotParametersError('truth values that are neither 0 nor 1')
  flat = buffer.view(dtype)
  if not dtype.isnative:
    flat = flat.byteswap(inplace=True).view(dtype.newbyteorder('='))
  return np.ascontiguousarray(flat.reshape(shape, order='F' if is_fortran else 'C')).reshape(shape)


def brief(error: BaseException) -> str:
  """Returns what `error` says, on one line of bounded length."""
  text = ' '.join(str(error).split()) or type(error).__name__
  return text if len(text) <= _LONGEST_MESSAGE else f'{text[:_LONGEST_MESSAGE]}...'
