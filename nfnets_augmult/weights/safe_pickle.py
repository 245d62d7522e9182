"""Reading pickled parameters without executing code from the file.

The released NFNets are pickles, made with `dill`, of a dict of dicts of NumPy arrays. A pickle is a
program that builds values on a stack and calls functions by name. Here `pickle_machine` interprets
it, and `pickle_names` has stand-ins for the few known names; nothing that a file names is imported
or called.

The program runs first and skips the bytes of the arrays. Its result is checked before the arrays
are read, one by one, so memory is bounded by the size of the arrays, which is checked first.
"""

import codecs
import os
from typing import Any, BinaryIO

import numpy as np

from nfnets_augmult.weights import checks
from nfnets_augmult.weights.checks import Params
from nfnets_augmult.weights.pickle_machine import Interpreter
from nfnets_augmult.weights.pickle_names import Array, UnsafePickleError, type_name

_PIECE = 2**20  # bytes


def load_params(file: BinaryIO) -> Params:
  """Returns the dict of dicts of numpy arrays that was pickled into `file`, from its start.

  Reads protocols 2 to 5 of `pickle` and `dill`, from numpy 1 and 2. Arrays own their memory and are
  in native byte order.

  Raises:
    UnsafePickleError: the file is damaged, or holds or asks for anything else; nothing of it is
      executed.
  """
  try:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return _read_arrays(Interpreter(file, size).run(), file, size)
  except UnsafePickleError:
    raise
  except MemoryError as error:
    raise UnsafePickleError('it does not fit into memory') from error
  except checks.NotParametersError as error:
    raise UnsafePickleError(str(error)) from error
  except Exception as error:  # A pickle that is cut or forged can fail in any way.
    raise UnsafePickleError(f'not a readable pickle: {checks.short_message(error)}') from error


def _read_arrays(tree: Any, file: BinaryIO, size: int) -> Params:
  """Checks the unpickled `tree` and reads its arrays from the file."""
  if not isinstance(tree, dict):
    raise UnsafePickleError(f'a pickled {type_name(tree)}, not a dict of dicts of arrays')
  leaves: list[tuple[str, str, Array]] = []
  for module, values in tree.items():
    if not isinstance(values, dict):
      held = type_name(values)
      raise UnsafePickleError(f'{checks.show(module)} holds a {held}, not a dict of arrays')
    checks.check_count(len(leaves) + len(values))
    for name, leaf in values.items():
      if not isinstance(leaf, Array) or leaf.data is None:
        shown, held = checks.show(f'{module}/{name}'), type_name(leaf)
        raise UnsafePickleError(f'{shown} is of type {held}, not an array with contents')
      leaves.append((module, name, leaf))
  if sum(array.num_bytes for array in {id(leaf): leaf for *_, leaf in leaves}.values()) > size:
    raise UnsafePickleError('different arrays claim the same bytes of the file')
  checks.check_size(sum(leaf.num_bytes for *_, leaf in leaves), size)
  params: Params = {module: {} for module in tree}
  for module, name, leaf in leaves:
    params[module][name] = _read_array(leaf, file)
  return params


def _read_array(array: Array, file: BinaryIO) -> np.ndarray:
  data = array.data
  if isinstance(data, bytes):
    buffer = np.frombuffer(bytearray(data), np.uint8)
  else:
    file.seek(data.offset)
    buffer = np.empty(array.num_bytes, np.uint8)
    if data.kind == 'latin1':
      _read_latin1(file, data.length, buffer)
    elif file.readinto(memoryview(buffer)) != data.length:
      raise UnsafePickleError('not a readable pickle: it is cut off')
  return checks.make_array(buffer, array.dtype, array.shape, is_fortran=array.is_fortran)


def _read_latin1(file: BinaryIO, length: int, buffer: np.ndarray) -> None:
  """Fills `buffer` from `length` bytes of UTF-8, one byte per character."""
  decoder = codecs.getincrementaldecoder('utf-8')()
  filled = 0
  for start in range(0, length, _PIECE):
    stop = min(length, start + _PIECE)
    piece = decoder.decode(file.read(stop - start), final=stop == length).encode('latin1')
    if filled + len(piece) > len(buffer):
      raise UnsafePickleError(f'more than {len(buffer):,} bytes for an array of as many')
    buffer[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
    filled += len(piece)
  if filled != len(buffer):
    raise UnsafePickleError(f'{filled:,} bytes for an array of {len(buffer):,}')
