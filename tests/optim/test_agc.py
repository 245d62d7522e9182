"""Adaptive gradient clipping: by hand, against the reference steps, and inside optax."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from nfnets_augmult.models import make_model
from nfnets_augmult.models.table import abstract_params
from nfnets_augmult.optim.agc import (
  adaptive_gradient_clipping,
  clip_unitwise,
  is_clipped,
  unitwise_norm,
)
from tests.golden import load_arrays

CLIPPING, EPS = 0.01, 1e-3


def _normal(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


class UnitwiseNormTest(parameterized.TestCase):
  """Which entries make a unit."""

  @parameterized.parameters(
    ((), ()),
    ((5,), (1,)),
    ((4, 5), (1, 5)),
    ((1, 5), (1, 1)),
    ((4, 2, 5), (1, 2, 5)),
    ((3, 3, 4, 5), (1, 1, 1, 5)),
    ((1, 1, 4, 5), (1, 1, 1, 5)),
    ((1, 1, 1, 5), (1, 1, 1, 1)),
    ((3, 3, 1, 5), (1, 1, 1, 5)),
  )
  def test_shape(self, shape, expected):
    chex.assert_shape(unitwise_norm(jnp.ones(shape)), expected)

  def test_worked_by_hand(self):
    x = jnp.asarray([[3.0, 5.0], [4.0, 12.0]])
    np.testing.assert_allclose(unitwise_norm(x), [[5.0, 13.0]])
    np.testing.assert_allclose(unitwise_norm(x[0]), [np.sqrt(34.0)], rtol=1e-6)


class ClipUnitwiseTest(parameterized.TestCase):
  """The clipping of one array."""

  def test_worked_by_hand(self):
    # Weight norms 5 and 13 at clipping 0.1 allow 0.5 and 1.3. The first gradient, of norm 5, is
    # divided by ten; the second, of norm 1, stays.
    weight = jnp.asarray([[3.0, 5.0], [4.0, 12.0]])
    grad = jnp.asarray([[3.0, 0.6], [4.0, 0.8]])
    clipped = clip_unitwise(grad, weight, clipping=0.1)
    np.testing.assert_allclose(clipped, [[0.3, 0.6], [0.4, 0.8]], rtol=1e-6)

  @parameterized.parameters((3, 3, 4, 6), (8, 5), (7,), ())
  def test_bound_idempotent_and_untouched_below(self, *shape):
    weight, grad = _normal(*shape), _normal(*shape, seed=1)
    once = clip_unitwise(grad, weight, clipping=CLIPPING)
    bound = CLIPPING * np.maximum(unitwise_norm(weight), EPS)
    # A norm of 36 values in float32 is exact to 2e-6 at worst.
    assert np.all(unitwise_norm(once) <= bound * (1 + 1e-5))
    np.testing.assert_allclose(clip_unitwise(once, weight, clipping=CLIPPING), once, rtol=1e-5)
    np.testing.assert_array_equal(clip_unitwise(1e-4 * grad, weight, clipping=1.0), 1e-4 * grad)

  def test_zero_weight_can_move_and_zero_gradient_stays(self):
    zero, grad = jnp.zeros((2, 1)), jnp.asarray([[3.0], [4.0]])
    clipped = clip_unitwise(grad, zero, clipping=0.1, eps=0.5)
    np.testing.assert_allclose(unitwise_norm(clipped), [[0.05]], rtol=1e-6)
    np.testing.assert_array_equal(clip_unitwise(zero, grad, clipping=0.1), zero)
    # Neither is the derivative of the clipped gradient NaN there.
    slope = jax.grad(lambda g: jnp.sum(clip_unitwise(g, grad, clipping=0.1)[0]))(grad)
    chex.assert_tree_all_finite(slope)

  def test_bfloat16(self):
    grad = _normal(64, 3).astype(jnp.bfloat16)
    clipped = clip_unitwise(grad, grad, clipping=0.5)
    chex.assert_type(clipped, jnp.bfloat16)
    np.testing.assert_array_equal(clipped.astype(jnp.float32), 0.5 * grad.astype(jnp.float32))

  def test_errors_show_the_values(self):
    with self.assertRaisesRegex(ValueError, r'\(2, 3\).*\(3, 2\)'):
      clip_unitwise(jnp.ones((2, 3)), jnp.ones((3, 2)), clipping=0.1)
    with self.assertRaisesRegex(ValueError, 'clipping=0'):
      clip_unitwise(jnp.ones(2), jnp.ones(2), clipping=0)
    with self.assertRaisesRegex(ValueError, 'eps=-1'):
      adaptive_gradient_clipping(0.1, eps=-1)
    with self.assertRaisesRegex(ValueError, 'params='):
      adaptive_gradient_clipping(0.1).update({'w': jnp.ones(2)}, optax.EmptyState())


class GoldenTest(parameterized.TestCase):
  """Three steps of the reference SGD with clipping."""

  def setUp(self):
    super().setUp()
    self.arrays = load_arrays('agc_sgd.npz')

  def _tree(self, prefix):
    pairs = [(key.removeprefix(f'{prefix}/'), key) for key in self.arrays]
    return {name: self.arrays[key] for name, key in pairs if key == f'{prefix}/{name}'}

  def test_clipped_gradients(self):
    for step in (1, 2, 3):
      weights = self._tree(f'param_{step - 1}')
      self.assertLen(weights, 11)
      for name, weight in weights.items():
        np.testing.assert_allclose(
          clip_unitwise(self.arrays[f'grad_{step}/{name}'], weight, clipping=CLIPPING, eps=EPS),
          self.arrays[f'clipped_grad_{step}/{name}'],
          rtol=1e-5,
          atol=1e-9,
          err_msg=f'step {step}, {name}',
        )

  def test_momentum_and_parameters(self):
    """Clip, then add weight decay to the gradient, then Nesterov momentum."""
    trace = optax.trace(decay=0.9, nesterov=True)
    optimizer = optax.chain(
      adaptive_gradient_clipping(CLIPPING, eps=EPS),
      optax.add_decayed_weights(2e-5),
      trace,
      optax.scale(-0.1),
    )
    params = self._tree('param_0')
    state = optimizer.init(params)
    for step in (1, 2, 3):
      updates, state = jax.jit(optimizer.update)(self._tree(f'grad_{step}'), state, params)
      params = optax.apply_updates(params, updates)
      for name in params:
        np.testing.assert_allclose(
          state[2].trace[name], self.arrays[f'momentum_{step}/{name}'], rtol=1e-5, atol=1e-9
        )
        np.testing.assert_allclose(
          params[name], self.arrays[f'param_{step}/{name}'], rtol=1e-5, atol=1e-7
        )


class MaskTest(parameterized.TestCase):
  """What is not clipped."""

  @parameterized.parameters(
    ('nfnet_f0', 'NFNet/~/linear'),
    ('nf_resnet50', 'NF_ResNet/~/linear'),
    ('wrn_16_1', 'wide_res_net/classifier'),
  )
  def test_all_but_the_weight_of_the_classifier(self, name, classifier):
    mask = is_clipped(abstract_params(make_model(name, num_classes=10), 32))
    left = [(module, param) for module in mask for param in mask[module] if not mask[module][param]]
    self.assertEqual(left, [(classifier, 'w')])

  def test_masked_gradient_passes(self):
    params = {'net/~/linear': {'w': jnp.ones((2, 2)), 'b': jnp.ones(2)}}
    transformation = adaptive_gradient_clipping(0.01, mask=is_clipped)
    clipped, _ = transformation.update(params, transformation.init(params), params)
    np.testing.assert_array_equal(clipped['net/~/linear']['w'], np.ones((2, 2)))
    np.testing.assert_allclose(clipped['net/~/linear']['b'], [0.01, 0.01], rtol=1e-6)


if __name__ == '__main__':
  absltest.main()
