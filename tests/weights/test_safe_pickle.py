"""Released files are read, under old and new names of numpy; hostile ones are refused."""

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
  """What is read, and what is not."""

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

  def _modules(self, modules):
    return absltest.mock.patch.dict(sys.modules, modules)

  def test_ordered_dict_is_a_plain_container(self):
    params = collections.OrderedDict(a=collections.OrderedDict(w=np.ones(2)))
    np.testing.assert_array_equal(_load(pickle.dumps(params))['a']['w'], [1, 1])

  @parameterized.product(protocol=[2, 4], function=[os.system, builtins.eval, builtins.exec])
  def test_hostile_file_is_refused_and_nothing_runs(self, protocol, function):
    marker = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / 'was_here'
    code = f'open({str(marker)!r}, "w").close()'
    call = _Runs(function, f'touch {marker}' if function is os.system else code)
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
