"""Watches training: metrics, progress, evaluations and checkpoints of one run or a group."""

import collections
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from nfnets_augmult.training import devices, evaluation, hosts
from nfnets_augmult.training.checkpoints import Checkpoints
from nfnets_augmult.training.plan import Plan
from nfnets_augmult.training.progress import Progress
from nfnets_augmult.training.run_log import BEST_BY, DivergedError, RunLog


class StopRequested(hosts.SharedError):
  """The run was asked to stop, and its state is saved. Not an error."""


@dataclasses.dataclass
class _Dispatch:
  """Steps that were dispatched together.

  Attributes:
    step: before them.
    stop: after them.
    metrics: of all of them, on the devices.
    done_at: when they were first seen to be done, by `time.monotonic`; None before. Their metrics
      may be looked at much later: two dispatches late, or, before a save, at once with others.
  """

  step: int
  stop: int
  metrics: dict[str, jax.Array]
  done_at: float | None = None

  def note_if_done(self) -> None:
    """Sets `done_at` the first time that the metrics are computed."""
    if self.done_at is None and all(values.is_ready() for values in self.metrics.values()):
      self.done_at = time.monotonic()


class Watch:
  """Watches one run, or a group of runs that train in one program.

  If a run of a group diverges, the others continue.
  """

  def __init__(
    self,
    logs: Sequence[RunLog],
    *,
    plan: Plan,
    evaluation_step: Callable[..., Any],
    evaluation_batches: Mapping[str, Callable[[], Iterator[dict[str, np.ndarray]]]],
    checkpoints: Checkpoints,
    stop_requested: Callable[[], bool],
    evaluate_every_seconds: float = 0.0,
    show_progress: bool = True,
    on_divergence: Callable[[int, DivergedError], None] = lambda index, error: None,
  ):
    """Stores its parts; starts nothing.

    Args:
      logs: of the runs, in the order of the axis R of a group; a single run has no such axis.
      plan: of the run, or of each run of a group.
      evaluation_step: see `step.make_evaluation_step`, of one run; mapped over the runs of a group
        and compiled for all devices here.
      evaluation_batches: makes the batches of each split, by the name under which it is recorded.
      checkpoints: of the run or the group.
      stop_requested: whether this host was asked to stop; called between dispatches, and between
        the batches of an evaluation. If it is true on one host, all stop at the same place.
      evaluate_every_seconds: how long after the first dispatch, or the last evaluation, another one
        is due by the clock of the first host; 0 for never.
      show_progress: whether this process displays progress.
      on_divergence: called with the index of a run that diverges, and the error.
    """
    self._logs = logs
    self._is_group = len(logs) > 1
    self._plan = plan
    if self._is_group:
      evaluation_step = jax.vmap(evaluation_step, in_axes=(0, None))
    self._evaluation_step = devices.on_each_device(evaluation_step)
    self._evaluation_batches = evaluation_batches
    self._checkpoints = checkpoints
    # Saving then raises TakenOverError, on all hosts.
    self._stop_votes = hosts.Votes(
      lambda: stop_requested() or any(log.is_taken_over for log in logs)
    )
    self._evaluate_every_seconds = evaluate_every_seconds
    self._show_progress = show_progress
    self._diverged: dict[int, str] = {}
    self._on_divergence = on_divergence
    self._in_flight = collections.deque()

  def active_runs(self) -> list[tuple[int, RunLog]]:
    """Returns the logs of runs that have not diverged, with their indices."""
    return [(index, log) for index, log in enumerate(self._logs) if index not in self._diverged]

  def start(self, state: Any) -> None:
    """Starts at a state of NumPy arrays; raises DivergedError if all its runs have diverged."""
    self._first_step = step = int(state.step)
    if self._is_group:
      for index in np.flatnonzero(state.diverged_at):
        self._diverged[index] = f'{self._logs[index].name} at step {state.diverged_at[index]}'
    self._check_runs_left()
    self._progress = Progress(
      start_step=step,
      total_steps=self._plan.total_steps,
      batch_size=self._plan.multiplicity.batch_size,
      enabled=self._show_progress,
      name=self._shown_log.name,
    )
    self._progress.best = self._shown_log.best
    self._start_evaluation_clock()

  def _start_evaluation_clock(self) -> None:
    due_at = time.monotonic() + self._evaluate_every_seconds
    # A new one on all hosts, so that no vote from before is counted.
    self._evaluation_votes = hosts.Votes(
      lambda: jax.process_index() == 0 and time.monotonic() >= due_at
    )

  def is_evaluation_due(self) -> bool:
    """Whether to evaluate by the clock; to be called before each dispatch, on all hosts alike."""
    return self._evaluate_every_seconds > 0 and self._evaluation_votes.is_agreed()

  def is_evaluated(self, step: int) -> bool:
    """Whether the step was evaluated before the run was resumed; the same on all hosts."""
    return hosts.any_host(all(log.is_evaluated(step) for _, log in self.active_runs()))

  def is_stopping(self) -> bool:
    """Whether any host was asked to stop; to be called before each dispatch."""
    return self._stop_votes.is_agreed()

  def consume_metrics(self, step: int, stop: int, metrics: dict[str, jax.Array]) -> None:
    """Queues the metrics of dispatched steps, and processes those beyond the steps in flight."""
    self._in_flight.append(_Dispatch(step, stop, metrics))
    for dispatch in self._in_flight:
      dispatch.note_if_done()
    if step == self._first_step:  # its time includes compilation
      self._consume_all()
      self._progress.restart(stop)
      self._start_evaluation_clock()
    while len(self._in_flight) > devices.max_steps_in_flight():
      self._consume_oldest()

  def _consume_all(self) -> None:
    while self._in_flight:
      self._consume_oldest()

  def _consume_oldest(self) -> None:
    dispatch = self._in_flight.popleft()
    by_step = {
      key: values.reshape(-1, len(self._logs))  # [K, R]
      for key, values in devices.first_replica(dispatch.metrics).items()
    }
    dispatch.note_if_done()
    for index, step in enumerate(range(dispatch.step + 1, dispatch.stop + 1)):
      metrics = {key: values[index] for key, values in by_step.items()}
      self._consume_step(step, metrics, dispatch.done_at)

  def _consume_step(self, step: int, metrics: dict[str, np.ndarray], done_at: float) -> None:
    """Processes the metrics of one step, each `[R]`; raises DivergedError if no run is left."""
    by_run = {
      index: {key: float(values[index]) for key, values in metrics.items()}
      for index, _ in self.active_runs()
    }
    for index, log in self.active_runs():
      problem, rise = log.add(step, by_run[index])
      if problem:
        self._end(index, step, problem, done_at)
      elif rise and log is self._shown_log:
        self._progress.say(
          f'warning: the loss has jumped to {rise.loss:.3g} around step {step}, from a level of '
          f'{rise.level:.3g}, at learning rate {by_run[index]["learning_rate"]:.3g}; this may be '
          'the edge of stability, which python -m nfnets_augmult.find_learning_rate measures'
        )
    self._check_runs_left()
    self._progress.name = self._shown_log.name
    self._progress.best = self._shown_log.best
    self._progress.advance(step, by_run[self.active_runs()[0][0]], done_at)
    if step % self._plan.cadence.log == 0 or step == self._plan.total_steps:
      speed = self._progress.images_per_second(step, done_at)
      for _, log in self.active_runs():
        means = log.record_metrics(step, images_per_second=speed)
        if log is self._shown_log:
          self._progress.log_step(step, means, speed, done_at)
      self._progress.reset_clock(step, done_at)

  @property
  def _shown_log(self) -> RunLog:
    """The log of the run whose progress is displayed: the first that has not diverged."""
    return self.active_runs()[0][1]

  def _end(self, index: int, step: int, problem: str, done_at: float | None = None) -> None:
    """Marks a run as diverged; raises DivergedError for a single one."""
    log = self._logs[index]
    speed = self._progress.images_per_second(step, done_at)
    error = log.divergence_error(step, problem, images_per_second=speed)
    self._diverged[index] = f'{log.name}: {error}'
    self._on_divergence(index, error)
    if not self._is_group:
      raise error

  def _check_runs_left(self) -> None:
    if not self.active_runs():
      raise DivergedError(f'all runs diverged: {"; ".join(self._diverged.values())}')

  def save(self, state: Any) -> Any:
    """Saves a state, after checking that it and all metrics up to it are finite.

    Returns:
      The state that was saved; on hosts other than the first, which writes it, arrays of its shapes
      that take no memory. None if its step was saved before.

    Raises:
      DivergedError: no run is left, or a parameter is not finite.
      CheckpointError: this or the previous write failed.
    """
    self._consume_all()
    if self._checkpoints.has(int(devices.first_replica(state.step))):
      return None
    state = _state_to_write(state)
    if not self._is_group:  # the step of a group never accepts parameters that are not finite
      self._check_finite(state)
    with hosts.failing_together():
      for log in self._logs:  # a run that resumes from this checkpoint has the records up to it
        log.upload()
    self._checkpoints.save(state)
    return state

  def _check_finite(self, state: Any) -> None:
    """Checks the parameters, which no later loss checks if this is the last step."""
    params = jax.tree.leaves((state.params, state.ema_params))
    is_finite = jax.process_index() > 0 or all(np.isfinite(leaf).all() for leaf in params)
    if hosts.any_host(not is_finite):
      step = int(state.step)
      self._end(0, step, f'the parameters after step {step} are not finite')

  def evaluate(self, step: int, state: Any, *, saved: Any = None) -> None:
    """Evaluates and records a state on all splits; saves the best one of a single run.

    Args:
      step: of the state.
      state: on the devices.
      saved: what `save` returned for it.
    """
    results = self._evaluate_splits(state.runs if self._is_group else state)
    if not self._is_group:
      split, name, key = BEST_BY.split('/')
      self._checkpoints.save_if_best(
        lambda: _state_to_write(state) if saved is None else saved, results[split][name][key]
      )
    with hosts.failing_together():
      for index, log in self.active_runs():
        run_results = {
          split: {
            name: {key: float(np.ravel(values)[index]) for key, values in means.items()}
            for name, means in by_name.items()
          }
          for split, by_name in results.items()
        }
        if log is self._shown_log:
          self._say_evaluation(step, run_results)
        if not log.is_evaluated(step):
          log.record_evaluation(step, run_results)
        log.upload()
    self._progress.best = self._shown_log.best
    self._progress.reset_clock(step)
    self._start_evaluation_clock()

  def _say_evaluation(self, step: int, results: dict[str, dict[str, dict[str, float]]]) -> None:
    for split, by_name in results.items():
      for name, means in by_name.items():
        self._progress.say(
          f'step {step}, epoch {self._plan.epoch(step):.2f}, {split}, {name} parameters: '
          f'top-1 {100 * means["top_1"]:.2f} %, top-5 {100 * means["top_5"]:.2f} %, '
          f'cross entropy {means["cross_entropy"]:.4f} ({means["count"]:,.0f} images)'
        )

  def _evaluate_splits(self, state: Any) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns the means of each split for the last parameters, `raw`, and the averaged, `ema`."""

    def check_stop() -> None:
      if self.is_stopping():
        self._checkpoints.wait()
        raise StopRequested

    params_by_name = {'raw': state.params, 'ema': state.ema_params}
    return {
      split: evaluation.evaluate(
        self._evaluation_step, params_by_name, make(), check_stop=check_stop
      )
      for split, make in self._evaluation_batches.items()
    }

  def wait(self) -> None:
    """Waits for the writing of checkpoints."""
    self._checkpoints.wait()

  def close(self) -> None:
    """Ends the display of progress."""
    self._progress.close()


def _state_to_write(state: Any) -> Any:
  """Returns the state as NumPy arrays on the first host; see `Watch.save` for the others."""
  if jax.process_index() == 0:
    return devices.copy_to_host(state)
  empty = jax.tree.map(lambda leaf: np.broadcast_to(leaf.dtype.type(0), leaf.shape[1:]), state)
  return empty._replace(step=devices.first_replica(state.step))
