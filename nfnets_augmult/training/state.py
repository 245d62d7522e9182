"""The training state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class TrainState(NamedTuple):
  """The state of a run after `step` updates, as saved in every checkpoint.

  Attributes:
    step: int32 scalar.
    params: dict of dicts of float32 arrays.
    opt_state: of the optimiser.
    ema_params: moving average of `params`, of the same structure.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  ema_params: Any


def initial_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
  """Returns the state before the first update; the average starts at `params`."""
  ema_params = jax.tree.map(jnp.array, params)  # a copy, since the state is donated
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), ema_params)
