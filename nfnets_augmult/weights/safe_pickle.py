"""Reading pickled parameters without running what a pickle can ask for.

The released files of the NFNets are pickles, made with `dill`, of a dict of dicts of numpy arrays.
A pickle is a program: it names functions and has them called. Here no name reaches the module it
names. The few names that arrays are pickled under lead to stand-ins of this module, which build
arrays from bytes in Python; every other name is refused. Not even numpy's own functions for
unpickling are called, since those trust the sizes and types that the file states.
"""

import math
import pickle
import re
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

Params = dict[str, dict[str, np.ndarray]]

_DTYPE = re.compile(r'b1|[iu][1248]|f[248]')


class UnsafePickleError(ValueError):
  """A pickle holds something other than plain containers of numpy arrays."""


def _array(dtype: np.dtype, shape: Any, data: Any, *, is_fortran: bool) -> np.ndarray:
  """Returns an array of its own memory, after checking what the file claims."""
  if not isinstance(data, bytes | bytearray):
    raise UnsafePickleError(f'array data of type {type(data).__name__}, not bytes')
  if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
    raise UnsafePickleError(f'an array of shape {shape!r}')
  if math.prod(shape) * dtype.itemsize != len(data):
    raise UnsafePickleError(f'{len(data)} bytes for an array of shape {shape} and type {dtype}')
  flat = np.frombuffer(data, dtype)
  return np.array(flat.reshape(shape, order='F' if is_fortran else 'C'), order='C')


def _stand_ins() -> dict[tuple[str, str], Callable[..., Any]]:
  """Returns what each admitted name stands for.

  Made anew for every file: a pickle can set attributes of what it names, and must not be able to
  change how the next one is read.
  """

  class Dtype:
    """Stands for `numpy.dtype`, of which only plain numbers are admitted."""

    def __init__(self, code: Any, *_: Any) -> None:
      if not isinstance(code, str) or not _DTYPE.fullmatch(code):
        raise UnsafePickleError(f'arrays of type {code!r}; only numbers are read')
      self.value = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
      if not isinstance(state, tuple) or len(state) < 5 or state[2:5] != (None, None, None):
        raise UnsafePickleError(f'array type with state {state!r}')
      if state[1] not in ('<', '>', '|', '='):
        raise UnsafePickleError(f'byte order {state[1]!r}')
      self.value = self.value.newbyteorder(state[1])

  class NdArray:
    """Stands for `numpy.ndarray`, before and after it gets its contents."""

    value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
      if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], Dtype):
        raise UnsafePickleError('an array with unknown state')
      _, shape, dtype, is_fortran, data = state
      self.value = _array(dtype.value, shape, data, is_fortran=bool(is_fortran))

  def filled(value: np.ndarray) -> NdArray:
    array = NdArray()
    array.value = value
    return array

  def reconstruct(*_: Any) -> NdArray:
    return NdArray()

  def from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> NdArray:
    if not isinstance(dtype, Dtype):
      raise UnsafePickleError('an array without a type')
    return filled(_array(dtype.value, shape, data, is_fortran=order == 'F'))

  def scalar(dtype: Any, data: Any) -> NdArray:
    if not isinstance(dtype, Dtype):
      raise UnsafePickleError('a number without a type')
    return filled(_array(dtype.value, (), data, is_fortran=False))

  def dill_array(_: Any, __: Any, state: Any, *___: Any) -> NdArray:
    array = NdArray()
    array.__setstate__(state)
    return array

  def encode(text: Any, encoding: Any = None) -> bytes:
    # How pickles of protocol 2 spell bytes.
    if not isinstance(text, str) or encoding != 'latin1':
      raise UnsafePickleError(f'bytes encoded as {encoding!r}')
    return text.encode('latin1')

  def no_bytes() -> bytes:
    # And empty ones.
    return b''

  names: dict[tuple[str, str], Callable[..., Any]] = {
    ('numpy', 'ndarray'): NdArray,
    ('numpy', 'dtype'): Dtype,
    ('_codecs', 'encode'): encode,
    ('__builtin__', 'bytes'): no_bytes,
    ('builtins', 'bytes'): no_bytes,
    ('collections', 'OrderedDict'): lambda *items: dict(*items),
    ('dill._dill', '_create_array'): dill_array,
    ('dill.dill', '_create_array'): dill_array,
  }
  # numpy 2 renamed its core; files keep the name of the version that wrote them.
  for core in ('numpy.core', 'numpy._core'):
    names[f'{core}.multiarray', '_reconstruct'] = reconstruct
    names[f'{core}.multiarray', 'scalar'] = scalar
    names[f'{core}.numeric', '_frombuffer'] = from_buffer
  return names


class _RestrictedUnpickler(pickle.Unpickler):
  """Finds the admitted names only."""

  def __init__(self, file: BinaryIO) -> None:
    super().__init__(file)
    self._names = _stand_ins()

  def find_class(self, module: str, name: str) -> Any:
    """Returns the stand-in for `module.name`, or refuses."""
    try:
      return self._names[module, name]
    except KeyError:
      raise UnsafePickleError(
        f'the file asks for {module}.{name}; only numpy arrays in plain containers are read'
      ) from None


def load_params(file: BinaryIO) -> Params:
  """Returns the dict of dicts of numpy arrays that was pickled into `file`.

  Reads what `pickle` and `dill` write in protocols 2 to 5, under numpy 1 and 2. Arrays own their
  memory and have the machine's byte order.

  Raises:
    UnsafePickleError: the file holds, or asks for, anything else. Nothing of it has run.
  """
  try:
    tree = _RestrictedUnpickler(file).load()
  except UnsafePickleError:
    raise
  except Exception as error:  # A pickle that is cut or forged can fail in any way.
    raise UnsafePickleError(f'not a readable pickle: {error}') from error
  if not isinstance(tree, dict):
    raise UnsafePickleError(f'a pickled {type(tree).__name__}, not a dict of dicts of arrays')
  params: Params = {}
  for module, values in tree.items():
    if not isinstance(module, str) or not isinstance(values, dict):
      raise UnsafePickleError(f'{module!r} holds a {type(values).__name__}, not a dict of arrays')
    params[module] = {}
    for name, leaf in values.items():
      value = getattr(leaf, 'value', None)
      if not isinstance(name, str) or not isinstance(value, np.ndarray):
        raise UnsafePickleError(f'{module}/{name} is a {type(leaf).__name__}, not an array')
      params[module][name] = value.astype(value.dtype.newbyteorder('='), copy=False)
  return params
