"""Groups of runs that differ only in seed and learning rate, trained in one program.

State, metrics and all that differs between the runs have a leading axis R of runs, over which the
step of one run is vmapped. Loop and watch are those of a single run.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nfnets_augmult.training.state import TrainState
from nfnets_augmult.training.step import Metrics


class GroupState(NamedTuple):
  """The state of all runs of a group after `step` updates.

  Attributes:
    step: int32 scalar.
    runs: of all runs, with a leading axis R; a diverged run keeps its last finite state.
    diverged_at: int32 `[R]`, the step whose loss, gradient or new parameters were not finite; 0 if
      none.
  """

  step: jax.Array
  runs: TrainState
  diverged_at: jax.Array


def stack_states(states: Sequence[TrainState]) -> GroupState:
  """Returns the state of a group whose runs start from `states`, at step 0."""
  runs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
  return GroupState(jnp.zeros((), jnp.int32), runs, jnp.zeros(len(states), jnp.int32))


def state_of_run(state: GroupState, index: int) -> TrainState:
  """Returns the state of one run."""
  return jax.tree.map(lambda leaf: leaf[index], state.runs)


def make_group_step(
  run_step: Callable[..., tuple[TrainState, Metrics]],
) -> Callable[..., tuple[GroupState, Metrics]]:
  """Returns the update of all runs on one device; metrics have a leading axis R.

  The function takes (state, images, data, *per_run): all but the shared data have a leading axis R.
  A run whose loss, gradient or new parameters are not finite keeps the state from before that step;
  other runs are not affected. The metrics also have the `parameter_norm` after the update.

  Args:
    run_step: the same for one run, from (state, images, data, *per_run) to state and metrics.
  """

  def step(state: GroupState, images: Any, data: Any, *per_run: Any) -> tuple[GroupState, Metrics]:
    in_axes = (0, 0, None, *[0] * len(per_run))
    new, metrics = jax.vmap(run_step, in_axes=in_axes)(state.runs, images, data, *per_run)
    metrics = dict(metrics, parameter_norm=jax.vmap(optax.global_norm)(new.params))
    is_finite = functools.reduce(
      jnp.logical_and,
      [jnp.isfinite(metrics[key]) for key in ('loss', 'gradient_norm', 'parameter_norm')],
    )
    diverges_now = (state.diverged_at == 0) & ~is_finite
    diverged_at = jnp.where(diverges_now, state.step + 1, state.diverged_at)
    is_active = diverged_at == 0

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
      return jnp.where(is_active.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    runs = jax.tree.map(choose, new, state.runs)
    return GroupState(state.step + 1, runs, diverged_at), metrics

  return step
