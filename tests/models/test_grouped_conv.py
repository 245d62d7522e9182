"""Every algorithm of a convolution gives the numbers and gradients of the native one."""

import functools
import json
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from nfnets_augmult.models import grouped_conv
from nfnets_augmult.models.grouped_conv import (
  ALGORITHMS,
  KINDS,
  conv2d,
  default_algorithm,
  kind_of,
)


def _normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


class Conv2DTest(parameterized.TestCase):
  """All algorithms, on small odd and even sizes."""

  @parameterized.product(
    algorithm=[name for name in ALGORITHMS if name != 'native'],
    # kernel, inputs, outputs, groups
    case=[(1, 6, 4, 1), (1, 6, 4, 2), (3, 6, 4, 1), (3, 6, 4, 2), (7, 3, 4, 1)],
    stride=[1, 2],
    size=[(8, 8), (7, 10)],
  )
  def test_equals_native(self, algorithm, case, stride, size):
    kernel, inputs, outputs, groups = case
    x = _normal(2, *size, inputs)
    w = _normal(kernel, kernel, inputs // groups, outputs, seed=1)

    def convolve(name):
      return jax.vjp(lambda x, w: conv2d(x, w, stride=stride, groups=groups, algorithm=name), x, w)

    got, pullback = convolve(algorithm)
    want, native_pullback = convolve('native')
    chex.assert_shape(got, (2, -(-size[0] // stride), -(-size[1] // stride), outputs))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    cotangent = _normal(*want.shape, seed=2)
    for ours, native in zip(pullback(cotangent), native_pullback(cotangent), strict=True):
      np.testing.assert_allclose(ours, native, rtol=1e-5, atol=1e-4)

  @parameterized.product(
    batch=[1, 4, 7],  # a part of a piece, two pieces, and three with a smaller fourth
    stride=[1, 2],
    groups=[1, 2],
    dtype=['float32', 'bfloat16'],
  )
  def test_gradients_of_pieces_of_the_batch(self, batch, stride, groups, dtype):
    x = _normal(batch, 6, 5, 4).astype(dtype)
    w = _normal(3, 3, 4 // groups, 6, seed=1).astype(dtype)

    def gradients(algorithm, x, w, cotangent):
      convolve = functools.partial(conv2d, stride=stride, groups=groups, algorithm=algorithm)
      return jax.vjp(convolve, x, w)[1](cotangent)

    cotangent = _normal(*conv2d(x, w, stride=stride, groups=groups).shape, seed=2)
    with mock.patch.object(grouped_conv, '_PIECE_SIZE', 2 * 6 * 5 * 4 // groups):
      got = gradients('pieces', x, w, cotangent.astype(dtype))
      in_loop = jax.lax.map(
        lambda row: gradients('pieces', row, w, cotangent.astype(dtype)), x[jnp.newaxis]
      )
    want = gradients('native', *(a.astype(jnp.float32) for a in (x, w, cotangent.astype(dtype))))
    tolerance = 1e-5 if dtype == 'float32' else 2**-7
    for ours, looped, native in zip(got, in_loop, want, strict=True):
      chex.assert_type(ours, dtype)
      scale = np.abs(native).max()
      np.testing.assert_allclose(ours.astype(jnp.float32), native, atol=tolerance * scale)
      np.testing.assert_allclose(looped[0].astype(jnp.float32), native, atol=tolerance * scale)

  @parameterized.product(
    algorithm=list(ALGORITHMS), case=[(3, 2), (7, 1)], size=[(8, 7), (9, 6)], groups=[1, 2]
  )
  def test_symmetric_padding(self, algorithm, case, size, groups):
    """As many zeros on all sides, as in PyTorch, by the definition; and the same gradients."""
    (kernel, stride), (height, width) = case, size
    x, w = _normal(2, *size, 4), _normal(kernel, kernel, 4 // groups, 6, seed=1)
    options = {'stride': stride, 'groups': groups, 'padding': 'symmetric'}
    got, pullback = jax.vjp(lambda x, w: conv2d(x, w, algorithm=algorithm, **options), x, w)
    _, native_pullback = jax.vjp(lambda x, w: conv2d(x, w, algorithm='native', **options), x, w)
    around = kernel // 2
    padded = np.pad(x, ((0, 0), (around, around), (around, around), (0, 0)))
    for row in range((height - 1) // stride + 1):
      for column in range((width - 1) // stride + 1):
        top, left = row * stride, column * stride
        patch = padded[:, top : top + kernel, left : left + kernel]
        want = [
          np.einsum('bhwi,hwio->bo', *pair)
          for pair in zip(np.split(patch, groups, -1), np.split(w, groups, -1), strict=True)
        ]
        np.testing.assert_allclose(
          got[:, row, column], np.concatenate(want, -1), rtol=1e-4, atol=1e-4
        )
    self.assertEqual(got.shape[1:3], (row + 1, column + 1))
    cotangent = _normal(*got.shape, seed=2)
    for ours, native in zip(pullback(cotangent), native_pullback(cotangent), strict=True):
      np.testing.assert_allclose(ours, native, rtol=1e-5, atol=1e-4)

  @parameterized.parameters(*ALGORITHMS)
  def test_groups_do_not_mix(self, algorithm):
    """The second group of the inputs has no influence on the first group of the outputs."""
    x, w = _normal(1, 6, 6, 4), _normal(3, 3, 2, 6, seed=1)
    other = x.at[..., 2:].set(0)
    y, y_other = (conv2d(a, w, groups=2, algorithm=algorithm) for a in (x, other))
    np.testing.assert_array_equal(y[..., :3], y_other[..., :3])
    assert not np.allclose(y[..., 3:], y_other[..., 3:])

  @parameterized.parameters(*ALGORITHMS)
  def test_follows_the_dtype(self, algorithm):
    x, w = _normal(1, 6, 6, 4).astype(jnp.bfloat16), _normal(3, 3, 2, 6).astype(jnp.bfloat16)
    chex.assert_type(conv2d(x, w, groups=2, algorithm=algorithm), jnp.bfloat16)

  def test_worked_by_hand(self):
    # A 1x1 kernel of two groups: the outputs are 2 * first and 3 * second input.
    x = jnp.asarray([[[[1.0, 10.0], [4.0, 40.0]]]])
    w = jnp.asarray([2.0, 3.0]).reshape(1, 1, 1, 2)
    np.testing.assert_array_equal(conv2d(x, w, groups=2)[0, 0], [[2.0, 30.0], [8.0, 120.0]])

  def test_auto_is_the_algorithm_of_the_backend(self):
    self.assertEqual(default_algorithm('cpu'), 'pieces')
    self.assertEqual(default_algorithm('tpu'), 'native')  # not measured
    self.assertEqual(default_algorithm(), default_algorithm(jax.default_backend()))

    def traced(algorithm):
      x, w = _normal(1, 6, 6, 4), _normal(3, 3, 2, 6, seed=1)
      return str(jax.make_jaxpr(lambda x, w: conv2d(x, w, groups=2, algorithm=algorithm))(x, w))

    self.assertEqual(traced('auto'), traced(default_algorithm()))
    self.assertNotEqual(traced('native'), traced('split'))

  def test_each_kind_has_its_algorithm(self):
    entry = {'algorithms': {'grouped': 'dense', '1x1': 'split'}}
    with mock.patch.dict(grouped_conv.FASTEST, {'toy': entry}):
      self.assertEqual(
        [default_algorithm('toy', kind=kind) for kind in KINDS], ['dense', 'native', 'split']
      )
    self.assertEqual(kind_of((1, 1, 8, 4), 1), '1x1')
    self.assertEqual(kind_of((1, 1, 8, 4), 2), 'grouped')
    self.assertEqual(kind_of((3, 3, 8, 4), 1), 'ungrouped')

  def test_the_table_is_measured(self):
    """Every entry names algorithms that there are, and says by what it was chosen."""
    for entry in grouped_conv.FASTEST.values():
      self.assertLessEqual(set(entry['algorithms']), set(KINDS))
      self.assertLessEqual(set(entry['algorithms'].values()), set(ALGORITHMS))
      self.assertLessEqual({'device', 'jax', 'what'}, set(entry['measured']))
      for chosen in set(entry['algorithms'].values()):
        self.assertIn(f'"{chosen}": ', json.dumps(entry['measured']))

  def test_errors_name_the_values(self):
    x, w = jnp.zeros((1, 4, 4, 4)), jnp.zeros((3, 3, 2, 6))
    with self.assertRaisesRegex(ValueError, "'fft'.*auto, native, split"):
      conv2d(x, w, groups=2, algorithm='fft')
    with self.assertRaisesRegex(ValueError, r'\(3, 3, 2, 6\) in 1 groups'):
      conv2d(x, w)


if __name__ == '__main__':
  absltest.main()
