"""Many runs in one program: seeds and learning rates of one shape, trained side by side.

The state, the metrics and all that differs between the runs have a leading axis R of runs, over
which the step of one run is vmapped. The loop is that of a single run; here is what watches it.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nfnets_augmult.training import loop
from nfnets_augmult.training.checkpoints import Checkpoints
from nfnets_augmult.training.state import TrainState
from nfnets_augmult.training.step import Metrics


class BundleState(NamedTuple):
  """The state of all runs after `step` updates.

  Attributes:
    step: int32 scalar.
    runs: of every run, with a leading axis R; that of a diverged run is from before it diverged.
    diverged_at: int32 `[R]`, the step whose loss, gradient or new parameters were not finite, 0
      while there is none.
  """

  step: jax.Array
  runs: TrainState
  diverged_at: jax.Array


def stack_states(states: Sequence[TrainState]) -> BundleState:
  """Returns the state of a bundle whose runs start from `states`, at step 0."""
  runs = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
  return BundleState(jnp.zeros((), jnp.int32), runs, jnp.zeros(len(states), jnp.int32))


def state_of_run(state: BundleState, index: int) -> TrainState:
  """Returns the state of one run."""
  return jax.tree.map(lambda leaf: leaf[index], state.runs)


def make_bundle_step(
  one_run: Callable[..., tuple[TrainState, Metrics]],
) -> Callable[..., tuple[BundleState, Metrics]]:
  """Returns the update of all runs on one device; metrics have a leading axis R.

  The function takes the state, the images of the step with a leading axis R, the data, which the
  runs share, and any number of arrays with a leading axis R. A run whose loss, gradient or new
  parameters are not finite keeps the state from before that step; no other run sees anything of it.
  The metrics also have the `parameter_norm` after the update.

  Args:
    one_run: from the state of a run, its images, the data, and its arrays to state and metrics.
  """

  def step(
    state: BundleState, images: Any, data: Any, *of_each_run: Any
  ) -> tuple[BundleState, Metrics]:
    in_axes = (0, 0, None, *[0] * len(of_each_run))
    new, metrics = jax.vmap(one_run, in_axes=in_axes)(state.runs, images, data, *of_each_run)
    metrics = dict(metrics, parameter_norm=jax.vmap(optax.global_norm)(new.params))
    is_finite = functools.reduce(
      jnp.logical_and,
      [jnp.isfinite(metrics[key]) for key in ('loss', 'gradient_norm', 'parameter_norm')],
    )
    first = (state.diverged_at == 0) & ~is_finite
    diverged_at = jnp.where(first, state.step + 1, state.diverged_at)
    is_going_on = diverged_at == 0

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
      return jnp.where(is_going_on.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    runs = jax.tree.map(choose, new, state.runs)
    return BundleState(state.step + 1, runs, diverged_at), metrics

  return step


class BundleWatch(loop.Watch):
  """Watches a bundle for the loop: runs that diverge end by themselves, and the others go on."""

  def __init__(
    self,
    logs: Sequence[loop.RunLog],
    *,
    evaluation_step: Callable[..., Any],
    evaluation_batches: dict[str, Callable[[], Iterator[dict[str, np.ndarray]]]],
    checkpoints: Checkpoints,
    stop_requested: Callable[[], bool],
    diverged: dict[int, str],
    on_divergence: Callable[[int, loop.DivergedError], None],
  ):
    """Stores its parts; starts nothing.

    Args:
      logs: of the runs.
      evaluation_step: of one run on one device; mapped over runs and devices here.
      evaluation_batches: see `loop.Watch`.
      checkpoints: where the states of the bundle go.
      stop_requested: looked at between dispatches, and between the batches of an evaluation.
      diverged: runs that diverged before this start, with what there was to say.
      on_divergence: called when a run diverges, with its index and how.
    """
    super().__init__(
      logs,
      evaluation_step=jax.vmap(evaluation_step, in_axes=(0, None)),
      evaluation_batches=evaluation_batches,
      checkpoints=checkpoints,
      stop_requested=stop_requested,
    )
    self._diverged = dict(diverged)
    self._on_divergence = on_divergence
    self._shown = logs[0]

  def active_runs(self) -> list[tuple[int, loop.RunLog]]:
    """See `loop.Watch`."""
    return [(r, log) for r, log in super().active_runs() if r not in self._diverged]

  def start(self, step: int) -> None:
    """Begins at `step`."""
    super().start(step)
    self._go_on_with_others()

  def consume_step(self, step: int, metrics: dict[str, np.ndarray]) -> None:
    """See `loop.Watch`; raises DivergedError if all runs have diverged."""
    for r, log in self.active_runs():
      try:
        log.consume_step(step, {key: float(values[r]) for key, values in metrics.items()})
      except loop.DivergedError as error:
        self._diverged[r] = f'{log.name}: {error}'
        self._on_divergence(r, error)
    self._go_on_with_others()

  def check_finite(self, state: BundleState) -> None:
    """Does nothing: the step itself keeps parameters that are not finite out of the state."""

  def _go_on_with_others(self) -> None:
    """Shows the progress of a run that goes on; raises DivergedError if there is none."""
    if not self.active_runs():
      raise loop.DivergedError(f'all runs diverged: {"; ".join(self._diverged.values())}')
    _, next_shown = self.active_runs()[0]
    if next_shown is not self._shown:
      next_shown.progress, self._shown.progress = self._shown.progress, next_shown.progress
      next_shown.progress.name, self._shown.progress.name = next_shown.name, self._shown.name
      self._shown = next_shown

  def evaluate(self, step: int, state: BundleState) -> None:
    """Evaluates all runs together and records what comes out for those that go on."""
    results = self.evaluate_splits(state.runs)
    for r, log in self.active_runs():
      if not log.is_evaluated(step):
        log.record_evaluation(step, jax.tree.map(lambda values, r=r: float(values[r]), results))
