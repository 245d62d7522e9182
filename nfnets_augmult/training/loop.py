"""The training loop: step, look, evaluate, save; stop and go on at any step."""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from nfnets_augmult.ops.checks import check_int
from nfnets_augmult.training import devices, evaluation
from nfnets_augmult.training.checkpoints import Checkpoints
from nfnets_augmult.training.feeding import Advance
from nfnets_augmult.training.plan import Plan
from nfnets_augmult.training.progress import Progress
from nfnets_augmult.training.records import Recorder
from nfnets_augmult.training.rises import RiseDetector
from nfnets_augmult.training.state import TrainState

# The metric by which the best checkpoint is chosen.
BEST_BY = 'test/ema/top_1'


# How many of the last losses a diverged run leaves behind.
_LAST_LOSSES = 10


class DivergedError(RuntimeError):
  """The loss, the gradient or the parameters are no longer finite numbers.

  Attributes:
    facts: `step`, the `learning_rate` there and the `last_losses` up to it, JSON values; empty
      where several runs are meant.
  """

  def __init__(self, message: str, facts: Mapping[str, Any] | None = None):
    super().__init__(message)
    self.facts = dict(facts or {})


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
      check_int(name, steps, least=1)

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
      watch.consume_metrics(step, stop, metrics)
      step = stop
      if step % cadence.save == 0:
        watch.save(state)
  finally:
    watch.close()


class RunLog:
  """What one run says of itself: metrics, evaluations, progress."""

  def __init__(
    self,
    plan: Plan,
    cadence: Cadence,
    recorder: Recorder | None,
    *,
    show_progress: bool = True,
    name: str = '',
  ):
    """Stores its parts; starts nothing.

    Args:
      plan: of the run.
      cadence: how often to log, save and evaluate.
      recorder: where metrics go; None on all hosts but the first.
      show_progress: whether people see how it goes, where there is a recorder.
      name: of the run, where several train together.
    """
    self.cadence = cadence
    self.name = name
    self._plan = plan
    self._recorder = recorder
    self._show_progress = show_progress
    self._since_log = []
    self._last = collections.deque(maxlen=_LAST_LOSSES)
    self._rises = RiseDetector()

  def start(self, step: int) -> None:
    """Begins at `step`."""
    self.progress = Progress(
      start_step=step,
      total_steps=self._plan.total_steps,
      batch_size=self._plan.multiplicity.batch_size,
      enabled=self._recorder is not None and self._show_progress,
      name=self.name,
    )

  def is_evaluation_due(self, step: int) -> bool:
    """See `Watch`."""
    left = self._plan.total_steps - step
    every = self.cadence.evaluate
    return left == 0 or (step > 0 and step % every == 0 and 2 * left >= every)

  def is_evaluated(self, step: int) -> bool:
    """Whether this host has recorded an evaluation of this step."""
    return self._recorder is not None and self._recorder.has(step, BEST_BY)

  def consume_step(self, step: int, metrics: dict[str, float]) -> None:
    """Takes the metrics of one step, by name; raises DivergedError if they are not finite."""
    self._last.append(metrics)
    for name in ('loss', 'gradient_norm', 'parameter_norm'):
      if name in metrics and not math.isfinite(metrics[name]):
        raise self.diverged(step, f'the {name.replace("_", " ")} of step {step} is {metrics[name]}')
    self._since_log.append(metrics)
    self.progress.advance(step, metrics)
    if rise := self._rises.add(metrics['loss']):
      self.progress.say(
        f'warning: the loss has jumped to {rise.loss:.3g} around step {step}, from a level of '
        f'{rise.level:.3g}, at learning rate {metrics["learning_rate"]:.3g}; this may be the edge '
        'of stability, which python -m nfnets_augmult.find_learning_rate measures'
      )
    if step % self.cadence.log == 0 or step == self._plan.total_steps:
      self._log(step)

  def diverged(self, step: int, what: str) -> DivergedError:
    """Returns the error to raise because of `what`; records what there is up to `step`."""
    if self._since_log:
      self._log(step)
    losses = [metrics['loss'] for metrics in self._last]
    said, facts = what, {'step': step, 'last_losses': [_finite_or_none(loss) for loss in losses]}
    if losses:
      facts['learning_rate'] = self._last[-1]['learning_rate']
      said += (
        f', at learning rate {facts["learning_rate"]:.4g}; the last {len(losses)} losses: '
        f'{", ".join(f"{loss:.4g}" for loss in losses)}'
      )
    return DivergedError(said, facts)

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


class Watch:
  """The side of a run that only watches: metrics, evaluations, checkpoints."""

  def __init__(
    self,
    logs: Sequence[RunLog],
    *,
    evaluation_step: Callable[..., Any],
    evaluation_batches: dict[str, Callable[[], Iterator[dict[str, np.ndarray]]]],
    checkpoints: Checkpoints,
    stop_requested: Callable[[], bool],
  ):
    """Stores its parts; starts nothing.

    Args:
      logs: one, of the run; `bundle.BundleWatch` has several.
      evaluation_step: see `step.make_evaluation_step`; compiled for all devices here.
      evaluation_batches: for each split, by the name under which it is recorded, its batches.
      checkpoints: where states go.
      stop_requested: looked at between dispatches, and between the batches of an evaluation.
    """
    self._logs = logs
    self._evaluation_step = devices.on_each_device(evaluation_step)
    self._evaluation_batches = evaluation_batches
    self._checkpoints = checkpoints
    self._stop_requested = stop_requested
    self._in_flight = collections.deque()

  def active_runs(self) -> list[tuple[int, RunLog]]:
    """Returns the logs of runs that have not diverged, with their places."""
    return list(enumerate(self._logs))

  def start(self, step: int) -> None:
    """Begins at `step`."""
    self._first_step = step
    for log in self._logs:
      log.start(step)

  def is_evaluation_due(self, step: int) -> bool:
    """Whether to evaluate at `step`: regularly, but not shortly before the last step, and there."""
    return self._logs[0].is_evaluation_due(step)

  def is_evaluated(self, step: int) -> bool:
    """Whether a run that was killed since has evaluated this step; the same on all hosts."""
    return _any_host(all(log.is_evaluated(step) for _, log in self.active_runs()))

  def is_stopping(self, step: int) -> bool:
    """Whether any host was asked to stop; hosts ask each other as rarely as they log."""
    if jax.process_count() == 1:
      return self._stop_requested()
    return step % self._logs[0].cadence.log == 0 and _any_host(self._stop_requested())

  def consume_metrics(self, step: int, stop: int, metrics: dict[str, jax.Array]) -> None:
    """Takes the metrics of steps that were just dispatched, and looks at those that are done."""
    self._in_flight.append((step, stop, metrics))
    if step == self._first_step:  # has waited for compilation
      self._consume_all()
      for log in self._logs:
        log.progress.reset_clock(stop)
    while len(self._in_flight) > devices.max_steps_in_flight():
      self._consume_oldest()

  def _consume_all(self) -> None:
    while self._in_flight:
      self._consume_oldest()

  def _consume_oldest(self) -> None:
    step, stop, metrics = self._in_flight.popleft()
    by_step = {
      key: values.reshape(-1, len(self._logs))  # [K, R], also of a single step or run
      for key, values in devices.first_replica(metrics).items()
    }
    for index in range(stop - step):
      self.consume_step(step + 1 + index, {key: values[index] for key, values in by_step.items()})

  def consume_step(self, step: int, metrics: dict[str, np.ndarray]) -> None:
    """Takes the metrics of one step, each with an axis of runs."""
    for place, log in self.active_runs():
      log.consume_step(step, {key: float(values[place]) for key, values in metrics.items()})

  def save(self, state: Any) -> None:
    """Saves a state, after a look at it and at all metrics up to it: a bad one is never saved.

    Raises:
      DivergedError: a metric or a parameter is not finite.
      CheckpointError: this or the previous write failed.
    """
    self._consume_all()
    on_host = devices.first_replica(state)
    self.check_finite(on_host)
    self._checkpoints.save(on_host)

  def check_finite(self, state: TrainState) -> None:
    """Raises DivergedError if a parameter is not finite, as after a last update that was too long.

    Of any other update the next loss tells.
    """
    if not all(
      np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, state.ema_params))
    ):
      step = int(state.step)
      raise self._logs[0].diverged(step, f'the parameters after step {step} are not finite')

  def evaluate(self, step: int, state: Any) -> None:
    """Evaluates the state on all splits, records what comes out, and keeps the best."""
    results = self.evaluate_splits(state)
    split, name, key = BEST_BY.split('/')
    self._checkpoints.save_if_best(devices.first_replica(state), results[split][name][key])
    self._logs[0].record_evaluation(step, results)

  def evaluate_splits(self, state: TrainState) -> dict[str, dict[str, dict[str, Any]]]:
    """Returns the means of each split, for the last parameters, `raw`, and the averaged, `ema`.

    Raises:
      StopRequested: the run was asked to stop.
    """

    def check_stop() -> None:
      if jax.process_count() == 1 and self._stop_requested():
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
    """Waits until what was saved is written."""
    self._checkpoints.wait()

  def close(self) -> None:
    """Ends the displays of progress."""
    for log in self._logs:
      log.close()


def _finite_or_none(value: float) -> float | None:
  return value if math.isfinite(value) else None


def _any_host(flag: bool) -> bool:
  """Whether `flag` is true on any host; a collective operation where there are several."""
  if jax.process_count() == 1:
    return flag
  from jax.experimental import multihost_utils

  return bool(np.any(multihost_utils.process_allgather(np.array(flag))))
