"""Lines, marks and legends of the figures, which look the same in all panels."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nfnets_augmult.report.charts import Chart, Line, PublishedPoint, Style

_COLUMNS = 3
_PANEL_INCHES = (3.6, 3.1)
# Marker and label of a point without a value, by its status and whether its placement is `within`.
_MARKS = {
  ('diverged', True): ('x', 'diverged'),
  ('diverged', False): ('+', 'diverged, neighbouring'),
  ('missing', True): ('$?$', 'not run to its end'),
  ('missing', False): ('$?$', 'not run to its end'),
}
_PUBLISHED_LABEL = 'paper (colour of its n)'
_LAST_LABELS = (*(label for _, label in _MARKS.values()), _PUBLISHED_LABEL)


def draw_chart(chart: Chart) -> Figure:
  """Returns a figure of the panels, up to three a row, with a grid and one legend."""
  panels = chart.panels
  columns = 2 if len(panels) == 4 else min(_COLUMNS, max(1, len(panels)))
  rows = max(1, -(-len(panels) // columns))
  width, height = _PANEL_INCHES
  size = max(columns * width, 4.4), rows * height + 0.5  # with room for the legend
  figure = Figure(figsize=size, layout='constrained')
  places = figure.subplots(rows, columns, squeeze=False).ravel()
  for axes in places[len(panels) :]:
    axes.remove()
  for axes, panel in zip(places, panels, strict=False):
    axes.set_xscale('log', base=2)
    for number in panel.published:
      _draw_published(axes, number)
    _draw_lines(axes, panel.lines, factor=chart.factor, is_logarithmic=chart.is_logarithmic)
    axes.set_title(panel.title, fontsize=9)
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    _label_the_x_axis(axes)
    axes.grid(alpha=0.3)
  draw_legend(figure)
  return figure


def draw_legend(figure: Figure) -> None:
  """Draws one legend for all panels, below them."""
  found = {}
  for axes in figure.axes:
    handles, labels = axes.get_legend_handles_labels()
    found |= dict(zip(labels, handles, strict=True))
  found = dict(sorted(found.items(), key=lambda item: item[0] in _LAST_LABELS))
  if found:
    # The width of a column in inches, about, at 8 points.
    column_inches = 0.55 + 0.062 * max(map(len, found))
    figure.legend(
      found.values(),
      found.keys(),
      loc='outside lower center',
      ncols=max(1, min(6, int(figure.get_figwidth() / column_inches))),
      fontsize=8,
    )


def _draw_lines(axes: Axes, lines: Sequence[Line], *, factor: float, is_logarithmic: bool) -> None:
  """Draws the lines of a panel, and marks for points without a value."""
  marks, is_any_positive = [], False
  for style, cells in lines:
    measured = [i for i, (_, cell) in enumerate(cells) if cell.status == 'measured']
    # A point that diverged in between breaks the line.
    drawn = cells[measured[0] : measured[-1] + 1] if measured else []
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
    unmeasured = [(x, cell.status) for x, cell in cells if cell.status != 'measured']
    if unmeasured:
      marks.append((style, unmeasured))
    is_any_positive |= any(cells[i][1].mean > 0 for i in measured)
  if is_logarithmic and is_any_positive:
    axes.set_yscale('log')
    low, high = axes.get_ylim()
    if high < 1.1 * low:  # an axis with a single value has next to no extent
      axes.set_ylim(low / 2, high * 2)
  _draw_marks(axes, marks)


def _draw_marks(axes: Axes, marks: Sequence[tuple[Style, Sequence[tuple[float, str]]]]) -> None:
  """Draws a row of marks for each line, below the data, and extends the axis to make room."""
  if not marks:
    return
  row_height = min(0.055, 0.4 / len(marks))
  band = row_height * (len(marks) + 0.5)
  low, high = axes.get_ylim()
  if axes.get_yscale() == 'log':
    axes.set_ylim(math.exp(math.log(low) - band / (1 - band) * math.log(high / low)), high)
  else:
    axes.set_ylim(low - band / (1 - band) * (high - low), high)
  for row, (style, unmeasured) in enumerate(marks):
    for x, status in unmeasured:
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


def _draw_published(axes: Axes, number: PublishedPoint) -> None:
  """Draws a number of the paper as a star, with its standard error if there is one."""
  x, top_1, color, error = number
  if error:
    axes.errorbar([x], [top_1], yerr=[error], color=color, capsize=2)
  axes.plot([x], [top_1], '*', ms=10, mec=color, mfc='white', mew=1.3, ls='', zorder=4)
  if _PUBLISHED_LABEL not in axes.get_legend_handles_labels()[1]:
    proxy = Line2D([], [], color='0.3', marker='*', mfc='white', ls='', label=_PUBLISHED_LABEL)
    axes.add_line(proxy)


def _label_the_x_axis(axes: Axes) -> None:
  """Labels the values that occur, or some of them where there are many."""
  values = sorted({float(x) for line in axes.lines for x in line.get_xdata()})
  if len(values) == 1:  # an axis without an extent cannot be drawn
    axes.set_xlim(values[0] / 2, values[0] * 2)
  # Labels closer than an eighth of the axis would run into each other.
  least_ratio = max(1.2, (values[-1] / values[0]) ** 0.12) if values else 1.0
  apart = []
  for x in values:
    if not apart or x > least_ratio * apart[-1]:
      apart.append(x)
  ticks = apart[:: -(-len(apart) // 6)] if apart else []
  axes.set_xticks(ticks, [_tick_text(x) for x in ticks], fontsize=8)
  axes.set_xticks([], minor=True)


def _tick_text(x: float) -> str:
  for unit, suffix in ((1e6, 'M'), (1e3, 'k')):
    if x >= 10 * unit or (unit == 1e6 and x >= unit):
      return f'{x / unit:.3g}{suffix}'
  return f'{x:,.0f}' if x >= 1000 else f'{x:.4g}'
