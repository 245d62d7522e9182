"""Figures of the gradient's variance: its two parts against n, and the paper's Figure 9."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from nfnets_augmult.variance.components import BatchVariance, Estimate

_TITLES = {
  'growing': 'growing batch, U = {unique} images, B = {unique} n',
  'fixed': 'fixed batch, B = {size} samples, U = {size} / n',
}
_STYLES = {
  # Open and in front, so that both points show at n = 1, where the schemes have the same batch.
  'growing': {'color': 'C0', 'marker': 'o', 'mfc': 'white', 'ms': 8, 'zorder': 4},
  'fixed': {'color': 'C3', 'marker': 's', 'ms': 5, 'zorder': 3},
}


class Measured(NamedTuple):
  """A variance measured between mini-batches; `scheme` and n as in `BatchVariance`."""

  scheme: str
  augmult: int
  variance: Estimate


def draw_parts(rows: Sequence[BatchVariance], *, title: str) -> Figure:
  """Returns bars of the variance of a mini-batch gradient, divided into its two parts, against n.

  Args:
    rows: of `components.table`.
    title: above the panels.
  """
  figure = Figure(figsize=(9, 3.8), layout='constrained')
  schemes = [scheme for scheme in _TITLES if any(row.scheme == scheme for row in rows)]
  for axes, scheme in zip(figure.subplots(1, len(schemes), squeeze=False)[0], schemes, strict=True):
    _draw_bars(axes, [row for row in rows if row.scheme == scheme])
  handles, labels = axes.get_legend_handles_labels()
  figure.legend(handles, labels, loc='outside lower center', ncols=2, fontsize=8)
  figure.suptitle(title, fontsize=10)
  return figure


def _draw_bars(axes: Axes, rows: Sequence[BatchVariance]) -> None:
  places = np.arange(len(rows))
  augmentation = np.array([row.augmentation.shown().value for row in rows])
  total = np.maximum([row.variance.shown().value for row in rows], augmentation)
  error = np.array([_error(row.variance) for row in rows]).T
  axes.bar(places, augmentation, color='0.35', label='sampling augmentations')
  axes.bar(
    places,
    total - augmentation,
    bottom=augmentation,
    color='0.8',
    edgecolor='0.35',
    label='sampling images',
    yerr=error,
    capsize=3,
  )
  axes.set_xticks(places, [str(row.augmult) for row in rows])
  axes.set_xlabel('augmentation multiplicity n')
  axes.set_ylabel('variance of the mini-batch gradient')
  first = rows[0]
  axes.set_title(
    _TITLES[first.scheme].format(
      unique=first.unique_images, size=first.unique_images * first.augmult
    ),
    fontsize=9,
  )


def draw_figure_9(
  panels: Sequence[tuple[str, Sequence[Measured], Sequence[BatchVariance]]], *, title: str
) -> Figure:
  """Returns the paper's Figure 9: variance between mini-batches against n, in both schemes.

  Points with intervals are measured; dashed lines are predicted from the two parts.

  Args:
    panels: title, measured and predicted variances of each panel; the panels differ in how
      variances are combined over parameters.
    title: above the panels.
  """
  figure = Figure(figsize=(4.6 * len(panels), 3.8), layout='constrained')
  for axes, (name, measured, predicted) in zip(
    figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
  ):
    for scheme, style in _STYLES.items():
      points = [m for m in measured if m.scheme == scheme]
      axes.errorbar(
        [m.augmult for m in points],
        [m.variance.shown().value for m in points],
        yerr=np.array([_error(m.variance) for m in points]).T,
        capsize=3,
        ls='',
        label=f'{scheme} batch, measured',
        **style,
      )
      curve = [row for row in predicted if row.scheme == scheme]
      axes.plot(
        [row.augmult for row in curve],
        [row.variance.shown().value for row in curve],
        ls='--',
        lw=1.2,
        color=style['color'],
        label=f'{scheme} batch, from its two parts',
      )
    is_positive = any(m.variance.value > 0 for m in measured)
    _label_axes(axes, sorted({m.augmult for m in measured}), is_logarithmic=is_positive)
    axes.set_title(name, fontsize=9)
  figure.suptitle(title, fontsize=10)
  return figure


def _label_axes(axes: Axes, augmults: Sequence[int], *, is_logarithmic: bool) -> None:
  axes.set_xscale('log', base=2)
  axes.set_xticks(augmults, [str(n) for n in augmults])
  if is_logarithmic:
    axes.set_yscale('log')
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f'{value:g}'))
    axes.yaxis.set_minor_locator(NullLocator())
  axes.set_xlabel('augmentation multiplicity n')
  axes.set_ylabel('variance between mini-batch gradients')
  axes.grid(alpha=0.3)
  axes.legend(fontsize=8)


def _error(estimate: Estimate) -> tuple[float, float]:
  shown = estimate.shown()
  return shown.value - shown.low, shown.high - shown.value
