"""Trains a network with augmentation multiplicity, or goes on where an earlier start stopped.

    python -m nfnets_augmult.train --config=experiments/quickstart_digits.py
        [--workdir=DIR] [--config.KEY=VALUE ...]

The work directory, by default `runs/NAME` for `experiments/NAME.py`, gets the checkpoints, the
metrics, the config and the pictures. The same command again resumes the run, or reports that it
is finished.
"""

import os
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

from nfnets_augmult import front_door  # first: it quietens libraries before they are imported

# isort: split
import jax
import ml_collections
from absl import flags, logging

from nfnets_augmult import assembly, configs
from nfnets_augmult.training import loop, records
from nfnets_augmult.training.checkpoints import CheckpointError, Checkpoints
from nfnets_augmult.training.plan import Plan
from nfnets_augmult.training.state import TrainState, num_params

_SHEET_ROWS = 8
_SHEET_COPIES = 16


def train(
  config: ml_collections.ConfigDict,
  workdir: str,
  *,
  stop_requested: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
  """Runs or resumes the experiment `config` in `workdir` and returns its result.

  Args:
    config: see `configs.default_config`.
    workdir: created if need be.
    stop_requested: looked at between steps; when it is true the state is saved and the run ends.

  Returns:
    What `result.json` holds: the last evaluation, the step and the epoch.

  Raises:
    ValueError: config, data and work directory do not go together; nothing was compiled.
    StopRequested: the run was asked to stop.
    DivergedError, CheckpointError, BadImageError: see there.
  """
  assembly.check(config)
  _check_workdir(config, workdir)
  result = records.read_json(os.path.join(workdir, 'result.json'))
  if result is not None:
    _report(result, workdir, 'This run is finished')
    return result
  front_door.import_tensorflow_quietly()
  data = assembly.load_data(config)
  plan = assembly.make_plan(config, data.train.num_images)
  cadence = assembly.make_cadence(config, plan)
  network = assembly.make_network(config, data)
  train_step, key = assembly.make_train_step(config, network, plan)
  is_first_host = jax.process_index() == 0
  if is_first_host:
    os.makedirs(workdir, exist_ok=True)
    _print_plan(config, data, plan, network, workdir)
  with Checkpoints(workdir, keep=config.checkpoint.keep) as checkpoints:
    state = _first_state(network, checkpoints)
    recorder = None
    if is_first_host:
      _describe_run(config, plan, workdir)
      recorder = records.Recorder(workdir, resume_step=int(state.step))
      _draw_contact_sheet(config, data, plan, workdir)
    try:
      state = loop.fit(
        state,
        plan=plan,
        cadence=cadence,
        train_step=train_step,
        evaluation_step=network.evaluation_step,
        key=key,
        train_batches=lambda step: assembly.train_batches(
          config, data.train, plan.multiplicity, start_step=step, stop_step=plan.total_steps
        ),
        evaluation_batches=assembly.evaluated_splits(config, data),
        checkpoints=checkpoints,
        recorder=recorder,
        stop_requested=stop_requested,
      )
      result = recorder.last(loop.BEST_BY) if recorder else None
    finally:
      if recorder:
        recorder.close()
        _draw_curves(config, plan, workdir)
    if is_first_host:
      records.write_json(os.path.join(workdir, 'result.json'), result)
      _report(result, workdir, 'Finished')
  return result


def default_workdir(config_path: str) -> str:
  """Returns `runs/NAME` for `.../NAME.py`, and `runs/NAME-ARGUMENT` for `.../NAME.py:ARGUMENT`."""
  path, _, argument = config_path.partition('.py:')
  name = pathlib.Path(path).name.removesuffix('.py')
  return os.path.join('runs', '-'.join([name, *re.findall(r'[\w.=]+', argument)]))


def _first_state(network: assembly.Network, checkpoints: Checkpoints) -> TrainState:
  """The newest checkpoint, or the state before the first step."""
  if checkpoints.latest_step is None:
    return jax.device_get(jax.jit(network.initial_state)())
  logging.info('resuming from the checkpoint of step %d', checkpoints.latest_step)
  return checkpoints.restore(jax.eval_shape(network.initial_state))


def _check_workdir(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Raises ValueError if `workdir` holds a run with another config."""
  if '://' in workdir:
    raise ValueError(f'workdir={workdir!r} must be a path of the file system, mounted if need be')
  if os.path.exists(workdir) and not os.path.isdir(workdir):
    raise ValueError(f'workdir={workdir!r} is a file, not a directory')
  theirs = records.read_json(os.path.join(workdir, 'config.json'))
  if theirs is None:
    return
  ours = front_door.flatten(config)
  differ = [
    f'{key} ({theirs.get(key, "absent")!r} there, {ours.get(key, "absent")!r} now)'
    for key in sorted({*ours, *theirs})
    if key not in configs.FREE_KEYS and ours.get(key) != theirs.get(key)
  ]
  if differ:
    raise ValueError(
      f'workdir={workdir!r} holds a run with another config; it differs in {", ".join(differ)}. '
      'Choose another --workdir, or the config of that run'
    )


def _print_plan(
  config: ml_collections.ConfigDict,
  data: assembly.Data,
  plan: Plan,
  network: assembly.Network,
  workdir: str,
) -> None:
  params = jax.eval_shape(network.initial_state).params
  kind = jax.devices()[0].device_kind
  rows = [
    ('training images', f'{data.train.num_images:,} unique ({data.train.description})'),
    ('test images', f'{data.test.num_images:,} ({data.test.description})'),
    ('image size', ' x '.join(map(str, data.image_shape))),
    ('classes', f'{len(data.train.class_names):,}'),
    *plan.rows(),
    ('model', f'{config.model.name}, {num_params(params):,} parameters, {config.compute_dtype}'),
    ('devices', f'{plan.device_count} x {kind}, {plan.host_count} host(s)'),
    ('work directory', workdir),
  ]
  width = max(len(name) for name, _ in rows)
  print('\n'.join(f'  {name:{width}}  {value}' for name, value in rows), flush=True)


def _describe_run(config: ml_collections.ConfigDict, plan: Plan, workdir: str) -> None:
  """Writes what this run is: the config as resolved, what follows from it, and the versions."""
  records.write_json(os.path.join(workdir, 'config.json'), front_door.flatten(config))
  facts = {'plan': dict(plan.rows()), 'versions': records.versions()}
  records.write_json(os.path.join(workdir, 'run.json'), facts)


def _draw_contact_sheet(
  config: ml_collections.ConfigDict, data: assembly.Data, plan: Plan, workdir: str
) -> None:
  """Draws the first images of the run beside their copies, once."""
  from nfnets_augmult.analysis import contact_sheet  # noqa: PLC0415
  from nfnets_augmult.data.crop_flip import CropFlip  # noqa: PLC0415

  path = os.path.join(workdir, 'contact_sheet.png')
  if os.path.exists(path):
    return
  multiplicity = plan.multiplicity
  turns = multiplicity.augmult // multiplicity.copies_per_batch

  def collect(**replaced: Any) -> tuple[Any, ...]:
    batches = assembly.train_batches(
      config, data.train, multiplicity, start_step=0, stop_step=turns, **replaced
    )
    rows = min(_SHEET_ROWS, plan.batch_size_per_host // multiplicity.copies_per_batch or 1)
    return contact_sheet.collect_copies(
      batches, num_images=rows, augmult=multiplicity.augmult
    )

  _, labels, copies = collect()
  _, _, originals = collect(augmentation=CropFlip(pad=0, flip=False))
  names = data.train.class_names
  sheet = contact_sheet.draw_contact_sheet(
    originals[:, 0], copies[:, :_SHEET_COPIES], [names[label][:20] for label in labels]
  )
  sheet.save(f'{path}.tmp', format='png')
  os.replace(f'{path}.tmp', path)
  logging.info('what the network is shown: %s', path)


def _draw_curves(config: ml_collections.ConfigDict, plan: Plan, workdir: str) -> None:
  from nfnets_augmult.analysis import curves  # noqa: PLC0415

  path = os.path.join(workdir, 'curves.png')
  title = (
    f'{config.model.name} on {config.dataset.name}: n = {plan.multiplicity.augmult}, '
    f'batch size {plan.multiplicity.batch_size}, peak learning rate {plan.learning_rate:g}'
  )
  run_records = records.read_metrics(os.path.join(workdir, 'metrics.jsonl'))
  figure = curves.draw_curves(run_records, title=title)
  figure.savefig(f'{path}.tmp', format='png', dpi=120)
  os.replace(f'{path}.tmp', path)


def _report(result: dict[str, Any], workdir: str, what: str) -> None:
  print(f'{what} after {result["step"]:,} steps, {result["epoch"]:.2f} epochs.')
  for name, label in (('raw', 'last parameters'), ('ema', 'averaged parameters')):
    print(
      f'  test accuracy, {label}: top-1 {100 * result[f"test/{name}/top_1"]:.2f} %, '
      f'top-5 {100 * result[f"test/{name}/top_5"]:.2f} %, '
      f'cross entropy {result[f"test/{name}/cross_entropy"]:.4f}'
    )
  print(f'  pictures: {workdir}/contact_sheet.png, {workdir}/curves.png')
  print(f'  records:  {workdir}/metrics.jsonl; tensorboard --logdir {workdir}/tensorboard')
  sys.stdout.flush()


def main() -> None:
  """Reads the flags, trains, and turns what can go wrong into one message."""
  from nfnets_augmult.data.sources import BadImageError  # noqa: PLC0415

  workdir = flags.FLAGS.workdir or default_workdir(front_door.config_path())
  try:
    train(flags.FLAGS.config, workdir, stop_requested=front_door.StopSignals())
  except loop.StopRequested:
    logging.info('stopped and saved in %s; the same command goes on from there', workdir)
  except loop.DivergedError as error:
    front_door.fail(
      f'{error}; the run stops. The checkpoints in {workdir} are from before. A smaller '
      'optimizer.learning_rate or a longer optimizer.warmup_epochs may help, in another --workdir'
    )
  except (CheckpointError, BadImageError) as error:
    front_door.fail(str(error))
  except OSError as error:
    front_door.fail(f'cannot write to {workdir}: {error}; the checkpoints there are kept')


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Directory of the run; default: runs/NAME of the config.')
  front_door.define_config_flag()
  front_door.run(main)
