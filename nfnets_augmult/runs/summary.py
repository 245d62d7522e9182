"""What people and tools are told of a run: before it, in its records, and of its result."""

import os
from collections.abc import Sequence
from typing import Any

import jax

from nfnets_augmult import configs
from nfnets_augmult.models.table import count_parameters
from nfnets_augmult.runs import images
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import records


def plan_text(runs: Sequence[Run], folder: str) -> str:
  """Returns what a user should read before training starts.

  Args:
    runs: one, or those of a group.
    folder: where their checkpoints go.
  """
  run = runs[0]
  data, plan, settings = run.data, run.plan, run.settings
  num_params = count_parameters(jax.eval_shape(run.network.initial_state).params)
  masks = settings.dropout_masks
  rows = {
    'training images': f'{data.train.num_images:,} unique ({data.train.description})',
    'test images': f'{data.test.num_images:,} ({data.test.description})',
    'image size': ' x '.join(map(str, data.image_shape)),
    'classes': f'{len(data.train.class_names):,}',
    **dict(plan.rows()),
    'model': f'{settings.model_name}, {num_params:,} parameters, {settings.compute_dtype}',
  }
  if masks > 1:
    rows['dropout masks'] = f'{masks} per sample, loss averaged over them'
  rows |= {
    'devices': f'{plan.device_count} x {jax.devices()[0].device_kind}, {plan.host_count} host(s)',
    'work directory': folder,
  }
  if len(runs) > 1:
    temperatures = {of_run.plan.learning_rate: of_run.plan.temperature for of_run in runs}
    rates, of_rates = (
      ', '.join(f'{value:g}' for value in values)
      for values in (temperatures, temperatures.values())
    )
    rows['learning rate'] = f'{rates} (peaks)'
    rows['temperature'] = f'{of_rates} = learning rate x n'
    names = ', '.join(os.path.basename(of_run.workdir) for of_run in runs)
    rows['runs'] = f'{len(runs)} in one program: {names}'
  width = max(map(len, rows))
  return '\n'.join(f'  {name:{width}}  {value}' for name, value in rows.items())


def write_description(run: Run) -> None:
  """Writes what a run is: the config as resolved, what follows from it, and the versions."""
  records.write_json(os.path.join(run.workdir, 'config.json'), configs.flatten(run.config))
  facts = {
    'plan': run.plan.to_json(),
    'versions': records.versions(),
    'data': images.describe_data(run.data),
  }
  records.write_json(os.path.join(run.workdir, 'run.json'), facts)


def result_text(result: dict[str, Any], workdir: str, what: str) -> str:
  """Returns the result of a finished run for people; `what` begins the first line."""
  lines = [f'{what} after {result["step"]:,} steps, {result["epoch"]:.2f} epochs.']
  for name, label in (('raw', 'last parameters'), ('ema', 'averaged parameters')):
    cross_entropy = result[f'test/{name}/cross_entropy']
    lines.append(
      f'  test accuracy, {label}: top-1 {100 * result[f"test/{name}/top_1"]:.2f} %, '
      f'top-5 {100 * result[f"test/{name}/top_5"]:.2f} %, cross entropy '
      + ('not finite' if cross_entropy is None else f'{cross_entropy:.4f}')
      + (f' ({count:,.0f} images)' if (count := result.get(f'test/{name}/count')) else '')
    )
  lines.append(f'  pictures: {workdir}/contact_sheet.png, {workdir}/curves.png')
  lines.append(f'  records:  {workdir}/metrics.jsonl; tensorboard --logdir {workdir}/tensorboard')
  return '\n'.join(lines)
