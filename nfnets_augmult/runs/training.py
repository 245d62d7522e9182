"""Training a run, or a group of runs in one program, from its latest checkpoint to its end."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from nfnets_augmult import configs
from nfnets_augmult.ops import files
from nfnets_augmult.runs import batches, network, pictures, run_page, summary
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import groups, hosts, loop, records
from nfnets_augmult.training.checkpoints import CheckpointError, Checkpoints
from nfnets_augmult.training.feeding import Advance, TrainStep
from nfnets_augmult.training.run_log import BEST_BY, DivergedError, RunLog
from nfnets_augmult.training.state import TrainState
from nfnets_augmult.training.watch import Watch

# The keys in which the runs of a group may differ.
GROUP_KEYS = ('seed', 'optimizer.learning_rate')


class Trained(NamedTuple):
  """The outcome of training.

  Attributes:
    state: the last one, a `TrainState`, or a `GroupState` of several runs.
    results: the contents of `result.json` of each run, the last evaluation with its step and epoch;
      None for a run that diverged, and on all hosts but the first.
  """

  state: Any
  results: list[dict[str, Any] | None]


def check_group(runs: Sequence[Run]) -> None:
  """Raises ValueError unless the runs can train in one program."""
  flat = [configs.flatten(run.config) for run in runs]
  for config in flat[1:]:
    shared = {key: value for key, value in config.items() if key not in GROUP_KEYS}
    if differ := configs.differences({**flat[0], **shared}, flat[0]):
      raise ValueError(
        f'runs train in one program if they differ in {" and ".join(GROUP_KEYS)} alone; these '
        f'differ in {", ".join(differ)}'
      )
  if len(runs) > 1 and not batches.is_data_on_devices(runs[0].settings, runs[0].data.train):
    raise ValueError(
      "runs train in one program only with input='device' and a data set that lies on the devices, "
      'so that batches are made in the program of the step: one that is held in memory, with '
      "augmentation.crop='pad' and without Mixup, CutMix and RandAugment"
    )


def train(
  runs: Sequence[Run],
  folder: str = '',
  *,
  command: str = '',
  page_after_error: bool = False,
  stop_requested: Callable[[], bool] = lambda: False,
) -> Trained:
  """Starts or resumes a run, or several that differ only in seed and learning rate.

  If a run of a group diverges, the others continue.

  Args:
    runs: prepared, see `Run.prepare`.
    folder: of the checkpoints of a group until its end; of a single run, its work directory.
    command: that started them, to be recorded; '' if there is none.
    page_after_error: whether to draw `run.html` of each after an error. Without one it is left to
      the caller, who knows what is still to come onto it.
    stop_requested: called between dispatches; if it is true, the state is saved and training ends.

  Raises:
    StopRequested: `stop_requested` was true.
    DivergedError: the run, or all runs of the group, diverged; `status.json` says when.
    CheckpointError: a checkpoint could not be written or read.
    TakenOverError: another process was started in the work directory, in a bucket, since.
    BadDataError: an image does not decode, and the policy is to fail.
    OSError: something else could not be written.
  """
  check_group(runs)
  first, is_group = runs[0], len(runs) > 1
  first.check_device_memory(len(runs))
  folder = folder or first.workdir
  is_first_host = jax.process_index() == 0
  claims = {}
  with hosts.failing_together():
    if is_first_host:
      print(summary.plan_text(runs, folder), flush=True)
      claims = {path: records.Claim(path) for path in {folder, *(run.workdir for run in runs)}}
      for run in runs:
        files.make_dirs(run.workdir)
        summary.write_description(run, command)
        pictures.draw_contact_sheet(run)
  class_names = first.data.train.class_names
  keep = first.settings.keep_checkpoints
  with contextlib.ExitStack() as stack:
    checkpoints = stack.enter_context(
      Checkpoints(folder, keep=keep, class_names=class_names, claim=claims.get(folder))
    )
    resume_step = checkpoints.latest_step or 0
    recorders = [
      stack.enter_context(
        _recorder(run, resume_step, claims.get(run.workdir), page_after_error=page_after_error)
      )
      for run in runs
    ]
    state = loop.fit(
      lambda: (_first_group_state if is_group else _first_run_state)(runs, checkpoints),
      plan=first.plan,
      make_advance=lambda step: _make_advance(runs, step),
      steps_per_dispatch=batches.steps_per_dispatch(first.settings),
      watch=Watch(
        [
          RunLog(run.plan, recorder, name=os.path.basename(run.workdir) if is_group else '')
          for run, recorder in zip(runs, recorders, strict=True)
        ],
        plan=first.plan,
        evaluation_step=first.network.evaluation_step,
        evaluation_batches=first.evaluated_splits(),
        checkpoints=checkpoints,
        stop_requested=stop_requested,
        evaluate_every_seconds=60 * first.settings.evaluate_every_minutes,
        show_progress=is_first_host,
        on_divergence=lambda index, error: _note_divergence(
          runs[index], error, claims.get(runs[index].workdir), is_group=is_group
        ),
      ),
    )
  results = []
  for index, (run, recorder) in enumerate(zip(runs, recorders, strict=True)):
    if is_group and state.diverged_at[index]:
      results.append(None)
      continue
    if is_group:  # for other programs, which read single runs; all hosts save together
      with Checkpoints(
        run.workdir, class_names=class_names, claim=claims.get(run.workdir)
      ) as run_checkpoints:
        run_checkpoints.save(groups.state_of_run(state, index))
    with hosts.failing_together():
      results.append(_write_result(run, recorder, claims[run.workdir]) if recorder else None)
  return Trained(state, results)


@contextlib.contextmanager
def _recorder(
  run: Run, resume_step: int, claim: records.Claim | None, *, page_after_error: bool
) -> Iterator[records.Recorder | None]:
  """Yields a recorder on the first host; at the end, also after an error, draws the curves.

  A bucket that cannot be written, or belongs to another process by now, is left alone.
  """
  recorder = None
  with hosts.failing_together():
    if claim:
      recorder = records.Recorder(run.workdir, resume_step=resume_step, claim=claim)
  try:
    yield recorder
  except BaseException as error:
    # After an error of one host the others are elsewhere.
    is_shared = isinstance(error, hosts.SharedError)
    with hosts.failing_together() if is_shared else contextlib.nullcontext():
      _finish_records(run, recorder, error, has_page=page_after_error)
    raise
  with hosts.failing_together():
    _finish_records(run, recorder)


def _finish_records(
  run: Run,
  recorder: records.Recorder | None,
  error: BaseException | None = None,
  *,
  has_page: bool = False,
) -> None:
  if recorder is None:
    return
  if isinstance(error, hosts.HostError):
    error = error.__cause__
  is_writable = not isinstance(error, CheckpointError | OSError | records.TakenOverError)
  if is_writable:
    recorder.upload()
  recorder.close()
  if is_writable or not files.is_url(run.workdir):
    pictures.draw_curves(run)
    if has_page and (page := run_page.write_run_page(run.workdir)):
      logging.info('page: %s', page)


def _write_result(
  run: Run, recorder: records.Recorder, claim: records.Claim
) -> dict[str, Any] | None:
  claim.check()
  result = recorder.last(BEST_BY)
  records.write_json(os.path.join(run.workdir, 'result.json'), result)
  records.clear_status(run.workdir)
  return result


def _first_run_state(runs: Sequence[Run], checkpoints: Checkpoints) -> TrainState:
  """The newest checkpoint, or the state before the first step."""
  (run,) = runs
  if checkpoints.latest_step is not None:
    logging.info('resuming from the checkpoint of step %d', checkpoints.latest_step)
    return checkpoints.restore(run.network.abstract_state)
  state, report = network.first_state(run.network, run.parameters_key, run.initial_params)
  if report is not None:
    logging.info('from %s: %s', run.settings.init_from, report)
  return state


def _first_group_state(runs: Sequence[Run], checkpoints: Checkpoints) -> groups.GroupState:
  """The newest checkpoint, or the state before the first step."""
  if checkpoints.latest_step is not None:
    logging.info('resuming from the checkpoint of step %d', checkpoints.latest_step)
    state = checkpoints.restore(
      jax.eval_shape(groups.stack_states, [run.network.abstract_state for run in runs])
    )
  else:
    states = []
    for run in runs:  # with the network of the first, whose functions are compiled
      states.append(network.first_state(runs[0].network, run.parameters_key, run.initial_params)[0])
    state = jax.device_get(groups.stack_states(states))
  with hosts.failing_together():
    for run, diverged_at in zip(runs, state.diverged_at, strict=True):
      if not diverged_at and jax.process_index() == 0:
        records.clear_status(run.workdir)  # it may have diverged after this checkpoint
  return state


def _make_advance(runs: Sequence[Run], start_step: int) -> Advance:
  """Returns the `Advance` from `start_step` on."""
  run = runs[0]
  multiplicity, total_steps = run.plan.multiplicity, run.plan.total_steps
  if len(runs) == 1:
    return run.restart(run.key, multiplicity=multiplicity, start_step=start_step)

  def make_train_step(learning_rate: jax.Array) -> TrainStep:
    schedule = run.settings.make_schedule(total_steps, peak=1.0)
    return run.make_train_step(lambda step: learning_rate * schedule(step))

  return batches.make_group_advance(
    run.settings,
    run.data.train,
    [r.plan.multiplicity for r in runs],
    make_train_step,
    keys=np.stack([r.key for r in runs]),
    learning_rates=np.array([r.plan.learning_rate for r in runs], np.float32),
  )


def _note_divergence(
  run: Run, error: DivergedError, claim: records.Claim | None, *, is_group: bool
) -> None:
  if is_group:  # that of a single run is raised
    logging.info('%s: %s; it stops here', os.path.basename(run.workdir), error)
  with hosts.failing_together():
    if claim:  # on the first host
      claim.check()
      records.write_status(run.workdir, 'diverged', str(error), error.facts)
