"""The paper's figures, drawn from runs; every function takes a list of runs and returns a figure.

    from nfnets_augmult.analysis import figures, runs
    figures.accuracy_against_length(runs.read_runs('runs/fig4'), unit='updates')

Lines are augmentation multiplicities, or numbers of dropout masks where the runs differ in them
(Figure 12), with error bars of the standard error; a dashed line is the neighbouring placement. A
cross below the data is a point that diverged (a plus sign for the neighbouring placement), a
question mark one that has not been run to its end. Stars are the paper's numbers, in the colour of
their n.

A `Figure` is shown by notebooks where `%matplotlib inline` has been run, and is written by
`figure.savefig(path)`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nfnets_augmult.analysis import runs as runs_lib
from nfnets_augmult.analysis.runs import TRAINING_LOSS, Cell, Run

_MARKERS = 'os^Dv*Pp<>'
_COLUMNS = 3
_PANEL_INCHES = (3.6, 3.1)
# For a point that has no value: by status, and whether the placement is `within`.
_MARKS = {
  ('diverged', True): ('x', 'diverged'),
  ('diverged', False): ('+', 'diverged, neighbouring'),
  ('missing', True): ('$?$', 'not run to its end'),
  ('missing', False): ('$?$', 'not run to its end'),
}
_PUBLISHED_LABEL = 'paper (colour of its n)'
_LAST_LABELS = (*(label for _, label in _MARKS.values()), _PUBLISHED_LABEL)
# Keys that say best what tells two settings apart; others follow.
_TELLING = ('sam.rho', 'augmentation.pad', 'model.dropout_rate', 'augmentation.randaugment.layers')


class Style(NamedTuple):
  """How the line of one n, number of dropout masks and placement looks, in all panels."""

  color: Any
  marker: str
  is_within: bool
  label: str


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
  ylabel = 'test accuracy (%)'
  return _against_length(runs, metric, unit, ylabel=ylabel, factor=100, published=published)


def accuracy_by_model(
  runs: Sequence[Run],
  *,
  metric: str = 'test/ema/top_1',
  published: Sequence[Mapping[str, Any]] = (),
) -> Figure:
  """Returns the best test accuracy of each network, with and without SAM (Figure 8b).

  Circles are runs with SAM, triangles runs without; colours are n. Black are the published numbers
  of n = 1, and hollow ones those of other n, for whatever length is best.

  Args:
    runs: of several networks.
    metric: the recorded accuracy.
    published: numbers whose keys name the network, n and `sam.rho`; see `sweeps.Published`.
  """
  numbers = [number for number in published if 'model.name' in number['keys']]
  names = {run.config['model.name'] for run in runs}
  names |= {number['keys']['model.name'] for number in numbers}
  places = {name: place for place, name in enumerate(sorted(names))}
  styles = _styles(runs)
  colors = {run.augmult: styles[_line(run)].color for run in runs}
  figure = Figure(figsize=(6.4, 4.2), layout='constrained')
  axes = figure.subplots()

  def draw(name: str, top_1: float, rho: float, **options: Any) -> None:
    axes.plot([places[name]], [top_1], ls='', ms=8, marker='o' if rho else '^', **options)

  best: dict[tuple[str, float, int], float] = {}
  for number in numbers:
    keys = number['keys']
    key = keys['model.name'], keys.get('sam.rho', 0.0), keys.get('augmult', 1)
    best[key] = max(best.get(key, 0.0), number['top_1'])
  for (name, rho, augmult), top_1 in sorted(best.items(), key=lambda item: item[0][::-1]):
    how = ', SAM' * bool(rho)
    if augmult == 1:
      draw(name, top_1, rho, color='black', label=f'published, n = 1{how}')
    else:
      color = colors.get(augmult, '0.5')
      label = f'published, n = {augmult}{how}'
      draw(name, top_1, rho, color=color, mfc='white', label=label)
  runs_by_setting = runs_lib.group(runs, lambda r: (r.config['sam.rho'], r.augmult))
  for (rho, augmult), same in runs_by_setting.items():
    for name, of_one in runs_lib.group(same, lambda r: r.config['model.name']).items():
      cells = [
        runs_lib.best_cell(group, metric) for group in runs_lib.by(of_one, 'budget').values()
      ]
      measured = [cell for cell in cells if cell.status == 'measured']
      if measured:
        top_1 = 100 * max(cell.mean for cell in measured)
        label = f'n = {augmult}' + ', SAM' * bool(rho)
        draw(name, top_1, rho, color=colors[augmult], label=label)
  axes.set_xticks(list(places.values()), [name.replace('_', '\n', 1) for name in places])
  axes.set_xlim(-0.5, len(places) - 0.5)
  axes.set_ylabel('test accuracy (%)')
  axes.grid(alpha=0.3)
  _draw_legend(figure)
  return figure


def training_loss_against_length(runs: Sequence[Run], *, unit: str = 'epochs') -> Figure:
  """Returns the cross entropy of the raw training images at the learning rate that minimizes it.

  Figures 2b, 6a and 6b. `unit` is `'epochs'` or `'updates'`.
  """
  ylabel = 'training cross entropy\n(raw images, nats)'
  return _against_length(runs, TRAINING_LOSS, unit, ylabel=ylabel, smallest=True)


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
  styles = _styles(runs)

  def draw(axes: Axes, key: Any, group: Sequence[Run]) -> None:
    def points(line: Sequence[Run]) -> list[tuple[float | None, Cell]]:
      return [(x, runs_lib.make_cell(same, metric)) for x, same in runs_lib.by(line, axis).items()]

    _draw_lines(axes, group, points, styles, factor=100)
    epochs, steps = key[1]
    length = f'{epochs:g} epochs' if epochs else f'{steps:,} updates'
    axes.set_title(f'{titles[key[0]]}\n{length}', fontsize=9)
    axes.set_xlabel('temperature (learning rate x n)' if temperature else 'learning rate')
    axes.set_ylabel('test accuracy (%)')

  return _draw_panels(panels, draw)


def panel_titles(panels: Sequence[Any]) -> dict[Any, str]:
  """Returns a different title for each panel: network, data, batches, and what else it takes."""
  unique = [dict(panel) for panel in dict.fromkeys(panels)]
  keys = ['model.name', 'dataset.name', 'batch_size', 'unique_images_per_batch']
  candidates = [*_TELLING, *sorted({key for panel in unique for key in panel})]
  for key in candidates:
    # What follows from the keys so far, as the resolution does from the network, is left out.
    by_title: dict[Any, set[str | None]] = {}
    for panel in unique:
      by_title.setdefault(tuple(panel.get(k) for k in keys), set()).add(panel.get(key))
    if any(len(values) > 1 for values in by_title.values()):
      keys.append(key)
  titles = {}
  for panel in dict.fromkeys(panels):
    config = dict(panel)
    size, images = config['batch_size'], config['unique_images_per_batch']
    lines = [
      f'{config["model.name"]}, {config["dataset.name"]}',
      f'batch size {size}' if size != '0' else f'{images} unique images per batch',
      *(f'{key}={config.get(key)}' for key in keys[4:]),
    ]
    titles[panel] = '\n'.join(lines)
  return titles


def matches(number: Mapping[str, Any], run: Run) -> bool:
  """Whether a number of the paper is about runs of this setting and length.

  A number that the paper gives for no length in particular is about none of them; one that says
  of which sweep it is, by the `sweep` folder, is about no other's runs.
  """
  has_length = {'total_epochs', 'total_steps'} & set(number['keys'])
  return bool(has_length) and is_about(number, run)


def is_about(number: Mapping[str, Any], run: Run) -> bool:
  """Whether a number of the paper is about runs of this setting."""
  is_here = 'sweep' not in number or runs_lib.inside(run, number['sweep'])
  return is_here and all(run.config.get(key) == value for key, value in number['keys'].items())


def _against_length(
  runs: Sequence[Run],
  metric: str,
  unit: str,
  *,
  ylabel: str,
  factor: float = 1,
  smallest: bool = False,
  published: Sequence[Mapping[str, Any]] = (),
) -> Figure:
  """Of losses, which are to be small, the axis is logarithmic."""
  if unit not in ('epochs', 'updates'):
    raise ValueError(f'unit={unit!r} must be epochs or updates')
  panels = runs_lib.by(runs, 'panel')
  titles = panel_titles(list(panels))
  styles = _styles(runs)

  def draw(axes: Axes, panel: Any, group: Sequence[Run]) -> None:
    def points(line: Sequence[Run]) -> list[tuple[float | None, Cell]]:
      return [
        (getattr(same[0], unit), runs_lib.best_cell(same, metric, smallest=smallest))
        for same in runs_lib.group(line, lambda run: getattr(run, unit) or run.budget).values()
      ]

    for number in published:
      about = next((run for run in group if matches(number, run)), None)
      x = about and getattr(about, unit)
      if x:
        _draw_published(axes, x, number['top_1'], color=styles[_line(about)].color)
    _draw_lines(axes, group, points, styles, factor=factor, is_logarithmic=smallest)
    axes.set_title(titles[panel], fontsize=9)
    axes.set_xlabel('epochs' if unit == 'epochs' else 'parameter updates')
    axes.set_ylabel(ylabel)

  return _draw_panels(panels, draw)


def _line(run: Run) -> tuple[int, int, str]:
  return run.augmult, run.dropout_masks, run.placement


def _styles(runs: Sequence[Run]) -> dict[tuple[int, int, str], Style]:
  """One style for each line, the same in all panels of a figure of these runs."""
  lines = sorted({_line(run) for run in runs}, key=lambda line: (line[:2], line[2] != 'within'))
  colors = sorted({line[:2] for line in lines})
  styles = {}
  for augmult, masks, placement in lines:
    order = colors.index((augmult, masks))
    styles[augmult, masks, placement] = Style(
      color=colormaps['viridis'](0.85 * order / max(1, len(colors) - 1)),
      marker=_MARKERS[order % len(_MARKERS)],
      is_within=placement == 'within',
      label=_line_label(augmult, masks, placement, all_lines=lines),
    )
  return styles


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
  """One legend for all panels, below them, where it covers nothing."""
  found = {}
  for axes in figure.axes:
    handles, labels = axes.get_legend_handles_labels()
    found |= dict(zip(labels, handles, strict=True))
  found = dict(sorted(found.items(), key=lambda item: item[0] in _LAST_LABELS))
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
  styles: Mapping[Any, Style],
  *,
  factor: float,
  is_logarithmic: bool = False,
) -> None:
  """One line for each n, number of dropout masks and placement, and marks where there is none."""
  marks, is_any_positive = [], False
  lines = runs_lib.group(runs, _line)
  for key, style in styles.items():
    cells = [(x, cell) for x, cell in points(lines.get(key, ())) if x is not None]
    cells.sort(key=lambda point: point[0])
    measured = [i for i, (_, cell) in enumerate(cells) if cell.status == 'measured']
    # A point that diverged in between breaks the line.
    drawn = cells[measured[0] : measured[-1] + 1] if measured else []
    if key in lines:
      axes.errorbar(
        [x for x, _ in drawn],
        [factor * cell.mean if cell.values else math.nan for _, cell in drawn],
        yerr=[factor * (cell.standard_error or 0) if cell.values else 0 for _, cell in drawn],
        color=style.color,
        marker=style.marker,
        ms=5,
        mfc=style.color if style.is_within else 'white',
        ls='-' if style.is_within else '--',
        lw=1.4,
        capsize=2,
        label=style.label,
      )
    of_line = [(x, cell.status) for x, cell in cells if cell.status != 'measured']
    if of_line:
      marks.append((style, of_line))
    is_any_positive |= any(cells[i][1].mean > 0 for i in measured)
  if is_logarithmic and is_any_positive:
    axes.set_yscale('log')
    low, high = axes.get_ylim()
    if high < 1.1 * low:  # an axis with a single value has next to no extent
      axes.set_ylim(low / 2, high * 2)
  _draw_marks(axes, marks)


def _draw_marks(axes: Axes, marks: Sequence[tuple[Style, Sequence[tuple[float, str]]]]) -> None:
  """A row for each line, in a band that is made for them below the data."""
  if not marks:
    return
  row_height = min(0.055, 0.4 / len(marks))
  band = row_height * (len(marks) + 0.5)
  low, high = axes.get_ylim()
  if axes.get_yscale() == 'log':
    axes.set_ylim(math.exp(math.log(low) - band / (1 - band) * math.log(high / low)), high)
  else:
    axes.set_ylim(low - band / (1 - band) * (high - low), high)
  for row, (style, of_line) in enumerate(marks):
    for x, status in of_line:
      marker, label = _MARKS[status, style.is_within]
      axes.plot(
        [x],
        [row_height * (row + 0.7)],
        color=style.color,
        marker=marker,
        ms=6,
        ls='',
        transform=axes.get_xaxis_transform(),
        clip_on=False,
      )
      if label not in axes.get_legend_handles_labels()[1]:
        axes.add_line(Line2D([], [], color='0.3', marker=marker, ls='', label=label))


def _draw_published(axes: Axes, x: float, top_1: float, *, color: Any) -> None:
  axes.plot([x], [top_1], '*', ms=10, mec=color, mfc='white', mew=1.3, ls='', zorder=4)
  if _PUBLISHED_LABEL not in axes.get_legend_handles_labels()[1]:
    proxy = Line2D([], [], color='0.3', marker='*', mfc='white', ls='', label=_PUBLISHED_LABEL)
    axes.add_line(proxy)


def _line_label(
  augmult: int, masks: int, placement: str, *, all_lines: Sequence[tuple[int, int, str]]
) -> str:
  """What n counts, which is copies unless the runs differ in the number of dropout masks."""
  parts = [f'n = {augmult}']
  if len({line[1] for line in all_lines}) > 1:
    is_figure_12 = len({line[0] for line in all_lines}) == 1
    masks_text = f'{masks} dropout mask' + 's' * (masks > 1)
    parts = [f'n = {masks_text}'] if is_figure_12 else [*parts, masks_text]
  return ', '.join(parts + [placement] * (placement != 'within'))


def _label_the_x_axis(axes: Axes) -> None:
  """Labels the values that occur, every other one where there are many."""
  values = sorted({float(x) for line in axes.lines for x in line.get_xdata()})
  if len(values) == 1:  # an axis without an extent cannot be drawn
    axes.set_xlim(values[0] / 2, values[0] * 2)
  apart = [x for x, before in zip(values, [0, *values], strict=False) if x > 1.2 * before]
  ticks = apart[:: -(-len(apart) // 6)] if apart else []
  axes.set_xticks(ticks, [_tick_text(x) for x in ticks], fontsize=8)
  axes.set_xticks([], minor=True)


def _tick_text(x: float) -> str:
  for unit, suffix in ((1e6, 'M'), (1e3, 'k')):
    if x >= 10 * unit or (unit == 1e6 and x >= unit):
      return f'{x / unit:.3g}{suffix}'
  return f'{x:,.0f}' if x >= 1000 else f'{x:.4g}'
