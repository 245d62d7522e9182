"""Sharpness-aware minimization by hand, over devices, and on a fraction of the batch."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from nfnets_augmult.optim.sam import (
  ascent_direction,
  ascent_slots,
  sharpness_aware,
  take_slots,
)


def _loss(params, batch, scale=1.0):
  """Mean of half squared distances of `params['a'], params['b']` to points `[B, 2]`."""
  point = jnp.stack([params['a'], params['b']])
  loss = scale * jnp.mean(jnp.sum(jnp.square(point - batch['x']), axis=-1)) / 2
  return loss, {'samples': jnp.asarray(len(batch['x']))}


_VALUE_AND_GRAD = jax.value_and_grad(_loss, has_aux=True)


def _params(a, b):
  return {'a': jnp.asarray(a, jnp.float32), 'b': jnp.asarray(b, jnp.float32)}


class AscentDirectionTest(parameterized.TestCase):
  """The step up."""

  def test_worked_by_hand(self):
    # The norm of (3, 4) is 5, over both leaves.
    step = ascent_direction(_params(3, 4), rho=0.5)
    chex.assert_trees_all_close(step, _params(0.3, 0.4), rtol=1e-6)

  def test_zero_gradient_gives_zeros(self):
    step = ascent_direction({'w': jnp.zeros((2, 3)), 'b': jnp.zeros(3, jnp.bfloat16)}, rho=0.05)
    chex.assert_trees_all_equal(step, {'w': jnp.zeros((2, 3)), 'b': jnp.zeros(3, jnp.bfloat16)})

  def test_nan_is_not_hidden(self):
    assert np.isnan(ascent_direction(_params(np.nan, 1), rho=0.1)['b'])

  def test_norm_is_taken_in_float32(self):
    # In bfloat16 a sum of ones stops growing at 256.
    step = ascent_direction({'w': jnp.ones(4096, jnp.bfloat16)}, rho=64.0)
    np.testing.assert_array_equal(step['w'].astype(jnp.float32), np.ones(4096))


class SharpnessAwareTest(chex.TestCase):
  """The wrapped gradient."""

  @chex.variants(with_jit=True, without_jit=True)
  def test_worked_by_hand(self):
    # At (3, 4) with the one sample (0, 0) the gradient is (3, 4); rho = 5 climbs to (6, 8), whose
    # gradient is (6, 8) and whose loss is (36 + 64) / 2.
    function = self.variant(sharpness_aware(_VALUE_AND_GRAD, rho=5.0))
    (loss, aux), grad = function(_params(3, 4), {'x': jnp.zeros((1, 2))})
    chex.assert_trees_all_close(grad, _params(6, 8), rtol=1e-6)
    self.assertAlmostEqual(float(loss), 50.0, places=4)
    self.assertEqual(int(aux['samples']), 1)

  def test_zero_radius_is_the_plain_gradient_and_negative_an_error(self):
    batch = {'x': jnp.arange(6.0).reshape(3, 2)}
    got = sharpness_aware(_VALUE_AND_GRAD, rho=0.0)(_params(1, -1), batch, 2.0)
    chex.assert_trees_all_equal(got, _VALUE_AND_GRAD(_params(1, -1), batch, 2.0))
    with self.assertRaisesRegex(ValueError, 'rho=-1'):
      sharpness_aware(_VALUE_AND_GRAD, rho=-1)

  def test_stationary_point_stays_finite(self):
    got = sharpness_aware(_VALUE_AND_GRAD, rho=0.05)(_params(0, 0), {'x': jnp.zeros((2, 2))})
    chex.assert_tree_all_finite(got)
    chex.assert_trees_all_equal(got[1], _params(0, 0))

  def test_ascent_reads_only_the_selected_slots(self):
    # The first slot is at the point's left, the second far below. Climbing from the first alone
    # moves along a only: to (1 + 0.5, 0); the gradient there is that of both samples.
    batch = {'x': jnp.asarray([[0.0, 0.0], [1.0, -8.0]])}
    batch |= {'slot': jnp.arange(2), 'mask': jnp.ones(2)}
    take = take_slots(np.array([0]), batch_size=2)
    function = sharpness_aware(_VALUE_AND_GRAD, rho=0.5, select_ascent=take)
    (_, aux), grad = function(_params(1, 0), batch)
    chex.assert_trees_all_close(grad, _params(1.5 - 0.5, 0 + 4), rtol=1e-6)
    self.assertEqual(int(aux['samples']), 2)

  def test_two_devices_climb_apart_or_together(self):
    # Samples (0, 0) and (2, 2) seen from (1, 0): gradients (1, 0) and (-1, -2), mean (0, -1).
    batch = {'x': jnp.asarray([[[0.0, 0.0]], [[2.0, 2.0]]])}
    params = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), _params(1, 0))

    def gradients(axis_name):
      function = sharpness_aware(_VALUE_AND_GRAD, rho=1.0, axis_name=axis_name)
      grad = jax.pmap(function, axis_name='devices', devices=jax.devices()[:2])(params, batch)[1]
      return np.stack([grad['a'], grad['b']], axis=-1)

    together = [[1.0, -1.0], [-1.0, -3.0]]
    np.testing.assert_allclose(gradients('devices'), together, rtol=1e-6)
    unit = np.asarray([-1.0, -2.0]) / np.sqrt(5)
    apart = [[2.0, 0.0], [-1.0 + unit[0], -2.0 + unit[1]]]
    np.testing.assert_allclose(gradients(None), apart, rtol=1e-6)


class AscentSlotsTest(parameterized.TestCase):
  """Which slots of a batch the ascent step reads, and the part of them on each device."""

  @parameterized.parameters(
    (20, 0.2, [0, 5, 10, 15]),
    (16, 0.2, [0, 4, 8, 12]),  # 3.2 rounded up
    (6, 1.0, [0, 1, 2, 3, 4, 5]),
    (3, 0.1, [0]),
    (100, 0.07, [0, 14, 28, 42, 57, 71, 85]),  # 0.07 * 100 is 7.000000000000001
  )
  def test_worked_by_hand(self, batch_size, fraction, slots):
    got = ascent_slots(batch_size=batch_size, ascent_fraction=fraction)
    self.assertEqual(got.tolist(), slots)

  @parameterized.product(
    batch_size=[48, 96], fraction=[0.05, 0.2, 0.5, 0.9, 1.0], devices=[1, 2, 3, 8, 48]
  )
  def test_devices_take_equal_parts_that_are_the_whole_together(
    self, batch_size, fraction, devices
  ):
    slots = ascent_slots(batch_size=batch_size, ascent_fraction=fraction)
    take = jax.jit(take_slots(slots, batch_size=batch_size))
    taken = []
    for held in np.split(np.arange(batch_size), devices):
      part = take({'slot': held, 'mask': np.ones(len(held)), 'image': 10 * held})
      counts = np.asarray(part['mask']) > 0
      assert len(counts) == -(-len(slots) // devices)
      assert sum(counts) >= len(slots) // devices
      np.testing.assert_array_equal(part['image'], 10 * part['slot'])
      taken += part['slot'][counts].tolist()
    self.assertEqual(taken, slots.tolist())

  def test_samples_that_do_not_count_still_do_not(self):
    take = take_slots(np.array([0, 2]), batch_size=4)
    part = take({'slot': jnp.arange(4), 'mask': jnp.asarray([1.0, 1.0, 0.0, 1.0])})
    self.assertEqual(part['mask'].tolist(), [1, 0])

  def test_errors_show_the_values(self):
    with self.assertRaisesRegex(ValueError, 'ascent_fraction=0'):
      ascent_slots(batch_size=12, ascent_fraction=0)


if __name__ == '__main__':
  absltest.main()
