"""Files of PyTorch are read without it: both formats, checkpoints, and nothing that runs code."""

import io

import numpy as np
import pytest

from nfnets_augmult.weights.safe_pickle import UnsafePickleError
from nfnets_augmult.weights.torch_reader import load_state_dict
from tests.weights import torch_files

_ARRAYS = {
  'a.weight': np.arange(6, dtype='<f4').reshape(2, 3),
  'a.scalar': np.asarray(0.5, '<f2'),
  'b.steps': np.asarray([2**40], '<i8'),
}


def _load(data):
  return load_state_dict(io.BytesIO(data), len(data))


def _assert_equal(got, want):
  assert got.keys() == want.keys()
  for name, array in want.items():
    np.testing.assert_array_equal(got[name], array)
    assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape)


@pytest.mark.parametrize('save', [torch_files.save, torch_files.save_legacy])
def test_state_dicts_of_both_formats(save):
  _assert_equal(_load(save(_ARRAYS)), _ARRAYS)


def test_a_training_checkpoint_gives_its_averaged_parameters():
  """As timm writes it: options, numbers and states of the optimizer by number are passed over."""

  def checkpoint(state):
    options = b'cargparse\nNamespace\n)\x81}' + torch_files.text('lr') + b'G?\xe0\0\0\0\0\0\0sb'
    optimizer = b'}' + torch_files.number(0) + b'}' + torch_files.text('step') + b'K\7ss'
    other = b'}' + torch_files.text('a') + torch_files.tensor('2', 'LongStorage', 1, (1,)) + b's'
    names = ('args', 'optimizer', 'epoch', 'state_dict', 'state_dict_ema')
    values = zip(names, (options, optimizer, b'K\3', other, state), strict=True)
    return b'}(' + b''.join(torch_files.text(name) + value for name, value in values) + b'u'

  _assert_equal(_load(torch_files.save(_ARRAYS, wrap=checkpoint)), _ARRAYS)


def test_strides_offsets_shared_storages_and_bfloat16():
  data = np.arange(12, dtype='<f4')
  halves = (np.asarray([1.5, -2.0], np.float32).view('<u4') >> 16).astype('<u2')
  tensors = {
    'columns': torch_files.tensor('0', 'FloatStorage', 12, (3, 2), strides=(1, 3), offset=4),
    'half': torch_files.tensor('1', 'BFloat16Storage', 2, (2,)),
    'rows': torch_files.tensor('0', 'FloatStorage', 12, (2, 3)),
  }
  pickled = torch_files.program(torch_files.state_dict(tensors))
  storages = {'0': data.tobytes(), '1': halves.tobytes()}
  got = _load(torch_files.archive(pickled, storages, order=b''))
  np.testing.assert_array_equal(got['columns'], [[4, 7], [5, 8], [6, 9]])
  np.testing.assert_array_equal(got['rows'], data[:6].reshape(2, 3))
  np.testing.assert_array_equal(got['half'].astype(np.float32), [1.5, -2.0])
  swapped = {'0': data.byteswap().tobytes(), '1': halves.byteswap().tobytes()}
  big_endian = _load(torch_files.archive(pickled, swapped, order=b'big'))
  for name, array in got.items():
    np.testing.assert_array_equal(big_endian[name], array)


@pytest.mark.parametrize('place', ['leaf', 'options'])
def test_nothing_is_run(tmp_path, place):
  """Not even in a part of the file that is not needed."""
  marker = tmp_path / 'was_here'
  call = b'cposix\nsystem\n' + torch_files.text(f'touch {marker}') + b'\x85R'
  good = torch_files.tensor('0', 'FloatStorage', 1, (1,))
  state = torch_files.state_dict({'a': call if place == 'leaf' else good})
  root = b'}(' + torch_files.text('args') + call + torch_files.text('state_dict') + state + b'u'
  pickled = torch_files.program(state if place == 'leaf' else root)
  with pytest.raises(UnsafePickleError, match=r"asks for 'posix.system'.*state_dict\(\), FILE"):
    _load(torch_files.archive(pickled, {'0': bytes(4)}))
  assert not marker.exists()
