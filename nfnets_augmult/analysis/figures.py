"""The paper's figures, drawn from runs; every function takes a list of runs and returns a figure.

    from nfnets_augmult.analysis import figures, runs
    figures.accuracy_against_length(runs.read_runs('runs/fig4'), unit='updates')

Lines are augmentation multiplicities, or numbers of dropout masks where the runs differ in them
(Figure 12), with error bars of the standard error; a dashed line is the neighbouring placement. A
cross at the lower edge is a point that diverged, a question mark one that has not been run to its
end.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nfnets_augmult.analysis import runs as runs_lib
from nfnets_augmult.analysis.runs import TRAINING_LOSS, Cell, Run

_MARKERS = 'os^Dv*Pp<>'
_COLUMNS = 3
_PANEL_INCHES = (3.6, 3.1)
_MARKS = {'diverged': 'x', 'missing': '$?$'}
_MARK_LABELS = {'diverged': 'diverged', 'missing': 'not run to its end'}


def accuracy_against_length(
  runs: Sequence[Run],
  *,
  metric: str = 'test/raw/top_1',
  unit: str = 'epochs',
  published: Sequence[Mapping[str, Any]] = (),
) -> Figure:
  """Returns test accuracy at the best learning rate for each length (Figures 2a, 3a, 4, 5, 8a).

  Args:
    runs: of one or several sweeps.
    metric: the recorded accuracy.
    unit: `'epochs'` or `'updates'`.
    published: numbers of the paper for these runs, drawn as stars; see `sweeps.Published`.
  """
  figure = _against_length(runs, metric, unit, ylabel='test accuracy (%)', factor=100)
  for axes, (_, group) in zip(figure.axes, runs_lib.by(runs, 'panel').items(), strict=False):
    stars = [
      (_length(matching, unit), number['top_1'])
      for number in published
      if (matching := [run for run in group if matches(number, run)])
    ]
    points = [(x, y) for x, y in stars if x]
    if points:
      axes.plot(*zip(*points, strict=True), 'k*', ms=9, mfc='white', zorder=4, label='paper')
  _draw_legend(figure)
  return figure


def training_loss_against_length(runs: Sequence[Run], *, unit: str = 'epochs') -> Figure:
  """Returns the cross entropy of the raw training images at the learning rate that minimizes it.

  Figures 2b, 6a and 6b. `unit` is `'epochs'` or `'updates'`.
  """
  figure = _against_length(
    runs, TRAINING_LOSS, unit, ylabel='training cross entropy\n(raw images, nats)', smallest=True
  )
  for axes in figure.axes:
    axes.set_yscale('log')
  return figure


def accuracy_against_learning_rate(
  runs: Sequence[Run], *, metric: str = 'test/raw/top_1', temperature: bool = False
) -> Figure:
  """Returns test accuracy for each learning rate, a panel for each length (Figures 2c, 6c, 6d).

  Args:
    runs: of one or several sweeps.
    metric: the recorded accuracy.
    temperature: whether to draw it against the temperature, learning rate times n, instead
      (Figures 7 and 10).
  """
  axis = 'temperature' if temperature else 'learning_rate'
  panels = runs_lib.by(runs, 'panel', 'budget')
  titles = panel_titles([panel for panel, _ in panels])

  def draw(axes: Axes, key: Any, group: Sequence[Run]) -> None:
    _draw_lines(
      axes,
      group,
      lambda line: [
        (x, runs_lib.make_cell(same, metric)) for x, same in runs_lib.by(line, axis).items()
      ],
      factor=100,
    )
    epochs, steps = key[1]
    length = f'{epochs:g} epochs' if epochs else f'{steps:,} updates'
    axes.set_title(f'{titles[key[0]]}\n{length}', fontsize=9)
    axes.set_xlabel('temperature (learning rate x n)' if temperature else 'learning rate')
    axes.set_ylabel('test accuracy (%)')

  return _draw_panels(panels, draw)


def panel_titles(panels: Sequence[Any]) -> dict[Any, str]:
  """Returns a title for each panel: its batches, and what else tells it from the others."""
  unique = list(dict.fromkeys(panels))
  titles = {}
  for panel in unique:
    config = dict(panel)
    size, images = config['batch_size'], config['unique_images_per_batch']
    scheme = f'batch size {size}' if size != '0' else f'{images} unique images per batch'
    others = [dict(other) for other in unique]
    differing = [
      f'{key.split(".")[-1]}={value}'
      for key, value in panel
      if key not in ('batch_size', 'unique_images_per_batch', 'dataset.name', 'model.name')
      and any(other.get(key) != value for other in others)
    ]
    first = f'{config["model.name"]}, {config["dataset.name"]}'
    titles[panel] = '\n'.join([first, ', '.join([scheme, *differing[:2]])])
  return titles


def matches(number: Mapping[str, Any], run: Run) -> bool:
  """Whether a number of the paper is about runs of this setting and length.

  A number that the paper gives for no length in particular is about none of them.
  """
  has_length = {'total_epochs', 'total_steps'} & set(number['keys'])
  return bool(has_length) and all(
    run.config.get(key) == value for key, value in number['keys'].items()
  )


def _against_length(
  runs: Sequence[Run],
  metric: str,
  unit: str,
  *,
  ylabel: str,
  factor: float = 1,
  smallest: bool = False,
) -> Figure:
  if unit not in ('epochs', 'updates'):
    raise ValueError(f'unit={unit!r} must be epochs or updates')
  panels = runs_lib.by(runs, 'panel')
  titles = panel_titles(list(panels))

  def draw(axes: Axes, panel: Any, group: Sequence[Run]) -> None:
    def points(line: Sequence[Run]) -> list[tuple[float | None, Cell]]:
      return [
        (_length(same, unit), runs_lib.best_cell(same, metric, smallest=smallest))
        for same in runs_lib.by(line, 'budget').values()
      ]

    _draw_lines(axes, group, points, factor=factor)
    axes.set_title(titles[panel], fontsize=9)
    axes.set_xlabel('epochs' if unit == 'epochs' else 'parameter updates')
    axes.set_ylabel(ylabel)

  return _draw_panels(panels, draw)


def _length(runs: Sequence[Run], unit: str) -> float | None:
  """Where runs of one length lie on the axis; None if that is not known yet."""
  if unit == 'updates':
    return runs_lib.updates(runs)
  known = [run.result['epoch'] for run in runs if run.result]
  return runs[0].config['total_epochs'] or (known[0] if known else None)


def _draw_panels(
  panels: Mapping[Any, Sequence[Run]], draw: Callable[[Axes, Any, Sequence[Run]], None]
) -> Figure:
  """One panel for each group of runs, up to three a row, with a grid and a log axis."""
  columns = 2 if len(panels) == 4 else min(_COLUMNS, max(1, len(panels)))
  rows = max(1, -(-len(panels) // columns))
  width, height = _PANEL_INCHES
  size = max(columns * width, 4.4), rows * height + 0.5  # with room for the legend
  figure = Figure(figsize=size, layout='constrained')
  places = figure.subplots(rows, columns, squeeze=False).ravel()
  for axes in places[len(panels) :]:
    axes.remove()
  for axes, (key, group) in zip(places, panels.items(), strict=False):
    axes.set_xscale('log', base=2)
    draw(axes, key, group)
    _label_the_x_axis(axes)
    axes.grid(alpha=0.3)
  _draw_legend(figure)
  return figure


def _draw_legend(figure: Figure) -> None:
  """One legend for all panels, below them, where it covers nothing; replaces an earlier one."""
  for legend in list(figure.legends):
    legend.remove()
  found = {}
  for axes in figure.axes:
    handles, labels = axes.get_legend_handles_labels()
    found |= dict(zip(labels, handles, strict=True))
  found = dict(sorted(found.items(), key=lambda item: item[0] in _MARK_LABELS.values()))
  if found:
    # At 8 points a column is about so many inches wide.
    column_inches = 0.55 + 0.062 * max(map(len, found))
    figure.legend(
      found.values(),
      found.keys(),
      loc='outside lower center',
      ncols=max(1, min(6, int(figure.get_figwidth() / column_inches))),
      fontsize=8,
    )


def _draw_lines(
  axes: Axes,
  runs: Sequence[Run],
  points: Callable[[Sequence[Run]], list[tuple[float | None, Cell]]],
  *,
  factor: float,
) -> None:
  """One line for each n, number of dropout masks and placement, and marks where there is none."""
  lines = runs_lib.by(runs, 'augmult', 'dropout_masks', 'placement')
  colors = sorted({key[:2] for key in lines})
  marks = set()
  for row, ((augmult, masks, placement), line) in enumerate(lines.items()):
    order = colors.index((augmult, masks))
    color = colormaps['viridis'](0.85 * order / max(1, len(colors) - 1))
    is_within = placement == 'within'
    cells = [(x, cell) for x, cell in points(line) if x is not None]
    measured = [(x, cell) for x, cell in cells if cell.status == 'measured']
    axes.errorbar(
      [x for x, _ in measured],
      [factor * cell.mean for _, cell in measured],
      yerr=[factor * (cell.standard_error or 0) for _, cell in measured],
      color=color,
      marker=_MARKERS[order % len(_MARKERS)],
      ms=5,
      mfc=color if is_within else 'white',
      ls='-' if is_within else '--',
      lw=1.4,
      capsize=2,
      label=_line_label(augmult, masks, placement, all_runs=runs),
    )
    for x, cell in cells:
      if cell.status != 'measured':
        marks.add(cell.status)
        # Above one another, so that the marks of several lines do not cover each other.
        axes.plot(
          [x],
          [0.03 + 0.05 * row],
          color=color,
          marker=_MARKS[cell.status],
          ms=6,
          ls='',
          transform=axes.get_xaxis_transform(),
          clip_on=False,
        )
  for status in sorted(marks):
    label = _MARK_LABELS[status]
    axes.add_line(Line2D([], [], color='0.3', marker=_MARKS[status], ls='', label=label))


def _line_label(augmult: int, masks: int, placement: str, *, all_runs: Sequence[Run]) -> str:
  """What n counts, which is copies unless the runs differ in the number of dropout masks."""
  parts = [f'n = {augmult}']
  if len({run.dropout_masks for run in all_runs}) > 1:
    is_figure_12 = len({run.augmult for run in all_runs}) == 1
    masks_text = f'{masks} dropout mask' + 's' * (masks > 1)
    parts = [f'n = {masks_text}'] if is_figure_12 else [*parts, masks_text]
  return ', '.join(parts + [placement] * (placement != 'within'))


def _label_the_x_axis(axes: Axes) -> None:
  """Labels the values that occur, every other one where there are many."""
  values = sorted({float(x) for line in axes.lines for x in line.get_xdata()})
  apart = [x for x, before in zip(values, [0, *values], strict=False) if x > 1.2 * before]
  ticks = apart[:: -(-len(apart) // 6)] if apart else []
  axes.set_xticks(ticks, [f'{x:,.0f}' if x >= 1000 else f'{x:.4g}' for x in ticks], fontsize=8)
  axes.set_xticks([], minor=True)
