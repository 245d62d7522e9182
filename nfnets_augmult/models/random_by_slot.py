"""Dropout and stochastic depth, drawn for each sample by its slot in the whole batch.

A sample's draws are a function of (key, slot) alone. They do not depend on which device or host
holds it, nor on which other samples lie there.
"""

from collections.abc import Sequence

import haiku as hk
import jax
import jax.numpy as jnp


def whole_batch(images: jax.Array, slot: jax.Array | None) -> jax.Array:
  """Returns `slot`, or if it is None the slots of images that are the whole batch, in order."""
  return jnp.arange(images.shape[0]) if slot is None else slot


def uniform(key: jax.Array, slot: jax.Array, shape: Sequence[int] = ()) -> jax.Array:
  """Returns float32 `[B, *shape]`, uniform in [0, 1), for `slot` int32 `[B]`."""
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, slot)
  return jax.vmap(lambda sample_key: jax.random.uniform(sample_key, shape))(keys)


def dropout(x: jax.Array, rate: float, slot: jax.Array) -> jax.Array:
  """Returns `x` `[B, ...]`, each element 0 with probability `rate`, else divided by `1 - rate`.

  Draws a Haiku key.
  """
  keep = uniform(hk.next_rng_key(), slot, x.shape[1:]) >= rate
  return jnp.where(keep, x / (1 - rate), 0)
