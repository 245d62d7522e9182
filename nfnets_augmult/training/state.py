"""Everything that changes during a run."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class TrainState(NamedTuple):
  """The state of a run after `step` updates; all of it is in every checkpoint.

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
  copies = jax.tree.map(jnp.array, params)  # not shared, since the state is donated
  return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), copies)


def num_params(params: Any) -> int:
  """Returns how many numbers `params` hold."""
  return sum(leaf.size for leaf in jax.tree.leaves(params))
