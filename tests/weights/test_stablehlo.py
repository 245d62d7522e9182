"""Files with a program: written and read again; damaged and hostile ones are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from nfnets_augmult.weights import param_files, stablehlo

_PARAMS = {'net/linear': {'b': np.zeros(3, np.float32), 'w': np.eye(12, 3, dtype=np.float32)}}
_METADATA = {
  'class_names': ['a', 'b', 'c'],
  'program': {
    'compute_dtype': 'float32',
    'normalization': [[0.0], [1.0]],
    'preprocessing': {'image_shape': [2, 2, 3]},
  },
}


def _probabilities(params, images):
  flat = images.reshape(images.shape[0], -1).astype(jnp.float32)
  return jax.nn.softmax(flat @ params['net/linear']['w'] + params['net/linear']['b'])


def _write(path, function=_probabilities, metadata=_METADATA, image_shape=(2, 2, 3)):
  stablehlo.write_program(path, function, _PARAMS, image_shape, metadata)
  return str(path)


def test_a_program_is_read_as_it_was_written(tmp_path):
  """For any number of images; NumPy and JAX alone can read it, too."""
  path = _write(tmp_path / 'a.stablehlo')
  program = stablehlo.read_program(path)
  images = np.random.default_rng(0).integers(0, 4, (5, 2, 2, 3), np.uint8)
  for count in (1, 5):
    found = program.call(program.params, images[:count])
    np.testing.assert_allclose(found, _probabilities(_PARAMS, images[:count]), rtol=1e-6)
  assert program.class_names == ('a', 'b', 'c')
  assert program.metadata['program']['jax'] == jax.__version__
  with np.load(path, allow_pickle=False) as file:
    assert set(file.files) == {'net/linear/w', 'net/linear/b', '__metadata__', '__program__'}
    exported = export.deserialize(bytearray(file['__program__']))
  assert set(exported.platforms) == {'cpu', 'cuda', 'rocm', 'tpu'}
  assert not exported.disabled_safety_checks
  with pytest.raises(ValueError, match='b'):  # no image at all
    program.call(program.params, images[:0])


def test_what_is_refused(tmp_path, monkeypatch):
  """Each in one line that names the file."""
  good = _write(tmp_path / 'good.stablehlo')
  path = str(tmp_path / 'bad.stablehlo')
  said, encoded = param_files.read_metadata(good), param_files.read_program(good)
  with open(good, 'rb') as file:
    whole = file.read()
  place = whole.index(encoded) + len(encoded) // 2
  flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]

  def written(**changes):
    program = {**said['program'], **changes.pop('program_says', {})}
    metadata = {**said, 'program': program, **changes.pop('says', {})}
    values = {'params': _PARAMS, 'program': encoded, **changes}
    param_files.write_npz(path, values['params'], metadata, program=values['program'])

  def content(data):
    with open(path, 'wb') as file:
      file.write(data)

  wide = {'net/linear': {**_PARAMS['net/linear'], 'b': np.zeros(4, np.float32)}}
  cases = [
    (lambda: content(whole[:-50]), 'not a whole archive'),
    (lambda: content(flipped), 'CRC'),
    (lambda: content(b'a program'), 'neither a .npz nor'),
    (lambda: written(program=None), 'it holds no program'),
    (lambda: written(program=encoded[: len(encoded) // 2]), 'its program is damaged, or of a'),
    (lambda: written(program=b'\0' * 64), 'its program is damaged, or of a'),
    (lambda: written(program=b''), 'its program is damaged, or of a'),
    (lambda: written(program_says={'format_version': 2}), "version '2', and this package reads 1"),
    (lambda: written(program_says={'preprocessing': 3}), 'program.preprocessing is not there'),
    (lambda: written(says={'class_names': ['a', 'b']}), 'for other parameters, images or classes'),
    (lambda: written(says={'class_names': [1, 2, 3]}), 'class_names are no list of names'),
    (lambda: written(says={'program': []}), 'it holds no program'),
    (lambda: written(params=wide), 'for other parameters, images or classes'),
    (
      lambda: written(program_says={'preprocessing': {'image_shape': [4, 1, 3]}}),
      'for other parameters, images or classes',
    ),
  ]
  for make, words in cases:
    make()
    with pytest.raises(ValueError, match=words) as caught:
      stablehlo.read_program(path)
    assert str(caught.value).startswith(f'{path}: ')
    assert len(str(caught.value).splitlines()) == 1
  monkeypatch.setattr(stablehlo.export, 'default_export_platform', lambda: 'abacus')
  with pytest.raises(ValueError, match='is for cpu, cuda, rocm, tpu, and here is abacus'):
    stablehlo.read_program(good)


def test_a_program_that_calls_other_code_is_refused(tmp_path):
  """As a custom call into a library would; what is written has none but a check of the shape."""
  path = str(tmp_path / 'bad.stablehlo')
  (batch,) = export.symbolic_shape('b')
  specs = jax.eval_shape(lambda: _PARAMS)
  images = jax.ShapeDtypeStruct((batch, 2, 2, 3), jnp.uint8)

  def calls(params, images):
    matrix = params['net/linear']['w'][:3] + 2 * jnp.eye(3)
    return _probabilities(params, images) + jnp.linalg.cholesky(matrix)[0]

  exported = export.export(jax.jit(calls), platforms=['cpu'])(specs, images)
  good = param_files.read_metadata(_write(tmp_path / 'good.stablehlo'))
  param_files.write_npz(path, _PARAMS, good, program=bytes(exported.serialize()))
  with pytest.raises(ValueError, match='calls more than the operations of StableHLO'):
    stablehlo.read_program(path)
