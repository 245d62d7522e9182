"""Released files are read, under old and new names of numpy; hostile ones are refused."""

import base64
import builtins
import collections
import io
import os
import pathlib
import pickle
import sys
import tempfile
import types

import numpy as np
from absl.testing import absltest, parameterized

from nfnets_augmult.weights.safe_pickle import UnsafePickleError, load_params


def _params():
  rng = np.random.default_rng(0)
  return {
    'NFNet/~/stem_conv0': {
      'w': rng.standard_normal((3, 3, 2, 4)).astype(np.float32),
      'gain': np.asfortranarray(rng.standard_normal((2, 3))),
    },
    'NFNet/~/nf_block': {'skip_gain': np.zeros((), np.float32), 'count': np.int32(7)},
    'empty': {'none': np.zeros((0, 3), np.float16), 'big_endian': np.arange(3, dtype='>f4')},
  }


# What dill 0.3.3 writes with numpy 1.26.4, in protocols 2 and 4, in base 64.
_OLD_DILL = (
  """
  gAJ9cQBYAwAAAG5ldHEBfXECKFgBAAAAd3EDY2RpbGwuX2RpbGwKX2dldF9hdHRyCnEEY2RpbGwuX2RpbGwKX2ltcG9ydF9t
  b2R1bGUKcQVYHAAAAG51bXB5LmNvcmUuX211bHRpYXJyYXlfdW1hdGhxBoVxB1JxCFgMAAAAX3JlY29uc3RydWN0cQmGcQpS
  cQtjbnVtcHkKbmRhcnJheQpxDEsAhXENaARoBVgHAAAAX2NvZGVjc3EOhXEPUnEQWAYAAABlbmNvZGVxEYZxElJxE1gBAAAA
  YnEUWAYAAABsYXRpbjFxFYZxFlJxF4dxGFJxGShLAUsChXEaY251bXB5CmR0eXBlCnEbWAIAAABmNHEciYiHcR1ScR4oSwNY
  AQAAADxxH05OTkr/////Sv////9LAHRxIGKJaBNYCQAAAAAAwoA/AAAAQHEhaBWGcSJScSN0cSRiWAEAAABzcSVoBGgIWAYA
  AABzY2FsYXJxJoZxJ1JxKGgeaBNYBAAAAAAAQEBxKWgVhnEqUnErhnEsUnEtWAEAAABlcS5oC2gMSwCFcS9oF4dxMFJxMShL
  AUsAhXEyaB6JY2RpbGwuX2RpbGwKX2xvYWRfdHlwZQpxM1gFAAAAYnl0ZXNxNIVxNVJxNilScTd0cThidXMu
  """,
  """
  gASVIgEAAAAAAAB9lIwDbmV0lH2UKIwBd5SMCmRpbGwuX2RpbGyUjAlfZ2V0X2F0dHKUk5RoBIwOX2ltcG9ydF9tb2R1bGWU
  k5SMHG51bXB5LmNvcmUuX211bHRpYXJyYXlfdW1hdGiUhZRSlIwMX3JlY29uc3RydWN0lIaUUpSMBW51bXB5lIwHbmRhcnJh
  eZSTlEsAhZRDAWKUh5RSlChLAUsChZRoD4wFZHR5cGWUk5SMAmY0lImIh5RSlChLA4wBPJROTk5K/////0r/////SwB0lGKJ
  QwgAAIA/AAAAQJR0lGKMAXOUaAZoC4wGc2NhbGFylIaUUpRoG0MEAABAQJSGlFKUjAFllGgOaBFLAIWUaBOHlFKUKEsBSwCF
  lGgbiUMAlHSUYnVzLg==
  """,
)


def _load(data):
  return load_params(io.BytesIO(data))


class _Runs:
  """Pickles as a call of a function."""

  def __init__(self, function, *arguments):
    self.call = function, arguments

  def __reduce__(self):
    return self.call


class _DillPickler(pickle.Pickler):
  """Writes arrays as `dill` does: one call that makes and fills them."""

  def __init__(self, file, create_array, **options):
    super().__init__(file, **options)
    self.create_array = create_array

  def reducer_override(self, obj):
    if not isinstance(obj, np.ndarray):
      return NotImplemented
    return self.create_array, (*obj.__reduce__(), None)


class LoadParamsTest(parameterized.TestCase):
  """Pickles that are read, and pickles that are refused."""

  def _assert_equal_params(self, got):
    want = _params()
    self.assertEqual({m: set(v) for m, v in got.items()}, {m: set(v) for m, v in want.items()})
    for module, values in want.items():
      for name, value in values.items():
        np.testing.assert_array_equal(got[module][name], value)
        self.assertEqual(got[module][name].dtype, value.dtype.newbyteorder('='))
        assert got[module][name].flags.writeable

  @parameterized.parameters(2, 3, 4, 5)
  def test_round_trip(self, protocol):
    self._assert_equal_params(_load(pickle.dumps(_params(), protocol=protocol)))

  @parameterized.product(protocol=[2, 3], core=[b'numpy.core', b'numpy._core'])
  def test_old_and_new_module_paths(self, protocol, core):
    data = pickle.dumps(_params(), protocol=protocol)
    renamed = data.replace(b'cnumpy._core.', b'cnumpy.core.').replace(
      b'cnumpy.core.', b'c' + core + b'.'
    )
    assert b'c' + core + b'.multiarray\n_reconstruct' in renamed
    self._assert_equal_params(_load(renamed))

  @parameterized.product(protocol=[2, 3, 4, 5], module=['dill._dill', 'dill.dill'])
  def test_arrays_as_dill_writes_them(self, protocol, module):
    def _create_array():
      raise AssertionError('the reader must not call what the file names')

    _create_array.__module__, _create_array.__qualname__ = module, '_create_array'
    fake = types.ModuleType(module)
    fake._create_array = _create_array
    buffer = io.BytesIO()
    package = types.ModuleType('dill')
    setattr(package, module.partition('.')[2], fake)
    with self._modules({'dill': package, module: fake}):
      _DillPickler(buffer, _create_array, protocol=protocol).dump(_params())
    assert b'_create_array' in buffer.getvalue()
    self._assert_equal_params(_load(buffer.getvalue()))

  @parameterized.parameters(*_OLD_DILL)
  def test_arrays_as_dill_wrote_them_in_2021(self, encoded):
    values = _load(base64.b64decode(encoded))['net']
    self.assertEqual(
      {name: (value.dtype, value.tolist()) for name, value in values.items()},
      {'w': (np.float32, [1.0, 2.0]), 's': (np.float32, 3.0), 'e': (np.float32, [])},
    )

  @parameterized.parameters(
    ('_import_module', ('os',), "the module 'os'"),
    ('_get_attr', (None, 'fromfile'), 'an attribute of a NoneType'),
    ('_load_type', ('FunctionType',), 'a type that arrays do not need'),
    ('_create_function', (), 'dill._dill._create_function'),
  )
  def test_no_other_name_is_found_through_dill(self, function, arguments, message):
    call = f'cdill._dill\n{function}\n'.encode() + b'('
    for argument in arguments:
      call += b'N' if argument is None else b'\x8c' + bytes([len(argument)]) + argument.encode()
    with self.assertRaisesRegex(UnsafePickleError, message):
      _load(b'\x80\x04' + call + b'tR.')

  def test_no_other_attribute_is_found_through_dill(self):
    data = base64.b64decode(_OLD_DILL[1])
    hostile = data.replace(b'\x8c\x0c_reconstruct', b'\x8c\x0cset_numeric_')
    assert hostile != data
    with self.assertRaisesRegex(UnsafePickleError, '_multiarray_umath.set_numeric_'):
      _load(hostile)

  @parameterized.product(protocol=[2, 3, 4, 5], order=['C', 'F'])
  def test_large_arrays_are_read_from_their_place_in_the_file(self, protocol, order):
    rng = np.random.default_rng(0)
    want = {n: np.asarray(rng.integers(0, 256, (1000, 1501), np.uint8), order=order) for n in 'ab'}
    got = _load(pickle.dumps({'net': want}, protocol))['net']
    for name in 'ab':
      np.testing.assert_array_equal(got[name], want[name])
      assert got[name].flags.writeable
      assert got[name].flags.c_contiguous

  def test_one_array_under_two_names_becomes_two(self):
    shared = np.ones(2)
    values = _load(pickle.dumps({'net': {'a': shared, 'b': shared}}))['net']
    values['a'][0] = 5
    np.testing.assert_array_equal(values['b'], [1, 1])

  def _modules(self, modules):
    return absltest.mock.patch.dict(sys.modules, modules)

  def test_ordered_dict_is_a_plain_container(self):
    params = collections.OrderedDict(a=collections.OrderedDict(w=np.ones(2)))
    np.testing.assert_array_equal(_load(pickle.dumps(params))['a']['w'], [1, 1])

  @parameterized.product(protocol=[2, 4], function=[os.system, builtins.eval, builtins.exec])
  def test_hostile_file_is_refused_and_nothing_runs(self, protocol, function):
    marker = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / 'was_here'
    code = f'open({str(marker)!r}, "w").close()'
    call = _Runs(function, f'touch "{marker}"' if function is os.system else code)
    data = pickle.dumps({'net': {'w': np.ones(2), 'b': call}}, protocol=protocol)
    with self.assertRaisesRegex(UnsafePickleError, f'asks for .*{function.__name__}'):
      _load(data)
    assert not marker.exists()
    # The file does harm where it is let.
    pickle.loads(data)
    assert marker.exists()

  @parameterized.parameters(np.fromfile, np.load, np.dtype.newbyteorder, getattr, io.open)
  def test_no_other_name_is_found_even_of_numpy(self, function):
    data = pickle.dumps({'net': {'w': np.ones(2), 'b': function}})
    with self.assertRaisesRegex(UnsafePickleError, 'asks for'):
      _load(data)

  @parameterized.named_parameters(
    ('objects', {'net': {'w': np.asarray([{}], object)}}, "type 'O8'"),
    ('strings', {'net': {'w': np.asarray(['a'])}}, "type 'U1'"),
    ('dates', {'net': {'w': np.asarray(['2021-01-01'], 'M8[D]')}}, "type 'M8'"),
    ('records', {'net': {'w': np.zeros(2, 'f4,i4')}}, "type 'V8'"),
    ('list', [1, 2], 'a pickled list'),
    ('flat', {'w': np.ones(2)}, "'w' holds"),
    ('deep', {'net': {'sub': {'w': np.ones(2)}}}, 'net/sub. is of type dict'),
    ('text', {'net': {'w': 'text'}}, 'net/w. is of type str'),
    ('keys', {3: {'w': np.ones(2)}}, 'a name of type int'),
  )
  def test_other_contents_are_refused(self, tree, message):
    with self.assertRaisesRegex(UnsafePickleError, message):
      _load(pickle.dumps(tree))

  @parameterized.parameters(1, 10, 60, 200)
  def test_cut_file(self, size):
    with self.assertRaisesRegex(UnsafePickleError, 'not a readable pickle'):
      _load(pickle.dumps(_params())[:size])

  def test_false_shape_is_refused(self):
    """A shape larger than the data would read foreign memory."""
    data = pickle.dumps({'net': {'w': np.zeros(5, np.float32)}}, protocol=2)
    forged = data.replace(b'K\x05\x85', b'K\x06\x85')
    assert forged != data
    with self.assertRaisesRegex(UnsafePickleError, r'20 bytes for an array of shape \(6,\)'):
      _load(forged)

  def test_one_file_cannot_change_how_the_next_is_read(self):
    """A pickle may set attributes of what it names: here, of the stand-in for the array type."""
    hostile = (
      b'\x80\x02cnumpy\nndarray\n'  # push the class
      b'N}X\x05\x00\x00\x00valueK\x2as\x86b.'  # BUILD it with (None, {'value': 42})
    )
    with self.assertRaises(UnsafePickleError):
      _load(hostile)
    self._assert_equal_params(_load(pickle.dumps(_params())))


if __name__ == '__main__':
  absltest.main()
