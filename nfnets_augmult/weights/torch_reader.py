"""Reading the files of `torch.save` without PyTorch and without executing code from them.

Such a file holds a pickle, in which tensors refer to storages by key, and the bytes of the
storages: since PyTorch 1.6 as members of a zip archive, before, and still on demand, one after
another. `pickle_machine` interprets the pickle, with stand-ins for the few names that tensors take.
"""

import dataclasses
import io
import math
import pickle
import types
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from nfnets_augmult.weights import checks, pickle_names, zip_reader
from nfnets_augmult.weights.pickle_machine import Interpreter
from nfnets_augmult.weights.pickle_names import UnsafePickleError, type_name

# The member of an archive that tells it from a `.npz`, below a folder of any name.
PICKLE_MEMBER = '/data.pkl'
# How a file of the older format begins: two pickles, of a number and of the version.
LEGACY_START = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.'

# The pickle of an NFNet-F7 with its optimizer takes 2 MB.
_LARGEST_PICKLE = 64 * 2**20
_ADVICE = 'torch.save(model.state_dict(), FILE) writes the parameters alone'

_DTYPES = {
  'FloatStorage': '<f4',
  'DoubleStorage': '<f8',
  'HalfStorage': '<f2',
  'LongStorage': '<i8',
  'IntStorage': '<i4',
  'ShortStorage': '<i2',
  'CharStorage': '|i1',
  'ByteStorage': '|u1',
  'BoolStorage': '|b1',
}
_DTYPES = {name: np.dtype(code) for name, code in _DTYPES.items()}
_DTYPES['BFloat16Storage'] = np.dtype(jnp.bfloat16)

# In the order in which timm looks for them: averaged parameters come first.
_STATE_DICTS = ('state_dict_ema', 'model_ema', 'state_dict', 'model')


@dataclasses.dataclass(frozen=True, slots=True)
class _Storage:
  """Stands for numbers that are still in the file."""

  key: str
  dtype: np.dtype
  length: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Tensor:
  """Stands for a tensor; offset and strides are in numbers, not bytes."""

  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class _Ignored:
  """Stands for options of a training run that timm saves with the parameters."""


def load_state_dict(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
  """Returns the tensors of the state dict in a file of `torch.save`, of either format.

  Of a checkpoint of timm's training, these are the averaged parameters if it has them, see
  `_STATE_DICTS`.

  Args:
    file: at its start.
    size: of the file, in bytes.

  Raises:
    UnsafePickleError: the file is damaged, or holds or asks for anything else; nothing of it is
      executed.
  """
  try:
    if file.read(len(LEGACY_START)) == LEGACY_START:
      return _read_legacy(file, size)
    return _read_archive(file, size)
  except UnsafePickleError:
    raise
  except MemoryError as error:
    raise UnsafePickleError('it does not fit into memory') from error
  except Exception as error:  # A file that is cut or forged can fail in any way.
    message = checks.short_message(error)
    raise UnsafePickleError(f'not a readable file of PyTorch: {message}') from error


def _read_archive(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
  with zip_reader.opened(file, size) as (archive, members):
    (pickled,) = [name for name in members if name.endswith(PICKLE_MEMBER)]
    folder = pickled.removesuffix(PICKLE_MEMBER)
    if members[pickled].file_size > _LARGEST_PICKLE:
      raise UnsafePickleError(f'a pickle of {members[pickled].file_size:,} bytes')

    def read(name: str) -> np.ndarray:
      with archive.open(members[name]) as member:
        return zip_reader.read_rest(member, members[name].file_size)

    order = read(f'{folder}/byteorder').tobytes() if f'{folder}/byteorder' in members else b'little'
    if order not in (b'little', b'big'):
      raise UnsafePickleError(f'byte order {checks.show(order.decode("latin1"))}')
    data = read(pickled).tobytes()
    tensors = _state_dict(_Interpreter(io.BytesIO(data), len(data)).run(), size)

    def read_storage(storage: _Storage) -> np.ndarray:
      name = f'{folder}/data/{storage.key}'
      if name not in members:
        raise UnsafePickleError(f'member {checks.show(name)} is missing')
      return read(name)

    return _read_tensors(tensors, read_storage, is_big_endian=order == b'big')


def _read_legacy(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
  machine = _Interpreter(file, size)
  machine_facts = machine.run(is_all=False)
  is_little_endian = machine_facts['little_endian']
  tensors = _state_dict(machine.run(is_all=False), size)
  keys = machine.run(is_all=False)
  if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
    raise UnsafePickleError(f'a {type_name(keys)} in place of the keys of its storages')
  starts = {}
  for key in keys:
    storage = machine.storages.get(key)
    length = int.from_bytes(file.read(8), 'little' if is_little_endian else 'big')
    if storage is None or length != storage.length:
      raise UnsafePickleError(f'storage {checks.show(key)} is not as long as its tensors')
    starts[key] = file.tell()
    stop = starts[key] + length * storage.dtype.itemsize
    if stop > size:
      raise UnsafePickleError('it is cut off')
    file.seek(stop)

  def read_storage(storage: _Storage) -> np.ndarray:
    if storage.key not in starts:
      raise UnsafePickleError(f'storage {checks.show(storage.key)} is missing')
    file.seek(starts[storage.key])
    return np.frombuffer(file.read(storage.length * storage.dtype.itemsize), np.uint8)

  return _read_tensors(tensors, read_storage, is_big_endian=not is_little_endian)


def _state_dict(root: Any, size: int) -> dict[str, _Tensor]:
  """Returns the tensors by name, after checking names and sizes."""
  if not isinstance(root, dict):
    raise UnsafePickleError(f'a saved {_kind(root)}, not a dict of tensors; {_ADVICE}')
  state = next((root[key] for key in _STATE_DICTS if isinstance(root.get(key), dict)), root)
  for name, value in state.items():
    if not isinstance(value, _Tensor):
      shown = checks.show(str(name))
      raise UnsafePickleError(f'{shown} is of type {_kind(value)}, not a tensor; {_ADVICE}')
    if not isinstance(name, str):
      raise UnsafePickleError(f'a name of type {_kind(name)}; names are text')
  checks.check_count(len(state))
  checks.check_size(
    sum(math.prod(t.shape) * t.storage.dtype.itemsize for t in state.values()), size
  )
  return state


def _read_tensors(
  tensors: Mapping[str, _Tensor],
  read_storage: Callable[[_Storage], np.ndarray],
  *,
  is_big_endian: bool,
) -> dict[str, np.ndarray]:
  arrays = {}
  storage = None
  # By storage, so that each is read once.
  for name, tensor in sorted(tensors.items(), key=lambda item: item[1].storage.key):
    if tensor.storage != storage:
      storage = tensor.storage
      data = read_storage(storage)
      checks.check_shape((storage.length,), storage.dtype, len(data))
      if is_big_endian:
        data = data.reshape(-1, storage.dtype.itemsize)[:, ::-1].copy().reshape(-1)
      numbers = checks.make_array(data, storage.dtype, (storage.length,), is_fortran=False)
    strides = [stride * numbers.itemsize for stride in tensor.strides]
    view = np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides)
    arrays[name] = view.copy()
  return arrays


def _make_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
  """Stands for `torch._utils._rebuild_tensor_v2`."""
  if not isinstance(storage, _Storage):
    raise UnsafePickleError(f'a tensor in a {_kind(storage)}')
  sizes = (shape, strides, (offset,))
  if not all(isinstance(numbers, tuple) and len(numbers) <= checks.MOST_AXES for numbers in sizes):
    raise UnsafePickleError('a tensor of no possible shape')
  if not all(type(number) is int and number >= 0 for numbers in sizes for number in numbers):
    raise UnsafePickleError('a tensor of no possible shape')
  if len(shape) != len(strides):
    raise UnsafePickleError('a tensor with as many strides as it has no axes')
  last = sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
  if not all(shape) or offset + last >= storage.length:
    raise UnsafePickleError(f'a tensor of shape {shape} in a storage of {storage.length:,} numbers')
  return _Tensor(storage, offset, shape, strides)


def _kind(value: Any) -> str:
  kinds = {_Tensor: 'tensor', _Storage: 'storage', _Ignored: 'options'}
  return kinds.get(type(value)) or type_name(value)


_FUNCTIONS: dict[tuple[str, str], Any] = {
  ('torch._utils', '_rebuild_tensor_v2'): _make_tensor,
  ('torch._utils', '_rebuild_parameter'): lambda tensor, *_: tensor,
  ('argparse', 'Namespace'): lambda: _Ignored(),
  **{('torch', name): dtype for name, dtype in _DTYPES.items()},
}


class _Interpreter(Interpreter):
  """Knows tensors, too, and what training checkpoints of timm hold besides."""

  key_types = (str, int)

  def __init__(self, file: BinaryIO, size: int) -> None:
    super().__init__(file, size)
    self.storages: dict[str, _Storage] = {}

  def find(self, module: str, name: str) -> Any:
    if (module, name) in _FUNCTIONS:
      return _FUNCTIONS[module, name]
    try:
      return pickle_names.find(module, name)
    except UnsafePickleError as error:
      shown = checks.show(f'{module}.{name}')
      raise UnsafePickleError(
        f'the file asks for {shown}; only tensors in plain containers are read: {_ADVICE}'
      ) from error

  def set_state(self, target: Any, state: Any) -> None:
    # A state dict has an attribute with the versions of its modules, and options are not read.
    if not isinstance(target, dict | _Ignored):
      super().set_state(target, state)

  def refer(self) -> None:
    """Pushes a storage, which a file of PyTorch refers to by type, key, place and length."""
    (reference,) = self.pop(1)
    if not isinstance(reference, tuple) or len(reference) not in (5, 6):
      raise UnsafePickleError('a reference to no storage')
    kind, dtype, key, _, length, *views = reference
    if kind != 'storage' or not isinstance(key, str) or type(length) is not int or length < 0:
      raise UnsafePickleError('a reference to no storage')
    if not isinstance(dtype, np.dtype) or views not in ([], [None]):
      raise UnsafePickleError(f'a storage of type {_kind(dtype)}; only real numbers are read')
    storage = _Storage(key, dtype, length)
    if self.storages.setdefault(key, storage) != storage:
      raise UnsafePickleError(f'storage {checks.show(key)} is there twice')
    self.push(storage)

  def make(self) -> None:
    """Pushes a new object without arguments."""
    function, arguments = self.pop(2)
    if not isinstance(function, types.FunctionType) or arguments != ():
      raise UnsafePickleError(f'an object of a {_kind(function)}')
    self.push(pickle_names.call(function, arguments))


_Interpreter.operations = Interpreter.operations | {
  pickle.BINPERSID: _Interpreter.refer,
  pickle.NEWOBJ: _Interpreter.make,
}
