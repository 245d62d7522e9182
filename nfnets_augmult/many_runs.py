"""Trains the runs of `config.runs` together; see `training/bundle.py` for how.

`train.py` starts it. The work directory has one folder for each run with the records of a run that
was trained by itself, and the checkpoints of all of them together.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
from absl import logging

from nfnets_augmult import assembly, configs, train
from nfnets_augmult.training import bundle, loop, records
from nfnets_augmult.training.checkpoints import Checkpoints


@dataclasses.dataclass(frozen=True)
class Bundle:
  """Runs that are checked and ready to start together; see `prepare`."""

  config: ml_collections.ConfigDict
  workdir: str
  runs: dict[str, train.Run]


def prepare(
  config: ml_collections.ConfigDict, workdir: str, *, folders: Mapping[str, str] | None = None
) -> Bundle:
  """Returns the runs that `config` describes; compiles and writes nothing.

  Args:
    config: with `runs`.
    workdir: of all of them together.
    folders: of each run, by its name in `assembly.split_runs`; by default below `workdir`.

  Raises:
    ValueError: see `train.prepare`.
  """
  assembly.check(config)
  train.check_workdir(config, workdir)
  runs, data = {}, None
  for name, single in assembly.split_runs(config).items():
    folder = folders[name] if folders else os.path.join(workdir, name)
    runs[name] = train.prepare(single, folder, data=data, checkpoint_dir=workdir)
    data = runs[name].data
  return Bundle(config, workdir, runs)


def train_together(
  together: Bundle, *, stop_requested: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
  """Starts the runs or goes on with them, and returns their results by name.

  The result of a run that diverged is None; a `status.json` in its folder says when it did. On
  hosts other than the first all are None.

  Raises:
    StopRequested, CheckpointError, OSError: see `train.train`.
    DivergedError: all of them diverged.
  """
  config, workdir = together.config, together.workdir
  runs = list(together.runs.values())
  is_first_host = jax.process_index() == 0
  if is_first_host:
    _describe(together)
  recorders = [None] * len(runs)
  class_names = runs[0].data.train.class_names
  with Checkpoints(workdir, keep=config.checkpoint.keep, class_names=class_names) as checkpoints:
    state = _first_state(runs, checkpoints)
    diverged = _diverged_before(runs, state)
    try:
      if is_first_host:
        recorders = [
          records.Recorder(run.workdir, resume_step=checkpoints.latest_step or 0) for run in runs
        ]
      logs = [
        loop.RunLog(run.plan, run.cadence, recorder, name=name, show_progress=run is runs[0])
        for (name, run), recorder in zip(together.runs.items(), recorders, strict=True)
      ]
      state = loop.fit(
        lambda: state,
        plan=runs[0].plan,
        cadence=runs[0].cadence,
        make_advance=lambda _: assembly.make_bundle_advance(
          [run.config for run in runs], runs[0].data, runs[0].network, [run.plan for run in runs]
        ),
        steps_per_dispatch=assembly.steps_per_dispatch(config),
        watch=bundle.BundleWatch(
          logs,
          evaluation_step=runs[0].network.evaluation_step,
          evaluation_batches=assembly.evaluated_splits(config, runs[0].data),
          checkpoints=checkpoints,
          stop_requested=stop_requested,
          diverged=diverged,
          on_divergence=lambda index, error: _note_divergence(runs[index], error),
        ),
      )
    finally:
      for run, recorder in zip(runs, recorders, strict=True):
        if recorder:
          recorder.close()
          train.draw_curves(run)
  results = {}
  for index, (name, run) in enumerate(together.runs.items()):
    results[name] = None
    if state.diverged_at[index]:
      continue
    # Where other programs look for the parameters of a run. All hosts save together.
    with Checkpoints(run.workdir, class_names=class_names) as own:
      own.save(bundle.state_of_run(state, index))
    if is_first_host:
      results[name] = recorders[index].last(loop.BEST_BY)
      records.write_json(os.path.join(run.workdir, 'result.json'), results[name])
  if is_first_host:
    records.write_json(os.path.join(workdir, 'result.json'), results)
  return results


def report(results: dict[str, Any], workdir: str) -> None:
  """Prints the results of all runs."""
  for name, result in results.items():
    if result is None:
      print(f'{name}: diverged, see {workdir}/{name}/status.json', flush=True)
    else:
      train.report(result, os.path.join(workdir, name), f'{name}: finished')


def _describe(together: Bundle) -> None:
  """Prints and writes what the runs are."""
  first, *_ = together.runs.values()
  rates = {run.plan.learning_rate: run.plan.temperature for run in together.runs.values()}
  train.print_plan(
    first,
    {
      'learning rate': f'{", ".join(f"{rate:g}" for rate in rates)} (peaks)',
      'temperature': f'{", ".join(f"{t:g}" for t in rates.values())} = learning rate x n',
      'work directory': together.workdir,
    },
  )
  print(f'  {len(together.runs)} runs together: {", ".join(together.runs)}', flush=True)
  os.makedirs(together.workdir, exist_ok=True)
  path = os.path.join(together.workdir, 'config.json')
  records.write_json(path, configs.flatten(together.config))
  for run in together.runs.values():
    os.makedirs(run.workdir, exist_ok=True)
    train.describe_run(run)
    train.draw_contact_sheet(run)


def _first_state(runs: Sequence[train.Run], checkpoints: Checkpoints) -> bundle.BundleState:
  """The newest checkpoint, or the state before the first step."""
  if checkpoints.latest_step is not None:
    logging.info('resuming from the checkpoint of step %d', checkpoints.latest_step)
    return checkpoints.restore(
      jax.eval_shape(lambda: bundle.stack_states([run.network.initial_state() for run in runs]))
    )
  # One compiled function for all seeds.
  states = [
    assembly.first_state(runs[0].network, run.initial_params, assembly.parameters_key(run.config))[
      0
    ]
    for run in runs
  ]
  return jax.device_get(bundle.stack_states(states))


def _diverged_before(runs: Sequence[train.Run], state: bundle.BundleState) -> dict[int, str]:
  """The runs that have diverged in `state`; what is said of others is from after it, and goes."""
  diverged = {}
  for index, run in enumerate(runs):
    if state.diverged_at[index]:
      diverged[index] = f'{os.path.basename(run.workdir)} at step {state.diverged_at[index]}'
    elif jax.process_index() == 0:
      records.clear_status(run.workdir)
  return diverged


def _note_divergence(run: train.Run, error: loop.DivergedError) -> None:
  logging.info('%s: %s; it stops here', os.path.basename(run.workdir), error)
  if jax.process_index() == 0:
    records.write_status(run.workdir, 'diverged', str(error), error.facts)
