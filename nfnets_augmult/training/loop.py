"""The training loop: step, evaluate, save; it can stop and resume at any step."""

from collections.abc import Callable
from typing import Any

from nfnets_augmult.training import devices
from nfnets_augmult.training.feeding import Advance
from nfnets_augmult.training.plan import Plan
from nfnets_augmult.training.watch import StopRequested, Watch


def fit(
  first_state: Callable[[], Any],
  *,
  plan: Plan,
  make_advance: Callable[[int], Advance],
  steps_per_dispatch: int,
  watch: Watch,
) -> Any:
  """Trains to the last step of the plan and returns the last state.

  What an update computes depends on the step alone, so a run resumed from a checkpoint computes the
  same as an uninterrupted one. Evaluations, also those by the clock, change nothing.

  Args:
    first_state: makes the state to start from, a `TrainState` or `GroupState` of NumPy arrays. A
      function, so that no reference keeps them in host memory during training.
    plan: of the run, or of each run of a group.
    make_advance: from a step to the function that trains from there on, see `feeding.Advance`.
    steps_per_dispatch: the largest number of steps in one dispatch.
    watch: consumes metrics, evaluates and saves.

  Raises:
    StopRequested: the run was asked to stop, and its state is saved.
    DivergedError: no run is left; the last checkpoint is from before.
    CheckpointError: a checkpoint could not be written.
  """
  state = first_state()
  step = int(state.step)
  watch.start(state)
  state = devices.replicate(state)
  advance = make_advance(step)
  try:
    while True:
      is_due = plan.is_evaluation_due(step) or watch.is_evaluation_due()
      if is_due and not watch.is_evaluated(step):
        watch.evaluate(step, state, saved=watch.save(state))
      if step == plan.total_steps:
        watch.save(state)
        watch.wait()
        return devices.first_replica(state)
      if watch.is_stopping():
        watch.save(state)
        watch.wait()
        raise StopRequested
      stop = min(step + steps_per_dispatch, plan.cadence.next_stop(step), plan.total_steps)
      state, metrics = advance(state, step, stop)
      watch.consume_metrics(step, stop, metrics)
      step = stop
      if step % plan.cadence.save == 0:
        watch.save(state)
  finally:
    watch.close()
