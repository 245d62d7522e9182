"""Many runs in one program: seeds and learning rates of one shape, trained side by side.

The state, the metrics and all that differs between the runs have a leading axis R of runs, over
which the step of one run is vmapped. The loop is that of a single run; here is what watches it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nfnets_augmult.training import devices, loop
from nfnets_augmult.training.checkpoints import Checkpoints
from nfnets_augmult.training.state import TrainState
from nfnets_augmult.training.step import AXIS_NAME, Metrics


class BundleState(NamedTuple):
  """The state of all runs after `step` updates.

  Attributes:
    step: int32 scalar.
    runs: of every run, with a leading axis R; that of a diverged run is from before it diverged.
    diverged_at: int32 `[R]`, the step whose loss or gradient was not finite, 0 while there is none.
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
  runs share, and any number of arrays with a leading axis R. A run whose loss or gradient is not
  finite keeps the state from before that step; no other run sees anything of it.

  Args:
    one_run: from the state of a run, its images, the data, and its arrays to state and metrics.
  """

  def step(
    state: BundleState, images: Any, data: Any, *of_each_run: Any
  ) -> tuple[BundleState, Metrics]:
    in_axes = (0, 0, None, *[0] * len(of_each_run))
    new, metrics = jax.vmap(one_run, in_axes=in_axes)(state.runs, images, data, *of_each_run)
    is_finite = jnp.isfinite(metrics['loss']) & jnp.isfinite(metrics['gradient_norm'])
    first = (state.diverged_at == 0) & ~is_finite
    diverged_at = jnp.where(first, state.step + 1, state.diverged_at)
    is_going_on = diverged_at == 0

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
      return jnp.where(is_going_on.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    runs = jax.tree.map(choose, new, state.runs)
    return BundleState(state.step + 1, runs, diverged_at), metrics

  return step


class BundleWatch:
  """Watches a bundle for the loop: a `loop.Watch` for each run, and one checkpoint for all."""

  def __init__(
    self,
    watches: Sequence[loop.Watch],
    *,
    evaluation_step: Callable[..., Any],
    evaluation_batches: dict[str, Callable[[], Iterator[dict[str, np.ndarray]]]],
    checkpoints: Checkpoints,
    stop_requested: Callable[[], bool],
    diverged: dict[int, str],
    on_divergence: Callable[[int, str], None],
  ):
    """Takes what it works with.

    Args:
      watches: of the runs.
      evaluation_step: of one run on one device; vmapped and pmapped here.
      evaluation_batches: see `loop.Watch`.
      checkpoints: where the states of the bundle go.
      stop_requested: looked at between dispatches, and between the batches of an evaluation.
      diverged: runs that diverged before this start, with what there was to say.
      on_divergence: called when a run diverges, with its index and a message.
    """
    self._watches = watches
    self._evaluation_step = jax.pmap(
      jax.vmap(evaluation_step, in_axes=(0, None)), axis_name=AXIS_NAME
    )
    self._evaluation_batches = evaluation_batches
    self._checkpoints = checkpoints
    self._stop_requested = stop_requested
    self._diverged = dict(diverged)
    self._on_divergence = on_divergence
    self._in_flight = []

  def _going_on(self) -> list[tuple[int, loop.Watch]]:
    return [(r, watch) for r, watch in enumerate(self._watches) if r not in self._diverged]

  def start(self, step: int) -> None:
    """Begins at `step`."""
    self._first_step = step
    for watch in self._watches:
      watch.start(step)
    self._shown = self._watches[0]
    self._refuse_if_all_diverged()
    self._show_one_that_goes_on()

  def is_evaluation_due(self, step: int) -> bool:
    """See `loop.Watch`."""
    return self._watches[0].is_evaluation_due(step)

  def is_evaluated(self, step: int) -> bool:
    """Whether the evaluation of this step is recorded for all runs that go on."""
    return all(watch.is_evaluated(step) for _, watch in self._going_on())

  def is_stopping(self, step: int) -> bool:
    """See `loop.Watch`."""
    return self._watches[0].is_stopping(step)

  def look_at(self, step: int, stop: int, metrics: Metrics) -> None:
    """Takes the metrics of steps that were just dispatched, and looks at those that are done."""
    self._in_flight.append((step, stop, metrics))
    if step == self._first_step:  # has waited for compilation
      self._look_at_all()
      for watch in self._watches:
        watch.progress.reset_clock(stop)
    while len(self._in_flight) > devices.max_steps_in_flight():
      self._look_at_oldest()

  def _look_at_all(self) -> None:
    while self._in_flight:
      self._look_at_oldest()

  def _look_at_oldest(self) -> None:
    first, stop, metrics = self._in_flight.pop(0)
    metrics = {
      key: values.reshape(-1, len(self._watches))  # [K, R], also of a single step
      for key, values in devices.first_replica(metrics).items()
    }
    for index in range(stop - first):
      for r, watch in self._going_on():
        try:
          watch.look_at_step(
            first + 1 + index, {key: float(values[index, r]) for key, values in metrics.items()}
          )
        except loop.DivergedError as error:
          self._diverged[r] = f'{watch.name}: {error}'
          self._on_divergence(r, str(error))
    self._refuse_if_all_diverged()
    self._show_one_that_goes_on()

  def _show_one_that_goes_on(self) -> None:
    """The first one; if it has diverged, the next one gets its bar."""
    _, heir = self._going_on()[0]
    if heir is not self._shown:
      heir.progress, self._shown.progress = self._shown.progress, heir.progress
      heir.progress.name, self._shown.progress.name = heir.name, self._shown.name
      self._shown = heir

  def _refuse_if_all_diverged(self) -> None:
    if not self._going_on():
      raise loop.DivergedError(f'all runs diverged: {"; ".join(self._diverged.values())}')

  def save(self, state: BundleState) -> None:
    """Saves the state of all runs, after a look at all metrics up to it."""
    self._look_at_all()
    self._checkpoints.save(devices.first_replica(state))

  def evaluate(self, step: int, state: BundleState) -> None:
    """Evaluates all runs together and records what comes out for those that go on."""
    results = loop.evaluate_splits(
      self._evaluation_step,
      state.runs,
      self._evaluation_batches,
      checkpoints=self._checkpoints,
      stop_requested=self._stop_requested,
    )
    for r, watch in self._going_on():
      if not watch.is_evaluated(step):
        watch.record_evaluation(step, jax.tree.map(lambda values, r=r: float(values[r]), results))

  def wait(self) -> None:
    """Waits until what was saved is written."""
    self._checkpoints.wait()

  def close(self) -> None:
    """Ends the displays of progress."""
    for watch in self._watches:
      watch.close()
