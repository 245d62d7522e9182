"""Scaled weight standardization: its formula, its own gradient, and the convolution around it."""

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from nfnets_augmult.models.ws_conv import WSConv2D, standardize_weight, ws_conv2d


def _plain(w, gain, eps=1e-4):
  """The formula written out, differentiated by JAX."""
  fan_in = np.prod(w.shape[:-1])
  mean, variance = jnp.mean(w, axis=(0, 1, 2)), jnp.var(w, axis=(0, 1, 2))
  return (w - mean) * jax.lax.rsqrt(jnp.maximum(variance * fan_in, eps)) * gain


def _normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


class StandardizeWeightTest(parameterized.TestCase):
  """The formula and its gradient."""

  def test_worked_by_hand(self):
    # One output that sees the four weights 1, 2, 3, 6: mean 3, sum of squares 4 + 1 + 0 + 9 = 14,
    # which is variance 3.5 times fan-in 4. Gain 2 gives 2 / sqrt(14) times (-2, -1, 0, 3).
    w = jnp.asarray([1.0, 2.0, 3.0, 6.0]).reshape(1, 2, 2, 1)
    expected = 2 / np.sqrt(14) * np.asarray([-2.0, -1.0, 0.0, 3.0]).reshape(1, 2, 2, 1)
    np.testing.assert_allclose(standardize_weight(w, jnp.asarray([2.0])), expected, rtol=1e-6)

  @parameterized.parameters((3, 3, 8, 6), (1, 1, 16, 4), (7, 7, 3, 5))
  def test_moments(self, *shape):
    gain = 1 + 0.1 * _normal(shape[-1], seed=1)
    w = standardize_weight(5 + 3 * _normal(*shape), gain)
    fan_in = np.prod(shape[:-1])
    np.testing.assert_allclose(jnp.mean(w, axis=(0, 1, 2)), np.zeros(shape[-1]), atol=1e-6)
    np.testing.assert_allclose(jnp.var(w, axis=(0, 1, 2)) * fan_in, gain**2, rtol=1e-4)

  @parameterized.product(shape=[(3, 3, 4, 6), (1, 1, 8, 5)], scale=[1.0, 1e-3, 0.0])
  def test_value_and_gradient_equal_the_plain_formula(self, shape, scale):
    """Also under the bound (1e-3 gives `variance * fan_in` under 1e-4) and for constant filters."""
    w, gain = 0.3 + scale * _normal(*shape), 1 + 0.1 * _normal(shape[-1], seed=1)
    cotangent = _normal(*shape, seed=2)
    value, pullback = jax.vjp(standardize_weight, w, gain)
    expected, expected_pullback = jax.vjp(_plain, w, gain)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
    for got, want in zip(pullback(cotangent), expected_pullback(cotangent), strict=True):
      assert np.all(np.isfinite(got))
      np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)

  def test_second_derivative(self):
    """Forward over reverse, as a Hessian-vector product does it."""
    w, gain, tangent = _normal(3, 3, 2, 4), jnp.ones(4), _normal(3, 3, 2, 4, seed=3)

    def hessian_product(function):
      gradient = jax.grad(lambda w: jnp.sum(jnp.sin(3 * function(w, gain))))
      return jax.jvp(gradient, (w,), (tangent,))[1]

    np.testing.assert_allclose(
      hessian_product(standardize_weight), hessian_product(_plain), rtol=1e-3, atol=1e-4
    )

  def test_bfloat16_is_standardized_in_float32(self):
    w = (100 + _normal(3, 3, 64, 4)).astype(jnp.bfloat16)
    got = standardize_weight(w, jnp.ones(4, jnp.bfloat16))
    chex.assert_type(got, jnp.bfloat16)
    want = standardize_weight(w.astype(jnp.float32), jnp.ones(4))
    # One rounding to 8 bits at the end; the mean of 100 would otherwise swamp the differences.
    np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=2**-8)


class WSConv2DTest(parameterized.TestCase):
  """The convolution around it."""

  def test_keeps_unit_variance(self):
    x = _normal(4, 16, 16, 64)
    params = {'w': _normal(1, 1, 64, 256, seed=1), 'gain': jnp.ones(256), 'bias': jnp.zeros(256)}
    self.assertAlmostEqual(float(jnp.var(ws_conv2d(params, x))), 1.0, delta=0.05)

  def test_bias_is_added_and_dtype_is_that_of_the_input(self):
    params = {'w': _normal(3, 3, 2, 4), 'gain': jnp.ones(4), 'bias': jnp.arange(4.0)}
    y = ws_conv2d(params, jnp.zeros((1, 5, 5, 4), jnp.bfloat16), groups=2)
    chex.assert_type(y, jnp.bfloat16)
    np.testing.assert_array_equal(y[0, 2, 3].astype(jnp.float32), np.arange(4.0))

  def test_groups_must_divide_channels(self):
    model = hk.transform(lambda: WSConv2D(4, 6, 3, groups=3).parameters())
    with self.assertRaisesRegex(ValueError, 'groups=3'):
      model.init(jax.random.key(0))


if __name__ == '__main__':
  absltest.main()
