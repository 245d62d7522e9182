"""Plain `.npz` files, recognising files by contents, and writing whole or not at all."""

import os
import pathlib
import pickle
import shutil
import stat
import tempfile
import zipfile

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from absl.testing import absltest, parameterized

from nfnets_augmult.ops.atomic_file import write_atomically
from nfnets_augmult.weights.param_files import flatten, read_params, unflatten, write_npz


def _params():
  return {
    'NFNet/~/linear': {'w': np.arange(6, dtype=np.float32).reshape(2, 3), 'b': jnp.ones(3)},
    'NFNet/~/nf_block': {'skip_gain': np.asarray(0.5, np.float32)},
  }


class ParamFilesTest(parameterized.TestCase):
  """Reading and writing."""

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def _assert_equal(self, got):
    want = flatten(_params())
    self.assertEqual(flatten(got).keys(), want.keys())
    for name, leaf in flatten(got).items():
      np.testing.assert_array_equal(leaf, want[name])
      self.assertEqual(leaf.dtype, want[name].dtype)

  def test_npz_round_trip(self):
    write_npz(self.folder / 'params.npz', _params())
    self._assert_equal(read_params(self.folder / 'params.npz'))
    with np.load(self.folder / 'params.npz', allow_pickle=False) as plain:
      self.assertIn('NFNet/~/nf_block/skip_gain', plain.files)

  def test_released_files_are_pickles_called_npz(self):
    path = self.folder / 'F0_haiku.npz'
    numpy_params = {m: {n: np.asarray(p) for n, p in v.items()} for m, v in _params().items()}
    path.write_bytes(pickle.dumps(numpy_params))
    self._assert_equal(read_params(path))

  def test_pickles_inside_an_npz_are_refused(self):
    path = self.folder / 'objects.npz'
    np.savez(path, **{'net/w': np.asarray([{}], object)})
    with self.assertRaisesRegex(ValueError, "objects.npz: member 'net/w': it is of type '|O'"):
      read_params(path)

  def test_errors_name_the_file_or_the_array(self):
    (self.folder / 'notes.txt').write_text('hello')
    with self.assertRaisesRegex(ValueError, 'notes.txt: neither'):
      read_params(self.folder / 'notes.txt')
    with self.assertRaisesRegex(ValueError, "'w' is not of the form"):
      unflatten({'w': 1})
    with self.assertRaisesRegex(ValueError, "'net/w' is of type 'complex64'"):
      write_npz(self.folder / 'complex.npz', {'net': {'w': np.ones(2, np.complex64)}})

  def test_types_are_kept_but_for_those_that_files_cannot_keep(self):
    values = {
      'f2': np.float16(0.5),
      'f4': np.asfortranarray(np.arange(6, dtype='>f4').reshape(2, 3)),
      'f8': np.arange(3.0)[::2],
      'b1': np.asarray([True, False]),
      'i8': np.asarray(-3, '>i8'),
      'none': np.zeros((0, 3), np.uint8),
      'bfloat16': jnp.asarray([1.5, -2.0], jnp.bfloat16),
      'float8': np.asarray([1.5, -2.0], ml_dtypes.float8_e5m2),
    }
    write_npz(self.folder / 'p.npz', {'net': values})
    got = read_params(self.folder / 'p.npz')['net']
    for name, value in values.items():
      np.testing.assert_array_equal(got[name], np.asarray(value, got[name].dtype))
      self.assertEqual(got[name].shape, value.shape)
      dtype = np.dtype(np.float32 if name in ('bfloat16', 'float8') else value.dtype)
      self.assertEqual(got[name].dtype, dtype.newbyteorder('='))

  @parameterized.product(order=['C', 'F'], dtype=['<f4', '>f4', '>f8'], compressed=[False, True])
  def test_any_npz_of_numpy_is_read(self, order, dtype, compressed):
    want = np.asarray(np.random.default_rng(0).standard_normal((300, 1500)), dtype, order=order)
    save = np.savez_compressed if compressed else np.savez
    save(self.folder / 'p.npz', **{'net/w': want, 'net/s': want[0, 0]})
    got = read_params(self.folder / 'p.npz')['net']
    np.testing.assert_array_equal(got['w'], want)
    np.testing.assert_array_equal(got['s'], want[0, 0])
    for leaf in got.values():
      assert leaf.dtype.isnative
      assert leaf.flags.c_contiguous
      assert leaf.flags.writeable

  @parameterized.parameters(
    ({}, 'there are no parameters'),
    ({'net': {}}, 'there are no parameters'),
    ({'net': np.ones(2)}, "'net' holds a ndarray, not a dict"),
    ({'net': {'w': None}}, "'net/w' is of type 'object'"),
    ({'net': {'w': 'text'}}, "'net/w' is of type '<U4'|'net/w' is of type 'str"),
    ({'net': {'w': np.zeros(2, 'f4,i4')}}, "'net/w' is of type"),
    ({'net': {'a/w': np.ones(2)}}, "'net/a/w' is not of the form"),
    ({'net': {'w': np.asarray([1.0, np.inf]), 'b': np.asarray(np.nan)}}, '1 of 2.*1 other'),
  )
  def test_what_are_no_parameters_is_not_written(self, params, message):
    with self.assertRaisesRegex(ValueError, message):
      write_npz(self.folder / 'p.npz', params)
    self.assertEmpty(os.listdir(self.folder))

  def test_folder_entries_of_a_packed_folder_are_passed_over(self):
    write_npz(self.folder / 'p.npz', _params())
    with zipfile.ZipFile(self.folder / 'p.npz') as archive:
      archive.extractall(self.folder / 'unpacked')
    path = shutil.make_archive(str(self.folder / 'again'), 'zip', self.folder / 'unpacked')
    self._assert_equal(read_params(path))

  def test_unflatten_inverts_flatten(self):
    self.assertEqual(
      unflatten({'a/~/b/w': 1, 'a/~/b/gain': 2, 'c/w': 3}),
      {
        'a/~/b': {'w': 1, 'gain': 2},
        'c': {'w': 3},
      },
    )

  def test_failed_write_leaves_the_old_file_and_no_other(self):
    path = self.folder / 'kept'
    path.write_bytes(b'old')

    def fail(file):
      file.write(b'half of the new')
      raise RuntimeError('disk full')

    with self.assertRaisesRegex(RuntimeError, 'disk full'):
      write_atomically(path, fail)
    self.assertEqual(path.read_bytes(), b'old')
    self.assertEqual(os.listdir(self.folder), ['kept'])

  def test_written_file_replaces_and_has_the_usual_permissions(self):
    path = self.folder / 'file'
    path.write_bytes(b'old')
    usual = stat.S_IMODE(path.stat().st_mode)
    write_atomically(path, lambda file: file.write(b'new'))
    self.assertEqual(path.read_bytes(), b'new')
    self.assertEqual(stat.S_IMODE(path.stat().st_mode), usual)
    self.assertEqual(os.listdir(self.folder), ['file'])


if __name__ == '__main__':
  absltest.main()
