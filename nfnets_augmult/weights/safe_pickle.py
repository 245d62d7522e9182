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
from nfnets_augmult.weights.pickle_names import Array, UnsafePickleError, kind

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
    raise UnsafePickleError(f'a pickled {kind(tree)}, not a dict of dicts of arrays')
  leaves: list[tuple[str, str, Array]] = []
  for module, values in tree.items():
    if not isinstance(values, dict):
      raise UnsafePickleError(f'{checks.show(module)} holds a {kind(values)}, not a dict of arrays')
    checks.check_count(len(leaves) + len(values))
    for name, leaf in values.items():
      if not isinstance(leaf, Array) or leaf.data is None:
        shown = checks.show(f'{module}/{name}')
        raise UnsafePickleError(f'{shown} is of type {kind(leaf)}, not an array with contents')
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
    read = _read_latin1 if data.kind == 'latin1' else _read_bytes
    buffer = read(file, data.length, array.num_bytes)
  return checks.make_array(buffer, array.dtype, array.shape, is_fortran=array.is_fortran)


def _read_bytes(file: BinaryIO, length: int, num_bytes: int) -> np.ndarray:
  buffer = np.empty(num_bytes, np.uint8)
  if file.readinto(memoryview(buffer)) != length:
    raise UnsafePickleError('not a readable pickle: it is cut off')
  return buffer


def _read_latin1(file: BinaryIO, length: int, num_bytes: int) -> np.ndarray:
  """Decodes `length` bytes of UTF-8 to one byte per character."""
  buffer = np.empty(num_bytes, np.uint8)
  decoder = codecs.getincrementaldecoder('utf-8')()
  filled = 0
  for start in range(0, length, _PIECE):
    stop = min(length, start + _PIECE)
    piece = decoder.decode(file.read(stop - start), final=stop == length).encode('latin1')
    if filled + len(piece) > num_bytes:
      raise UnsafePickleError(f'more than {num_bytes:,} bytes for an array of as many')
    buffer[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
    filled += len(piece)
  if filled != num_bytes:
    raise UnsafePickleError(f'{filled:,} bytes for an array of {num_bytes:,}')
  return buffer
