"""Curves of one run, drawn from its `metrics.jsonl`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Name in the records, label, and style of the curves of each panel.
CROSS_ENTROPY = (
  ('train/loss', 'training, augmented copies (running)', {'color': '0.7', 'lw': 1}),
  ('train_raw/raw/cross_entropy', 'training, raw images', {'color': 'C0', 'marker': 'o'}),
  ('test/raw/cross_entropy', 'test', {'color': 'C1', 'marker': 'o'}),
  (
    'test/ema/cross_entropy',
    'test, averaged parameters',
    {'color': 'C1', 'ls': '--', 'marker': 's'},
  ),
)
ACCURACY = (
  ('train/accuracy', 'training, augmented copies (running)', {'color': '0.7', 'lw': 1}),
  ('train_raw/raw/top_1', 'training, raw images', {'color': 'C0', 'marker': 'o'}),
  ('test/raw/top_1', 'test', {'color': 'C1', 'marker': 'o'}),
  ('test/ema/top_1', 'test, averaged parameters', {'color': 'C1', 'ls': '--', 'marker': 's'}),
)
EPOCHS = 'epochs (passes over the unique images)'


class Divergence(NamedTuple):
  """Where a run diverged.

  Attributes:
    step: the last one.
    epoch: of that step.
    losses: epoch and value of those of the last losses that are finite.
    label: of these.
  """

  step: int
  epoch: float
  losses: Sequence[tuple[float, float]]
  label: str


def draw_curves(
  records: Sequence[Mapping[str, Any]],
  *,
  title: str,
  divergence: Mapping[str, Any] | None = None,
) -> Figure:
  """Returns a figure of cross entropy, top-1 accuracy and learning rate against epochs.

  Args:
    records: of `metrics.jsonl`, each with `step` and `epoch`; missing metrics are not drawn.
    title: above the panels.
    divergence: the `step` at which the run diverged and the `last_losses` up to it, see
      `training.records.read_divergence`; None if it did not.
  """
  figure = Figure(figsize=(12, 4))
  # Fixed, since a layout engine draws everything three times.
  figure.subplots_adjust(left=0.075, right=0.985, bottom=0.13, top=0.9, wspace=0.25)
  losses, accuracies, rates = figure.subplots(1, 3)
  for axes, curves, factor in ((losses, CROSS_ENTROPY, 1), (accuracies, ACCURACY, 100)):
    for name, label, style in curves:
      points = _points(records, name)
      if points:
        axes.plot(
          [x for x, _ in points],
          [factor * y for _, y in points],
          label=label,
          # A line through a single point would be invisible.
          **{'ms': 3.5, 'lw': 1.5, 'marker': '.' if len(points) == 1 else None, **style},
        )
  if divergence is not None:
    _mark_divergence((losses, accuracies, rates), locate_divergence(records, divergence))
  for axes in (losses, accuracies):
    if axes.lines:
      axes.legend(fontsize=7)
  losses.set_yscale('log')
  losses.set_ylabel('cross entropy (nats)')
  accuracies.set_ylabel('top-1 accuracy (%)')
  rate = _points(records, 'learning_rate')
  rates.plot([x for x, _ in rate], [y for _, y in rate], color='C2')
  rates.set_ylabel('learning rate')
  rates.set_ylim(bottom=0)
  for axes in (losses, accuracies, rates):
    axes.set_xlabel(EPOCHS)
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
  figure.suptitle(title)
  return figure


def draw_comparison(records_by_name: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
  """Returns a figure of the training loss and the test accuracy of several runs against updates.

  The loss is that of augmented copies, the accuracy that of the averaged parameters. The line of a
  run that diverged ends there.

  Args:
    records_by_name: of `metrics.jsonl`, by the name of the run in the legend.
  """
  figure = Figure(figsize=(9, 3.4 + 0.2 * len(records_by_name)), layout='constrained')
  losses, accuracies = figure.subplots(1, 2)
  for index, (name, records) in enumerate(records_by_name.items()):
    style = {'color': f'C{index}', 'label': name}
    for axes, key, factor, marker in (
      (losses, 'train/loss', 1, None),
      (accuracies, 'test/ema/top_1', 100, '.'),
    ):
      points = [(r['step'], factor * r[key]) for r in records if r.get(key) is not None]
      axes.plot([x for x, _ in points], [y for _, y in points], marker=marker, **style)
  losses.set_yscale('log')
  losses.set_ylabel('training cross entropy (nats)')
  accuracies.set_ylabel('test accuracy (%)')
  for axes in (losses, accuracies):
    axes.set_xlabel('parameter updates')
    axes.grid(alpha=0.3)
  figure.legend(*losses.get_legend_handles_labels(), loc='outside lower center', fontsize=8)
  return figure


def locate_divergence(
  records: Sequence[Mapping[str, Any]], divergence: Mapping[str, Any]
) -> Divergence:
  """Returns where a run diverged, from its records and what `read_divergence` returns."""
  # Without records the axis is in steps.
  epochs = [record['epoch'] / record['step'] for record in records if record['step']]
  epochs_per_step = epochs[-1] if epochs else 1.0
  step, last = divergence['step'], divergence['last_losses']
  steps = range(step - len(last) + 1, step + 1)
  points = [(epochs_per_step * s, y) for s, y in zip(steps, last, strict=True) if y is not None]
  not_finite = len(last) - len(points)
  label = f'last {len(last)} losses' + f', {not_finite} not finite' * bool(not_finite)
  return Divergence(step, epochs_per_step * step, points, label)


def _mark_divergence(panels: Sequence[Axes], divergence: Divergence) -> None:
  """Draws a line at the step, and each of the last losses in the first panel."""
  if divergence.losses:
    points = zip(*divergence.losses, strict=True)
    panels[0].plot(*points, '.', color='C3', ms=4, label=divergence.label)
  for axes in panels:
    label = f'diverged at step {divergence.step}'
    axes.axvline(divergence.epoch, color='C3', lw=1, ls=':', label=label)


def _points(records: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
  return [(r['epoch'], r[name]) for r in records if r.get(name) is not None]
