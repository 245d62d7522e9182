"""The figure of the learning-rate finder, drawn from its `learning_rate.json`."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nfnets_augmult.find_learning_rate import trials
from nfnets_augmult.ops import files


def draw(found: Mapping[str, Any]) -> Figure:
  """Returns a figure of the loss against learning rate and against temperature.

  Args:
    found: see `findings.Findings.to_json`.
  """
  figure = Figure(figsize=(12, 4.8), layout='constrained')
  left, right = figure.subplots(1, 2, sharey=True)
  _draw_panel(left, found, scale=1)
  left.set_xlabel('learning rate')
  left.set_ylabel('training loss (nats)')
  _draw_panel(right, found, scale=found['augmult'])
  right.set_xlabel(f'temperature = learning rate x n, n = {found["augmult"]}')
  left.legend(fontsize=7, loc='lower left')
  figure.suptitle(
    f'{found["model"]} on {found["dataset"]}, batch size {found["batch_size"]:,}, '
    f'n = {found["augmult"]}: how large a learning rate can be'
  )
  return figure


def save(found: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
  """Writes the figure as PNG."""
  figure = draw(found)
  files.write_whole(path, lambda file: figure.savefig(file, format='png', dpi=110))


def _draw_panel(axes: Axes, found: Mapping[str, Any], *, scale: float) -> None:
  for number, ramp in enumerate(found['ramps']):
    rates = scale * np.array(ramp['learning_rates'])
    losses = np.array(ramp['losses'], float)  # null becomes nan
    color = f'C{number}'
    axes.plot(rates, losses, color=color, alpha=0.25, lw=0.8)
    axes.plot(
      rates[trials.WINDOW - 1 :],
      trials.window_means(losses),
      color=color,
      label=f'seed {ramp["seed"]}: ramp, mean of {trials.WINDOW} steps',
    )
  highest = max(ramp['limit'] for ramp in found['ramps'])
  axes.axhline(highest, color='0.6', ls=':', lw=1, label='initial loss and its noise')
  axes.set_ylim(0, 1.6 * highest)
  _draw_checks(axes, found, scale=scale, top=1.5 * highest)
  for key, style, label in (
    ('largest_stable', {'color': '0.2', 'ls': '-'}, 'largest stable'),
    ('suggestion', {'color': 'C2', 'ls': '--'}, 'suggestion'),
    ('learning_rate', {'color': 'C3', 'ls': ':'}, 'of the config'),
  ):
    if found[key] is not None:
      axes.axvline(scale * found[key], lw=1.3, label=f'{label}: {scale * found[key]:.3g}', **style)
  axes.set_xscale('log')
  axes.grid(alpha=0.3)


def _draw_checks(axes: Axes, found: Mapping[str, Any], *, scale: float, top: float) -> None:
  """Draws stable checks as circles at their last loss, unstable ones as crosses at `top`."""
  for is_stable, marker, label in ((True, 'o', 'check: stable'), (False, 'x', 'check: unstable')):
    checks = [check for check in found['checks'] if (not check['problem']) == is_stable]
    if checks:
      axes.plot(
        [scale * check['learning_rate'] for check in checks],
        [check['last_loss'] if is_stable else top for check in checks],
        marker,
        color='k',
        ms=5,
        mfc='none',
        label=label,
      )
