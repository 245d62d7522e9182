"""Checks of parameters: a dict of dicts of finite real arrays, under names that can be written."""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

Params = dict[str, dict[str, np.ndarray]]

# NumPy's type codes of real numbers.
PLAIN_TYPE = re.compile(r'[<>|=]?(?:b1|[iu][1248]|f[248])')

MOST_AXES = 32

# Far longer than the names of any network; in a hostile file, a name could fill the file.
_LONGEST_NAME = 500
_LONGEST_SHOWN = 100
_LONGEST_MESSAGE = 400
_LARGEST_EMPTY = 2**31
_MOST_ARRAYS = 10_000

# Arrays may be larger than their file, which can be compressed or have an array under two names.
# Trained float32 compresses by a tenth, with 90 % of zeros by a factor of 8. The constant admits
# small files of zeros.
_MOST_EXPANSION = 8
_FREE_BYTES = 16 * 2**20


class NotParametersError(ValueError):
  """Not a dict of dicts of finite real arrays, or larger than its file can plausibly hold."""


def shorten(text: str) -> str:
  """Returns `text` in printable characters, with the middle left out if it is long."""
  if len(text) > _LONGEST_SHOWN:
    half = _LONGEST_SHOWN // 2
    text = f'{text[:half]}...{text[-half:]}'
  return text if text.isprintable() else repr(text)[1:-1]


def show(text: str) -> str:
  """Returns `shorten(text)` in quotes."""
  return f"'{shorten(text)}'"


def flatten(params: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """Returns `{'module/param': array}` of a dict of dicts."""
  return {f'{module}/{name}': leaf for module in params for name, leaf in params[module].items()}


def unflatten(arrays: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Inverts `flatten`; the name of the parameter follows the last slash.

  Raises:
    ValueError: a name has no module.
  """
  params: dict[str, dict[str, Any]] = {}
  for full_name, leaf in arrays.items():
    module, slash, name = full_name.rpartition('/')
    if not slash:
      raise ValueError(f'{show(full_name)} is not of the form module/parameter')
    params.setdefault(module, {})[name] = leaf
  return params


def check_size(num_bytes: int, file_size: int) -> None:
  """Checks that a file of `file_size` bytes can plausibly hold `num_bytes` of arrays.

  Raises:
    NotParametersError: the arrays take more than 16 MiB plus 8 times the file's size.
  """
  most = _FREE_BYTES + _MOST_EXPANSION * file_size
  if num_bytes > most:
    raise NotParametersError(
      f'claims to hold {num_bytes / 2**20:,.1f} MiB of arrays in a file of '
      f'{file_size / 2**20:,.1f} MiB; at most {most / 2**20:,.1f} MiB are read from it'
    )


def check_count(count: int) -> None:
  """Checks the number of arrays in a file.

  Raises:
    NotParametersError: there are more than 10,000; the largest NFNet has 1,700.
  """
  if count > _MOST_ARRAYS:
    raise NotParametersError(f'{count:,} arrays; at most {_MOST_ARRAYS:,} are read from one file')


def _check_name(module: Any, name: Any) -> None:
  """Checks that `module/parameter` can be written and read back unchanged."""
  for part in (module, name):
    if not isinstance(part, str):
      raise NotParametersError(f'a name of type {type(part).__name__}; names are text')
    if len(part) > _LONGEST_NAME or not part.isprintable():
      raise NotParametersError(f'{show(part)} is not a name: it is long, or cannot be printed')
  parts = module.split('/')
  if '/' in name or not name or any(part in ('', '.', '..') for part in parts):
    raise NotParametersError(f'{show(f"{module}/{name}")} is not of the form module/parameter')


def check_params(params: Mapping[str, Mapping[str, Any]]) -> Params:
  """Returns `params` as NumPy arrays in native byte order, after checking names, types and values.

  bool, integers, float16, float32 and float64 keep their dtype. bfloat16 and narrower floats, which
  files cannot keep, become float32, exactly. NumPy arrays are not copied otherwise.

  Raises:
    NotParametersError: there are none, a name cannot be written, an array has another dtype, or a
      value is nan or infinite; the message names the parameter.
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
      _check_name(module, name)
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
  """An array of one of NumPy's own dtypes, in native byte order."""
  array = np.asarray(leaf)
  if not PLAIN_TYPE.fullmatch(array.dtype.str):
    # bfloat16 and narrower types, which NumPy itself lacks; nothing else can be cast.
    if not np.can_cast(array.dtype, np.float32):
      kind = show(str(array.dtype))
      raise NotParametersError(f'{shown_name} is of type {kind}; parameters are real numbers')
    array = array.astype(np.float32)
  return array.astype(array.dtype.newbyteorder('='), copy=False)


def check_shape(shape: tuple[int, ...], dtype: np.dtype, num_bytes: int) -> None:
  """Checks that an array of `shape` and `dtype` takes `num_bytes` bytes.

  Raises:
    NotParametersError: it does not, or it is empty and its other axes are implausibly long.
  """
  if math.prod(shape) * dtype.itemsize != num_bytes:
    raise NotParametersError(f'{num_bytes:,} bytes for an array of shape {shape} and type {dtype}')
  if math.prod(size for size in shape if size) > _LARGEST_EMPTY and not num_bytes:
    raise NotParametersError(f'an empty array of shape {shape}')


def make_array(
  buffer: np.ndarray, dtype: np.dtype, shape: tuple[int, ...], *, is_fortran: bool
) -> np.ndarray:
  """Returns the array in `buffer`, in native byte order and C order.

  Args:
    buffer: uint8 `[bytes]`, as many as `shape` and `dtype` need; used without a copy.
    dtype: of real numbers, in any byte order.
    shape: of the array.
    is_fortran: whether `buffer` is in Fortran order.

  Raises:
    NotParametersError: a bool is neither 0 nor 1.
  """
  if dtype.kind == 'b' and buffer.max(initial=0) > 1:
    raise NotParametersError('truth values that are neither 0 nor 1')
  flat = buffer.view(dtype)
  if not dtype.isnative:
    flat = flat.byteswap(inplace=True).view(dtype.newbyteorder('='))
  return np.ascontiguousarray(flat.reshape(shape, order='F' if is_fortran else 'C')).reshape(shape)


def short_message(error: BaseException) -> str:
  """Returns the message of `error` on one line of bounded length."""
  text = ' '.join(str(error).split()) or type(error).__name__
  return text if len(text) <= _LONGEST_MESSAGE else f'{text[:_LONGEST_MESSAGE]}...'
