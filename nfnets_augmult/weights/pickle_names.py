"""Stand-ins for the functions and types that pickles of arrays refer to.

Only the names listed here are found, as `pickle` and `dill` spell them, and none is imported. Not
even NumPy's own functions for unpickling are called, since they trust the sizes and types that a
file states.
"""

import dataclasses
import math
import types
from typing import Any

import numpy as np

from nfnets_augmult.weights import checks

_MOST_ARGUMENTS = 8

_BYTE_ORDERS = ('<', '>', '|', '=')


class UnsafePickleError(ValueError):
  """A pickle is damaged, or holds other things than dicts of NumPy arrays."""


@dataclasses.dataclass(frozen=True, slots=True)
class FileBytes:
  """Bytes that are still in the file.

  Attributes:
    offset: of the first.
    length: how many.
    kind: `'bytes'`; `'text'` for UTF-8; or `'latin1'` for bytes that protocol 2 stores as UTF-8,
      one character per byte.
  """

  offset: int
  length: int
  kind: str


@dataclasses.dataclass(frozen=True, slots=True)
class Module:
  """Stands for a module, which dill pickles by name."""

  name: str


class Dtype:
  """Stands for a `numpy.dtype` of plain numbers."""

  def __init__(self, code: str) -> None:
    self.value = np.dtype(code)


class Array:
  """Stands for a `numpy.ndarray`, empty until `fill` is called."""

  dtype: np.dtype
  shape: tuple[int, ...]
  data: bytes | FileBytes | None = None
  is_fortran: bool

  def fill(self, dtype: Any, shape: Any, data: Any, *, is_fortran: bool) -> 'Array':
    """Sets the contents, after checking them against each other."""
    if not isinstance(dtype, Dtype):
      raise UnsafePickleError('an array without a type')
    if type_name(data) != 'bytes':
      raise UnsafePickleError(f'array data of type {type_name(data)}, not bytes')
    is_shape = isinstance(shape, tuple) and len(shape) <= checks.MOST_AXES
    if not is_shape or not all(type(size) is int and size >= 0 for size in shape):
      raise UnsafePickleError('an array of no possible shape')
    if isinstance(data, bytes):
      checks.check_shape(shape, dtype.value, len(data))
    elif data.kind == 'bytes':  # the length of 'latin1' is known only after decoding
      checks.check_shape(shape, dtype.value, data.length)
    self.dtype, self.shape, self.data, self.is_fortran = dtype.value, shape, data, is_fortran
    return self

  @property
  def num_bytes(self) -> int:
    """Size of the contents in bytes."""
    return math.prod(self.shape) * self.dtype.itemsize


def set_state(target: Any, state: Any) -> None:
  """Does what `__setstate__` does for an array or a dtype."""
  if isinstance(target, Array) and target.data is None:
    if not isinstance(state, tuple) or len(state) != 5:
      raise UnsafePickleError('an array with unknown state')
    _, shape, dtype, is_fortran, data = state
    if not isinstance(is_fortran, bool | int):
      raise UnsafePickleError('an array with unknown state')
    target.fill(dtype, shape, data, is_fortran=bool(is_fortran))
  elif isinstance(target, Dtype):
    if not isinstance(state, tuple) or len(state) < 5 or state[2:5] != (None, None, None):
      raise UnsafePickleError('an array type with unknown state')
    if state[1] not in _BYTE_ORDERS:
      raise UnsafePickleError('an array type of unknown byte order')
    target.value = target.value.newbyteorder(state[1])
  else:
    raise UnsafePickleError(f'the state of a {type_name(target)}')


def _make_dtype(code: Any, *_: Any) -> Dtype:
  if not isinstance(code, str) or not checks.PLAIN_TYPE.fullmatch(code):
    shown = checks.show(code) if isinstance(code, str) else f'a {type_name(code)}'
    raise UnsafePickleError(f'arrays of type {shown}; only real numbers are read')
  return Dtype(code)


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Array:
  if not isinstance(order, str) or order not in ('C', 'F'):
    raise UnsafePickleError('an array in unknown order')
  return Array().fill(dtype, shape, data, is_fortran=order == 'F')


def _scalar(dtype: Any, data: Any) -> Array:
  return Array().fill(dtype, (), data, is_fortran=False)


def _dill_array(_: Any, __: Any, state: Any, *___: Any) -> Array:
  array = Array()
  set_state(array, state)
  return array


def _encode(text: Any, encoding: Any) -> bytes | FileBytes:
  """Stands for `codecs.encode`, by which protocol 2 stores bytes."""
  if encoding != 'latin1':
    raise UnsafePickleError('bytes in an unknown encoding')
  if isinstance(text, FileBytes) and text.kind == 'text':
    return dataclasses.replace(text, kind='latin1')
  if not isinstance(text, str):
    raise UnsafePickleError(f'bytes from a {type_name(text)}')
  return text.encode('latin1')


def _not_called(*_: Any) -> Any:
  raise UnsafePickleError('it calls what files of arrays only mention')


def _dill_module(module: Any, *_: Any) -> Module:
  """With `_dill_attribute`, how dill up to version 0.3.4 refers to functions."""
  if not isinstance(module, str) or module not in _FUNCTIONS:
    shown = checks.show(module) if isinstance(module, str) else f'a {type_name(module)}'
    raise UnsafePickleError(f'the file asks for the module {shown}; {_ONLY}')
  return Module(module)


def _dill_attribute(module: Any, name: Any) -> types.FunctionType:
  if not isinstance(module, Module) or not isinstance(name, str):
    raise UnsafePickleError(f'an attribute of a {type_name(module)}')
  return find(module.name, name)


def _dill_type(name: Any) -> types.FunctionType:
  """How dill refers to built-in types, of which arrays need one."""
  if name not in ('bytes', 'BytesType'):
    raise UnsafePickleError(f'the file asks for a type that arrays do not need; {_ONLY}')
  return find('builtins', 'bytes')


_ONLY = 'only numpy arrays in plain containers are read'

_BYTES = {'bytes': lambda: b''}
_DILL = {
  '_create_array': _dill_array,
  '_import_module': _dill_module,
  '_get_attr': _dill_attribute,
  '_load_type': _dill_type,
}
_MULTIARRAY = {'_reconstruct': lambda *_: Array(), 'scalar': _scalar}
_NUMERIC = {'_frombuffer': _from_buffer}
# The stand-ins by module and name. numpy 2 renamed its core; files keep the name of the version
# that wrote them.
_FUNCTIONS: dict[str, dict[str, types.FunctionType]] = {
  'numpy': {'ndarray': _not_called, 'dtype': _make_dtype},
  'numpy.core.multiarray': _MULTIARRAY,
  'numpy.core._multiarray_umath': _MULTIARRAY,
  'numpy.core.numeric': _NUMERIC,
  'numpy._core.multiarray': _MULTIARRAY,
  'numpy._core._multiarray_umath': _MULTIARRAY,
  'numpy._core.numeric': _NUMERIC,
  '_codecs': {'encode': _encode},
  '__builtin__': _BYTES,
  'builtins': _BYTES,
  'collections': {'OrderedDict': lambda: {}},
  'dill._dill': _DILL,
  'dill.dill': _DILL,
}


def find(module: str, name: str) -> types.FunctionType:
  """Returns the stand-in for `module.name`.

  Raises:
    UnsafePickleError: arrays do not need this name.
  """
  if name not in _FUNCTIONS.get(module, {}):
    raise UnsafePickleError(f'the file asks for {checks.show(f"{module}.{name}")}; {_ONLY}')
  return _FUNCTIONS[module][name]


def call(function: Any, arguments: Any) -> Any:
  """Returns the result of a call in a pickle.

  Raises:
    UnsafePickleError: `function` is not a stand-in, or does not take the arguments.
  """
  if not isinstance(function, types.FunctionType) or not isinstance(arguments, tuple):
    raise UnsafePickleError(f'a call of a {type_name(function)} with a {type_name(arguments)}')
  try:
    return function(*arguments[:_MOST_ARGUMENTS])
  except TypeError as error:
    raise UnsafePickleError('a call with too many arguments, or too few') from error


def type_name(value: Any) -> str:
  """Returns the type of a value for messages, `'bytes'` for all that can be an array's data."""
  if isinstance(value, FileBytes):
    return 'str' if value.kind == 'text' else 'bytes'
  stand_ins = {Array: 'array', Dtype: 'dtype', Module: 'module'}
  return stand_ins.get(type(value)) or type(value).__name__
