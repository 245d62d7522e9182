"""Plain `.npz` files, recognising files by contents, and writing whole or not at all."""

import os
import pathlib
import pickle
import stat
import tempfile

import jax.numpy as jnp
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
