"""The exponential moving average of the parameters, which makes the predictions."""

from typing import Any

import jax
import jax.numpy as jnp


def decay_at(step: jax.Array, decay: float) -> jax.Array:
  """Returns the weight of the old average at zero-based `step`: `min(decay, (1 + t) / (10 + t))`.

  The warm-up lets the average forget the initial parameters; Brock et al. 2021b use it.
  """
  step = jnp.asarray(step, jnp.float32)
  return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def update(average: Any, params: Any, *, decay: jax.Array) -> Any:
  """Returns `decay * average + (1 - decay) * params`, leaf by leaf.

  Written as a step towards `params`, so the average of a constant is that constant exactly.
  """
  return jax.tree.map(lambda old, new: old + (1.0 - decay) * (new - old), average, params)
