"""Trains a network with augmentation multiplicity, or goes on where an earlier start stopped.

    python -m nfnets_augmult.train --config=experiments/quickstart_digits.py
        [--workdir=DIR] [--config.KEY=VALUE ...] [--multi_host]

The work directory, by default `runs/NAME` for `experiments/NAME.py`, gets the checkpoints, the
metrics, the config and the pictures. The same command again resumes the run, or reports that it
is finished.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import Any

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
import jax
import ml_collections
from absl import flags, logging

from nfnets_augmult import assembly, configs
from nfnets_augmult.data.augmentation import NOTHING
from nfnets_augmult.data.sources import BadDataError
from nfnets_augmult.ops import paths
from nfnets_augmult.ops.argument_names import renamed
from nfnets_augmult.training import checkpoints as checkpoints_lib
from nfnets_augmult.training import loop, records
from nfnets_augmult.training.checkpoints import CheckpointError, Checkpoints
from nfnets_augmult.training.plan import Plan
from nfnets_augmult.training.state import TrainState, num_params

_SHEET_ROWS = 8
_SHEET_COPIES = 16


@dataclasses.dataclass(frozen=True)
class Run:
  """A run that is checked and ready to start; see `prepare`."""

  config: ml_collections.ConfigDict
  workdir: str
  data: assembly.Data
  plan: Plan
  cadence: loop.Cadence
  network: assembly.Network
  train_step: Callable[..., Any]
  key: jax.Array
  initial_params: assembly.InitialParams | None


def prepare(
  config: ml_collections.ConfigDict,
  workdir: str,
  *,
  data: assembly.Data | None = None,
  checkpoint_dir: str = '',
) -> Run:
  """Returns the run that `config` describes; compiles and writes nothing.

  Args:
    config: of one run.
    workdir: of the run; '' if nothing is to be kept of it.
    data: what `assembly.load_data` returned for this data set, if it is at hand.
    checkpoint_dir: work directory that holds the checkpoints, if it is another one.

  Raises:
    ValueError: config, data and work directory do not go together; the message names the key.
    CheckpointError: the folder of the checkpoints cannot be read.
  """
  assembly.check(config)
  check_workdir(config, workdir)
  if workdir:
    paths.check_writable('workdir', workdir)
  if assembly.needs_tensorflow(config):
    command_line.import_tensorflow_quietly()
  data = data or assembly.load_data(config)
  resumes = bool(workdir) and checkpoints_lib.has_checkpoint(checkpoint_dir or workdir)
  if resumes and (then := records.read_data_description(workdir)):
    assembly.check_same_data(data, then)
  assembly.check_input(config, data)
  plan = assembly.make_plan(config, data.train.num_images)
  with renamed(assembly.AUGMENTATION_KEYS):
    assembly.make_augmentation(config).check(
      unique_images_per_batch=plan.multiplicity.unique_images_per_batch,
      image_shape=data.image_shape,
    )
  network = assembly.make_network(config, data)
  assembly.check_images_fit(config, data, network)
  assembly.check_memory(config, data, plan, network)
  train_step, key = assembly.make_train_step(config, network, plan)
  cadence = assembly.make_cadence(config, plan)
  # What a checkpoint goes on from is in the checkpoint.
  initial_params = (
    None if resumes else assembly.read_initial_params(config, network, data.train.class_names)
  )
  return Run(config, workdir, data, plan, cadence, network, train_step, key, initial_params)


def finished_result(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any] | None:
  """Returns the result of the run in `workdir` if it is finished, else None.

  Raises:
    ValueError: `workdir` holds a run with another config.
  """
  check_workdir(config, workdir)
  path = os.path.join(workdir, 'result.json')
  result = records.read_object(path)
  if result is not None:
    # Of runs that trained together it has those of each; None of those that diverged.
    results = result.values() if assembly.are_runs_together(config) else [result]
    for values in results:
      if values is not None and not _is_result(values):
        raise records.DamagedError(f'{path} is damaged: it holds no evaluation; remove it')
  return result


def _is_result(values: Any) -> bool:
  """Whether `report` can print it."""
  parameters = ('raw', 'ema')
  names = ['step', 'epoch', *(f'test/{p}/{key}' for p in parameters for key in ('top_1', 'top_5'))]
  return (
    isinstance(values, dict)
    and all(isinstance(values.get(name), int | float) for name in names)
    # null is written for what is not finite, as when one logit of a sound network overflows.
    and all(f'test/{p}/cross_entropy' in values for p in parameters)
  )


def train(
  run: Run, *, stop_requested: Callable[[], bool] = lambda: False
) -> tuple[TrainState, dict[str, Any] | None]:
  """Starts the run or goes on with it.

  Args:
    run: see `prepare`.
    stop_requested: looked at between dispatches; when true, the state is saved and the run ends.

  Returns:
    The last state, and what `result.json` holds: the last evaluation with its step and epoch.

  Raises:
    StopRequested, DivergedError: see `loop.fit`.
    CheckpointError: a checkpoint could not be written or read.
    BadDataError: an image does not decode, and the policy is to fail.
    OSError: something else could not be written.
  """
  config, plan, workdir = run.config, run.plan, run.workdir
  is_first_host = jax.process_index() == 0
  if is_first_host:
    os.makedirs(workdir, exist_ok=True)
    print_plan(run)
    describe_run(run)
  with Checkpoints(
    workdir, keep=config.checkpoint.keep, class_names=run.data.train.class_names
  ) as checkpoints:
    recorder = None
    if is_first_host:
      recorder = records.Recorder(workdir, resume_step=checkpoints.latest_step or 0)
      draw_contact_sheet(run)
    try:
      state = loop.fit(
        lambda: _first_state(run, checkpoints),
        plan=plan,
        cadence=run.cadence,
        make_advance=lambda step: assembly.make_advance(
          config, run.data, plan, run.train_step, run.key, start_step=step
        ),
        steps_per_dispatch=assembly.steps_per_dispatch(config),
        watch=loop.Watch(
          [loop.RunLog(plan, run.cadence, recorder)],
          evaluation_step=run.network.evaluation_step,
          evaluation_batches=assembly.evaluated_splits(config, run.data),
          checkpoints=checkpoints,
          stop_requested=stop_requested,
        ),
      )
    except loop.DivergedError as error:
      if is_first_host:
        records.write_status(workdir, 'diverged', str(error), error.facts)
      raise
    finally:
      if recorder:
        recorder.close()
        draw_curves(run)
  result = recorder.last(loop.BEST_BY) if recorder else None
  if is_first_host:
    records.write_json(os.path.join(workdir, 'result.json'), result)
    records.clear_status(workdir)
  return state, result


def default_workdir(config_path: str) -> str:
  """Returns `runs/NAME` for `.../NAME.py`, and `runs/NAME-ARGUMENT` for `.../NAME.py:ARGUMENT`."""
  path, _, argument = config_path.partition('.py:')
  name = pathlib.Path(path).name.removesuffix('.py')
  return os.path.join('runs', '-'.join([name, *re.findall(r'[\w.=]+', argument)]))


def _first_state(run: Run, checkpoints: Checkpoints) -> TrainState:
  """The newest checkpoint, or the state before the first step."""
  if checkpoints.latest_step is not None:
    logging.info('resuming from the checkpoint of step %d', checkpoints.latest_step)
    return checkpoints.restore(jax.eval_shape(run.network.initial_state))
  state, report = assembly.first_state(run.network, run.initial_params)
  if report is not None:
    logging.info('from %s: %s', run.config.init_from, report)
  return state


def check_workdir(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Raises ValueError if `workdir`, unless it is '', holds a run with another config."""
  if not workdir:
    return
  if '://' in workdir:
    raise ValueError(f'workdir={workdir!r} must be a path of the file system, mounted if need be')
  if os.path.exists(workdir) and not os.path.isdir(workdir):
    raise ValueError(f'workdir={workdir!r} is a file, not a directory')
  theirs = records.read_object(os.path.join(workdir, 'config.json'))
  if theirs is None:
    return
  if differ := configs.differences(configs.flatten(config), theirs):
    raise ValueError(
      f'workdir={workdir!r} holds a run with another config; it differs in {", ".join(differ)}. '
      'Choose another --workdir, or the config of that run'
    )


def print_plan(run: Run, instead: Mapping[str, str] | None = None) -> None:
  """Prints what a user should read before the run.

  Args:
    run: the run, or one of those that train together.
    instead: values of lines in which these differ.
  """
  data, plan = run.data, run.plan
  params = jax.eval_shape(run.network.initial_state).params
  kind = jax.devices()[0].device_kind
  rows = [
    ('training images', f'{data.train.num_images:,} unique ({data.train.description})'),
    ('test images', f'{data.test.num_images:,} ({data.test.description})'),
    ('image size', ' x '.join(map(str, data.image_shape))),
    ('classes', f'{len(data.train.class_names):,}'),
    *plan.rows(),
    (
      'model',
      f'{run.config.model.name}, {num_params(params):,} parameters, {run.config.compute_dtype}',
    ),
    *_rows_of_dropout(run.config.dropout_masks),
    ('devices', f'{plan.device_count} x {kind}, {plan.host_count} host(s)'),
    ('work directory', run.workdir),
  ]
  width = max(len(name) for name, _ in rows)
  values = dict(rows) | (instead or {})
  print('\n'.join(f'  {name:{width}}  {value}' for name, value in values.items()), flush=True)


def _rows_of_dropout(masks: int) -> list[tuple[str, str]]:
  """What to print of an average over dropout masks; nothing for ordinary dropout."""
  return [('dropout masks', f'{masks} per sample, loss averaged over them')] if masks > 1 else []


def describe_run(run: Run) -> None:
  """Writes what this run is: the config as resolved, what follows from it, and the versions."""
  records.write_json(os.path.join(run.workdir, 'config.json'), configs.flatten(run.config))
  facts = {
    'plan': run.plan.to_json(),
    'versions': records.versions(),
    'data': assembly.describe_data(run.data),
  }
  records.write_json(os.path.join(run.workdir, 'run.json'), facts)


def draw_contact_sheet(run: Run) -> None:
  """Draws the first images of the run beside their copies, once."""
  from nfnets_augmult.analysis import contact_sheet

  path = os.path.join(run.workdir, 'contact_sheet.png')
  if os.path.exists(path):
    return
  multiplicity = run.plan.multiplicity
  turns = multiplicity.augmult // multiplicity.copies_per_batch
  unique = multiplicity.unique_images_per_batch
  rows = max(row for row in range(1, _SHEET_ROWS + 1) if unique % row == 0)

  def collect(**replaced: Any) -> dict[str, Any]:
    # The part that the first of so many hosts would make: no other image is decoded.
    batches = assembly.train_batches(
      run.config,
      run.data.train,
      multiplicity,
      start_step=0,
      stop_step=turns,
      hosts=(0, unique // rows),
      **replaced,
    )
    return contact_sheet.collect_copies(batches, num_images=rows, augmult=multiplicity.augmult)

  copies, originals = collect(), collect(augmentation=NOTHING)
  names = run.data.train.class_names
  sheet = contact_sheet.draw_contact_sheet(
    originals['image'][:, 0],
    copies['image'][:, :_SHEET_COPIES],
    [names[label][:20] for label in copies['label']],
    contact_sheet.mixture_notes(copies, names),
  )
  sheet.save(f'{path}.tmp', format='png')
  os.replace(f'{path}.tmp', path)
  logging.info('what the network is shown: %s', path)


def draw_curves(run: Run) -> None:
  """Draws what the run has recorded so far."""
  from nfnets_augmult.analysis import curves

  plan = run.plan
  path = os.path.join(run.workdir, 'curves.png')
  title = (
    f'{run.config.model.name} on {run.config.dataset.name}: n = {plan.multiplicity.augmult}, '
    f'batch size {plan.multiplicity.batch_size}, peak learning rate {plan.learning_rate:g}'
  )
  run_records = records.read_metrics(os.path.join(run.workdir, 'metrics.jsonl'))
  divergence = records.read_divergence(run.workdir)
  figure = curves.draw_curves(run_records, title=title, divergence=divergence)
  figure.savefig(f'{path}.tmp', format='png', dpi=120)
  os.replace(f'{path}.tmp', path)


def report(result: dict[str, Any], workdir: str, what: str) -> None:
  """Prints the result of a finished run; `what` begins the first line."""
  print(f'{what} after {result["step"]:,} steps, {result["epoch"]:.2f} epochs.')
  for name, label in (('raw', 'last parameters'), ('ema', 'averaged parameters')):
    cross_entropy = result[f'test/{name}/cross_entropy']
    print(
      f'  test accuracy, {label}: top-1 {100 * result[f"test/{name}/top_1"]:.2f} %, '
      f'top-5 {100 * result[f"test/{name}/top_5"]:.2f} %, cross entropy '
      + ('not finite' if cross_entropy is None else f'{cross_entropy:.4f}')
      + (f' ({count:,.0f} images)' if (count := result.get(f'test/{name}/count')) else '')
    )
  print(f'  pictures: {workdir}/contact_sheet.png, {workdir}/curves.png')
  print(f'  records:  {workdir}/metrics.jsonl; tensorboard --logdir {workdir}/tensorboard')
  sys.stdout.flush()


def _finder_command() -> str:
  """The command that measures the stability of the config of this one."""
  given = [argument for argument in sys.argv[1:] if argument.lstrip('-').startswith('config')]
  return shlex.join(['python', '-m', 'nfnets_augmult.find_learning_rate', *given])


def main() -> None:
  """Reads the flags, trains, and turns what can go wrong into one message."""
  from nfnets_augmult import many_runs  # it builds on this module

  config = flags.FLAGS.config
  workdir = flags.FLAGS.workdir or default_workdir(command_line.config_path())
  try:
    is_together = assembly.are_runs_together(config)
    if result := finished_result(config, workdir):
      if is_together:
        many_runs.report(result, workdir)
      else:
        report(result, workdir, 'This run is finished')
      return
    command_line.join_hosts()
    command_line.check_devices()
    run = many_runs.prepare(config, workdir) if is_together else prepare(config, workdir)
  except (ValueError, CheckpointError) as error:
    command_line.fail(str(error))
  try:
    with contextlib.ExitStack() as claims:
      if jax.process_index() == 0 and not claims.enter_context(records.lock_workdir(workdir)):
        command_line.fail(
          f'another process is training in {workdir}: wait for it, stop it, or choose another '
          '--workdir'
        )
      stop_requested = command_line.StopSignals()
      if is_together:
        results = many_runs.train_together(run, stop_requested=stop_requested)
        if jax.process_index() == 0:
          many_runs.report(results, workdir)
        return
      _, result = train(run, stop_requested=stop_requested)
  except loop.StopRequested:
    logging.info('stopped and saved in %s; the same command goes on from there', workdir)
  except loop.DivergedError as error:
    command_line.fail(
      f'{error}. The run stops, and nothing after that step is saved; {workdir}/curves.png shows '
      f'how it went. How large the learning rate can be, this measures: {_finder_command()}. '
      'Then train with a smaller optimizer.learning_rate in another --workdir; adaptive gradient '
      'clipping (optimizer.clipping=0.1) and a warm-up (optimizer.warmup_steps) make larger ones '
      'possible'
    )
  except (CheckpointError, BadDataError) as error:
    command_line.fail(str(error))
  except OSError as error:
    command_line.fail(f'cannot write to {workdir}: {error}; the checkpoints there are kept')
  else:
    if result:
      report(result, workdir, 'Finished')


if __name__ == '__main__':
  command_line.define_path(
    'workdir', None, 'Directory of the run; default: runs/NAME of the config.'
  )
  command_line.define_host_flags()
  command_line.define_config_flag()
  command_line.run(main)
