"""Files as `torch.save` writes them, made without PyTorch."""

import io
import pickle
import struct
import zipfile

import numpy as np

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
  '<f4': 'FloatStorage',
  '<f2': 'HalfStorage',
  '<f8': 'DoubleStorage',
  '<i8': 'LongStorage',
}
ORDERED_DICT = b'ccollections\nOrderedDict\n)R'


def text(value):
  data = value.encode()
  return b'X' + struct.pack('<I', len(data)) + data


def number(value):
  return b'\x8a\x08' + struct.pack('<q', value)


def numbers(values):
  return b'(' + b''.join(map(number, values)) + b't'


def tensor(key, kind, length, shape, *, strides=None, offset=0, view=b''):
  """Returns the operations that push a tensor."""
  strides = np.cumprod([1, *shape[:0:-1]])[::-1] if strides is None else strides
  storage = b'(%bctorch\n%b\n%b%b%b%bt' % (
    *(text('storage'), kind.encode(), text(key), text('cpu'), number(length), view),
  )
  sizes = numbers(shape) + numbers(map(int, strides if shape else ()))
  arguments = storage + b'Q' + number(offset) + sizes + b'\x89' + ORDERED_DICT
  return b'ctorch._utils\n_rebuild_tensor_v2\n(' + arguments + b'tR'


def state_dict(tensors):
  """Returns the operations that push an ordered dict with the attribute that PyTorch gives it."""
  items = b''.join(text(name) + operations for name, operations in tensors.items())
  versions = ORDERED_DICT + text('') + b'}' + text('version') + b'K\1ss'
  return ORDERED_DICT + b'(' + items + b'u' + b'}' + text('_metadata') + versions + b'sb'


def program(operations):
  return b'\x80\x02' + operations + b'.'


def archive(pickled, storages, *, order=b'little', folder='net'):
  """Returns the file of a pickle and of storages by key."""
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w') as file:
    file.writestr(f'{folder}/data.pkl', pickled)
    if order:
      file.writestr(f'{folder}/byteorder', order)
    for key, data in storages.items():
      file.writestr(f'{folder}/data/{key}', data)
    file.writestr(f'{folder}/version', b'3\n')
  return buffer.getvalue()


def legacy(operations, storages, lengths):
  """Returns the file of the format before the archives."""
  facts = {'protocol_version': 1001, 'little_endian': True, 'type_sizes': {'int': 4}}
  start = b''.join(pickle.dumps(value, 2) for value in (LEGACY_MAGIC, 1001, facts))
  data = b''.join(struct.pack('<q', lengths[key]) + storages[key] for key in storages)
  return start + program(operations) + pickle.dumps(list(storages), 2) + data


def _parts(arrays, view):
  tensors = {
    name: tensor(str(i), STORAGES[array.dtype.str], array.size, array.shape, view=view)
    for i, (name, array) in enumerate(arrays.items())
  }
  storages = {str(i): array.tobytes() for i, array in enumerate(arrays.values())}
  lengths = {str(i): array.size for i, array in enumerate(arrays.values())}
  return tensors, storages, lengths


def save(arrays, *, wrap=lambda operations: operations):
  """Returns the archive of a state dict, `wrap` making a checkpoint of its operations."""
  tensors, storages, _ = _parts(arrays, b'')
  return archive(program(wrap(state_dict(tensors))), storages)


def save_legacy(arrays):
  """Returns the older file of a state dict."""
  tensors, storages, lengths = _parts(arrays, b'N')
  return legacy(state_dict(tensors), storages, lengths)
