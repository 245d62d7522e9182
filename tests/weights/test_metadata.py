"""What a parameter file says of itself comes back as it was, from both formats."""

import numpy as np
import pytest
import safetensors.numpy

from nfnets_augmult.weights import metadata as metadata_lib
from nfnets_augmult.weights.param_files import read_metadata, read_params, write_npz

_METADATA = {
  'class_names': ['Apfel', 'café', '猫', '\udcff.jpg', ''],
  'model': 'nfnet_f0',
  'image_size': 224,
  'no_utf_8': '\udcff',
  'looks_like_a_number': '224',
  'nested': {'a': [1, None, True]},
}


def test_npz(tmp_path):
  path = tmp_path / 'p.npz'
  write_npz(path, {'net': {'w': np.ones(2)}}, _METADATA)
  assert read_metadata(path) == _METADATA
  assert list(read_params(path)) == ['net']
  with np.load(path, allow_pickle=False) as plain:
    assert plain['__metadata__'].shape == ()


def test_texts_come_back_as_values():
  texts = metadata_lib.to_texts(_METADATA)
  assert all(isinstance(text, str) for text in texts.values())
  assert texts['model'] == 'nfnet_f0'
  assert metadata_lib.from_texts(texts) == _METADATA


def test_safetensors(tmp_path):
  path = tmp_path / 'p.safetensors'
  texts = {**metadata_lib.to_texts(_METADATA), 'format': 'pt'}
  path.write_bytes(safetensors.numpy.save({'w': np.ones(2)}, metadata=texts))
  assert read_metadata(path) == _METADATA


def test_none_and_damaged(tmp_path):
  write_npz(tmp_path / 'none.npz', {'net': {'w': np.ones(2)}})
  assert read_metadata(tmp_path / 'none.npz') == {}
  np.savez(tmp_path / 'list.npz', __metadata__=np.asarray('[1]'))
  np.savez(tmp_path / 'deep.npz', __metadata__=np.asarray('[' * 100_000))
  np.savez(tmp_path / 'number.npz', __metadata__=np.asarray(1.0))
  (tmp_path / 'long.safetensors').write_bytes(b'\xff' * 7 + b'\0' + b'{}')
  (tmp_path / 'no_json.safetensors').write_bytes(b'\2' + b'\0' * 7 + b'{{')
  for name in ('list.npz', 'deep.npz', 'number.npz', 'long.safetensors', 'no_json.safetensors'):
    with pytest.raises(ValueError, match=name):
      read_metadata(tmp_path / name)


@pytest.mark.parametrize('value', [np.float32(1), float('nan'), 'x' * 2**22])
def test_what_is_no_small_json_is_refused(value):
  with pytest.raises(ValueError, match=r'metadata|JSON'):
    metadata_lib.to_json({'key': value})
