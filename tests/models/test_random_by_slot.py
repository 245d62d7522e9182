"""Draws belong to slots: other samples, and their number, do not matter."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets_augmult.models import make_model
from nfnets_augmult.models.random_by_slot import dropout, uniform


def test_draws_are_a_function_of_key_and_slot():
  whole = uniform(jax.random.PRNGKey(1), jnp.arange(6), (3, 2))
  part = uniform(jax.random.PRNGKey(1), jnp.asarray([4, 1]), (3, 2))
  np.testing.assert_array_equal(part, whole[jnp.asarray([4, 1])])
  other = uniform(jax.random.PRNGKey(2), jnp.arange(6), (3, 2))
  assert len(np.unique([whole, other])) == 2 * whole.size


def test_dropout_keeps_the_mean():
  """Of ones, 30 % become 0 and the others 1 / 0.7; in bfloat16 as well."""
  ones = jnp.ones((500, 40), jnp.bfloat16)
  module = hk.transform(lambda: dropout(ones, 0.3, jnp.arange(500)))
  dropped = module.apply({}, jax.random.PRNGKey(0))
  assert dropped.dtype == jnp.bfloat16
  assert float(jnp.mean(dropped == 0)) == pytest.approx(0.3, abs=0.015)
  np.testing.assert_allclose(np.unique(dropped.astype(np.float32)), [0, 1 / 0.7], rtol=1e-2)


def test_a_network_gives_each_sample_its_logits_in_any_part_of_the_batch():
  """By default the images are the whole batch."""
  model = make_model('wrn_10_1', num_classes=5, dropout_rate=0.5)
  images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
  key = jax.random.PRNGKey(3)
  params = model.init(key, images, is_training=True)
  whole = model.apply(params, key, images, is_training=True)
  places = jnp.asarray([3, 1])
  part = model.apply(params, key, images[places], is_training=True, slot=places)
  np.testing.assert_allclose(part, whole[places], rtol=1e-4, atol=1e-5)
  moved = model.apply(params, key, images[places], is_training=True)
  assert not np.allclose(moved, part, atol=1e-2)
