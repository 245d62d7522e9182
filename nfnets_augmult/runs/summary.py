"""Texts and records that describe a run: its plan, its config and its result."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import jax

from nfnets_augmult import configs
from nfnets_augmult.data import class_balance, sources
from nfnets_augmult.models.table import count_parameters
from nfnets_augmult.optim import freezing
from nfnets_augmult.runs import images
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import records


def plan_rows(run: Run) -> dict[str, str]:
  """Returns what follows from the config of a run and its data, as (name, value with its unit)."""
  data, plan, settings = run.data, run.plan, run.settings
  num_params = count_parameters(run.network.abstract_state.params)
  rows = {
    'training images': f'{data.train.num_images:,} unique ({data.train.description})',
    'test images': f'{data.test.num_images:,} ({data.test.description})',
    'image size': ' x '.join(map(str, data.image_shape)),
    'classes': _classes_text(data),
    **dict(plan.rows()),
    'model': f'{settings.model_name}, {num_params:,} parameters, {settings.compute_dtype}',
  }
  if settings.freeze:
    rows['frozen parameters'] = _frozen_text(run)
  if (masks := settings.dropout_masks) > 1:
    rows['dropout masks'] = f'{masks} per sample, loss averaged over them'
  kind = jax.devices()[0].device_kind
  return rows | {'devices': f'{plan.device_count} x {kind}, {plan.host_count} host(s)'}


def plan_text(runs: Sequence[Run], folder: str) -> str:
  """Returns the text that is printed before training.

  Args:
    runs: one, or those of a group.
    folder: of their checkpoints.
  """
  rows = plan_rows(runs[0]) | {'work directory': folder}
  if len(runs) > 1:
    by_rate = {r.plan.learning_rate: r.plan.temperature for r in runs}
    rates = ', '.join(f'{rate:g}' for rate in by_rate)
    temperatures = ', '.join(f'{temperature:g}' for temperature in by_rate.values())
    rows['learning rate'] = f'{rates} (peaks)'
    rows['temperature'] = f'{temperatures} = learning rate x n'
    names = ', '.join(os.path.basename(r.workdir) for r in runs)
    rows['runs'] = f'{len(runs)} in one program: {names}'
  width = max(map(len, rows))
  return '\n'.join(f'  {name:{width}}  {value}' for name, value in rows.items())


def _classes_text(data: images.Data) -> str:
  """The number of classes and, if it is known and notable, how their training images differ."""
  names, counts = data.train.class_names, sources.images_per_class(data.train)
  differ = class_balance.describe_imbalance(counts, names) if counts else ''
  return f'{len(names):,}' + (f', {differ}' if differ else '')


def _frozen_text(run: Run) -> str:
  """Which groups of parameters stay as they are, and for how long."""
  settings = run.settings
  params = run.network.abstract_state.params
  held = freezing.release_steps(
    params, settings.freeze, steps=settings.freeze_steps, unfreeze=settings.unfreeze
  )
  if not settings.freeze_steps:
    return f'{", ".join(held)}: to the end'
  return ', '.join(f'{group} for {steps:,} updates' for group, steps in held.items())


def write_description(run: Run, command: str = '') -> None:
  """Writes `config.json` and, with plan, versions, data and commands, `run.json`.

  Args:
    run: to describe.
    command: that started it this time; the earlier ones stay, in the order of their first use.
  """
  records.write_json(os.path.join(run.workdir, 'config.json'), configs.flatten(run.config))
  path = os.path.join(run.workdir, 'run.json')
  earlier = []
  with contextlib.suppress(records.DamagedError):
    earlier = (records.read_object(path) or {}).get('commands', [])
  facts = {
    'plan': run.plan.to_json(),
    'summary': list(plan_rows(run).items()),
    'versions': records.versions(),
    'data': images.describe_data(run.data),
    'commands': list(dict.fromkeys([*earlier, *[command] * bool(command)])),
  }
  records.write_json(path, facts)


def result_text(result: dict[str, Any], workdir: str, what: str) -> str:
  """Returns the result of a finished run as text that begins with `what`."""
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
