"""The exponential moving average of the parameters."""

from typing import Any

import jax
import jax.numpy as jnp


def decay_at(step: jax.Array, decay: float) -> jax.Array:
  """Returns the weight of the old average at zero-based `step`: `min(decay, (1 + t) / (10 + t))`.

  The warm-up lets the average forget the initial parameters; Brock et al. 2021b use it.

  Example:
    >>> from nfnets_augmult import ema_decay_at
    >>> [round(float(ema_decay_at(step, decay=0.99)), 3) for step in (0, 8, 1000)]
    [0.1, 0.5, 0.99]
  """
  step = jnp.asarray(step, jnp.float32)
  return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def update(average: Any, params: Any, *, decay: jax.Array) -> Any:
  """Returns `decay * average + (1 - decay) * params`, leaf by leaf.

  Written as a step towards `params`, so the average of a constant is that constant exactly.

  Example:
    >>> import jax.numpy as jnp
    >>> from nfnets_augmult import ema_update
    >>> ema_update({'w': jnp.zeros(2)}, {'w': jnp.ones(2)}, decay=0.75)['w'].tolist()
    [0.25, 0.25]
  """
  return jax.tree.map(lambda old, new: old + (1.0 - decay) * (new - old), average, params)
