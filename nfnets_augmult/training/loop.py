"""The training loop: step, look, evaluate, save; stop and go on at any step."""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from nfnets_augmult.training import devices, evaluation
from nfnets_augmult.training.checkpoints import Checkpoints
from nfnets_augmult.training.feeding import Advance
from nfnets_augmult.training.plan import Plan
from nfnets_augmult.training.progress import Progress
from nfnets_augmult.training.records import Recorder
from nfnets_augmult.training.state import TrainState
from nfnets_augmult.training.step import AXIS_NAME

# The metric by which the best checkpoint is chosen.
BEST_BY = 'test/ema/top_1'


class DivergedError(RuntimeError):
  """The loss or the gradient is no longer a finite number."""


class StopRequested(Exception):
  """Somebody asked the run to stop; everything is saved. Not an error."""


@dataclasses.dataclass(frozen=True)
class Cadence:
  """How often things happen, in steps.

  Attributes:
    log: a record of the training loss and accuracy, averaged since the last.
    save: a checkpoint.
    evaluate: an evaluation; there is also one after the last step.
  """

  log: int
  save: int
  evaluate: int

  def __post_init__(self):
    for name, steps in dataclasses.asdict(self).items():
      if steps < 1:
        raise ValueError(f'the run would {name} every {steps} steps; it must be at least 1')

  def next_stop(self, step: int) -> int:
    """Returns the first step after `step` at which something happens."""
    return min((step // every + 1) * every for every in (self.log, self.save, self.evaluate))


def fit(
  first_state: Callable[[], TrainState],
  *,
  plan: Plan,
  cadence: Cadence,
  make_advance: Callable[[int], Advance],
  steps_per_dispatch: int,
  watch: 'Watch',
) -> TrainState:
  """Trains to the last step of the plan and returns the last state.

  What it does at a step depends on the step alone, so a run that was stopped or killed and
  started again from a checkpoint computes the same as one that never was.

  Args:
    first_state: makes the state to start from, of NumPy arrays. A function, so that nobody holds
      on to them while the devices train: they can be most of the memory of the host.
    plan: of the run.
    cadence: how often to log, save and evaluate.
    make_advance: from a step to the function that trains from there on, see `feeding.Advance`.
    steps_per_dispatch: the most steps that it takes at once; fewer where something is due.
    watch: what looks at the run, evaluates it and saves it.

  Raises:
    StopRequested: the run was asked to stop, and its state is saved.
    DivergedError: the loss or the gradient is not finite; the last checkpoint is from before.
    CheckpointError: a checkpoint could not be written.
  """
  state = first_state()
  step = int(state.step)
  state = devices.replicate(state)
  advance = make_advance(step)
  watch.start(step)
  try:
    while True:
      if watch.is_evaluation_due(step) and not watch.is_evaluated(step):
        watch.save(state)
        watch.evaluate(step, state)
      if step == plan.total_steps:
        watch.save(state)
        watch.wait()
        return devices.first_replica(state)
      if watch.is_stopping(step):
        watch.save(state)
        watch.wait()
        raise StopRequested
      stop = min(step + steps_per_dispatch, cadence.next_stop(step), plan.total_steps)
      state, metrics = advance(state, step, stop)
      watch.look_at(step, stop, metrics)
      step = stop
      if step % cadence.save == 0:
        watch.save(state)
  finally:
    watch.close()


class Watch:
  """The side of a run that only watches: metrics, evaluations, checkpoints."""

  def __init__(
    self,
    plan: Plan,
    cadence: Cadence,
    evaluation_step: Callable[..., Any],
    evaluation_batches: dict[str, Callable[[], Iterator[dict[str, np.ndarray]]]],
    checkpoints: Checkpoints,
    recorder: Recorder | None,
    stop_requested: Callable[[], bool],
    show_progress: bool = True,
    name: str = '',
  ):
    """Takes what it works with.

    Args:
      plan: of the run.
      cadence: how often to log, save and evaluate.
      evaluation_step: see `step.make_evaluation_step`; pmapped here.
      evaluation_batches: for each split, by the name under which it is recorded, its batches.
      checkpoints: where states go.
      recorder: where metrics go; None on all hosts but the first.
      stop_requested: looked at between dispatches, and between the batches of an evaluation.
      show_progress: whether people see how it goes, where there is a recorder.
      name: of the run, where several train together.
    """
    self._plan = plan
    self._cadence = cadence
    self._evaluation_step = jax.pmap(evaluation_step, axis_name=AXIS_NAME)
    self._evaluation_batches = evaluation_batches
    self._checkpoints = checkpoints
    self._recorder = recorder
    self._stop_requested = stop_requested
    self._show_progress = show_progress
    self.name = name
    self._in_flight = collections.deque()
    self._since_log = []

  def start(self, step: int) -> None:
    """Begins at `step`."""
    self._first_step = step
    self.progress = Progress(
      start_step=step,
      total_steps=self._plan.total_steps,
      batch_size=self._plan.multiplicity.batch_size,
      enabled=self._recorder is not None and self._show_progress,
      name=self.name,
    )

  def is_evaluation_due(self, step: int) -> bool:
    """Whether to evaluate at `step`: regularly, but not shortly before the last step, and there."""
    left = self._plan.total_steps - step
    every = self._cadence.evaluate
    return left == 0 or (step > 0 and step % every == 0 and 2 * left >= every)

  def is_evaluated(self, step: int) -> bool:
    """Whether a run that was killed since has evaluated this step; the same on all hosts."""
    done = self._recorder is not None and self._recorder.has(step, BEST_BY)
    return _any_host(done)

  def is_stopping(self, step: int) -> bool:
    """Whether any host was asked to stop; hosts ask each other as rarely as they log."""
    if jax.process_count() == 1:
      return self._stop_requested()
    return step % self._cadence.log == 0 and _any_host(self._stop_requested())

  def look_at(self, step: int, stop: int, metrics: dict[str, jax.Array]) -> None:
    """Takes the metrics of steps that were just dispatched, and looks at those that are done."""
    self._in_flight.append((step, stop, metrics))
    if step == self._first_step:  # has waited for compilation
      self._look_at_all()
      self.progress.reset_clock(stop)
    while len(self._in_flight) > devices.max_steps_in_flight():
      self._look_at_oldest()

  def _look_at_all(self) -> None:
    while self._in_flight:
      self._look_at_oldest()

  def _look_at_oldest(self) -> None:
    step, stop, metrics = self._in_flight.popleft()
    metrics = {key: np.ravel(value) for key, value in devices.first_replica(metrics).items()}
    for index in range(stop - step):
      self.look_at_step(
        step + 1 + index, {key: float(values[index]) for key, values in metrics.items()}
      )

  def look_at_step(self, step: int, metrics: dict[str, float]) -> None:
    """Takes the metrics of one step, by name; raises DivergedError if they are not finite."""
    for name in ('loss', 'gradient_norm'):
      if not math.isfinite(metrics[name]):
        raise DivergedError(f'the {name.replace("_", " ")} of step {step} is {metrics[name]}')
    self._since_log.append(metrics)
    self.progress.advance(step, metrics)
    if step % self._cadence.log == 0 or step == self._plan.total_steps:
      self._log(step)

  def _log(self, step: int) -> None:
    values = {
      f'train/{name}': float(np.mean([metrics[name] for metrics in self._since_log]))
      for name in ('loss', 'accuracy', 'gradient_norm')
    }
    learning_rate = self._since_log[-1]['learning_rate']
    self._since_log = []
    self._record(
      step,
      {
        **values,
        'learning_rate': learning_rate,
        'temperature': learning_rate * self._plan.multiplicity.augmult,
        'images_per_second': self.progress.images_per_second(step),
      },
    )
    self.progress.line(step, values)
    self.progress.reset_clock(step)

  def _record(self, step: int, values: dict[str, float]) -> None:
    if self._recorder is not None:
      self._recorder.write(step, {'epoch': self._plan.epoch(step), **values})

  def close(self) -> None:
    """Ends the display of progress."""
    self.progress.close()

  def wait(self) -> None:
    """Waits until what was saved is written."""
    self._checkpoints.wait()

  def save(self, state: TrainState) -> None:
    """Saves a state, after a look at all metrics up to it: a bad state is never saved."""
    self._look_at_all()
    self._checkpoints.save(devices.first_replica(state))

  def evaluate(self, step: int, state: TrainState) -> None:
    """Evaluates the state on all splits, records what comes out, and keeps the best."""
    results = evaluate_splits(
      self._evaluation_step,
      state,
      self._evaluation_batches,
      checkpoints=self._checkpoints,
      stop_requested=self._stop_requested,
    )
    split, name, key = BEST_BY.split('/')
    self._checkpoints.save_if_best(devices.first_replica(state), results[split][name][key])
    self.record_evaluation(step, results)

  def record_evaluation(self, step: int, results: dict[str, dict[str, dict[str, float]]]) -> None:
    """Records means by split, name of the parameters and name of the mean."""
    values = {}
    for split, by_name in results.items():
      for name, means in by_name.items():
        self.progress.say(
          f'step {step}, epoch {self._plan.epoch(step):.2f}, {split}, {name} parameters: '
          f'top-1 {100 * means["top_1"]:.2f} %, top-5 {100 * means["top_5"]:.2f} %, '
          f'cross entropy {means["cross_entropy"]:.4f} ({means["count"]:,.0f} images)'
        )
        values |= {f'{split}/{name}/{key}': value for key, value in means.items()}
    self._record(step, values)
    self.progress.reset_clock(step)


def evaluate_splits(
  evaluation_step: Callable[..., Any],
  state: Any,
  batches: Mapping[str, Callable[[], Iterator[dict[str, np.ndarray]]]],
  *,
  checkpoints: Checkpoints,
  stop_requested: Callable[[], bool],
) -> dict[str, dict[str, dict[str, Any]]]:
  """Returns the means of each split, for the last parameters, `raw`, and the averaged ones, `ema`.

  Args:
    evaluation_step: pmapped, see `step.make_evaluation_step`.
    state: with `params` and `ema_params`, replicated.
    batches: of each split.
    checkpoints: to wait for before stopping.
    stop_requested: looked at between batches, where there is one process.

  Raises:
    StopRequested: the run was asked to stop.
  """

  def check_stop() -> None:
    if jax.process_count() == 1 and stop_requested():
      checkpoints.wait()
      raise StopRequested

  params_by_name = {'raw': state.params, 'ema': state.ema_params}
  return {
    split: evaluation.evaluate(evaluation_step, params_by_name, make(), check_stop=check_stop)
    for split, make in batches.items()
  }


def _any_host(flag: bool) -> bool:
  """Whether `flag` is true on any host; a collective operation where there are several."""
  if jax.process_count() == 1:
    return flag
  from jax.experimental import multihost_utils

  return bool(np.any(multihost_utils.process_allgather(np.array(flag))))
