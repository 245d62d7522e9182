"""Masks of parameters for optimiser rules."""

from typing import Any

import jax
import jax.numpy as jnp


def decayed(params: Any) -> Any:
  """Returns a tree of booleans: True for weights, which have L2 decay.

  Weights, the kernels of convolutions and linear layers, are the only parameters with more than
  one axis. Biases, gains and SkipInit gains are not decayed.
  """
  return jax.tree.map(lambda param: jnp.ndim(param) > 1, params)
