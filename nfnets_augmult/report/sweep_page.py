"""The page of a report: `sweep.html`, with its tables, its figures and all runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colors

from nfnets_augmult.pages import document, plots
from nfnets_augmult.pages.document import shown
from nfnets_augmult.report.charts import Chart, Line, Panel
from nfnets_augmult.report.statistics import Cell
from nfnets_augmult.report.tables import Row, Section

NAME = 'sweep.html'
# What keeps the page short, whatever is recorded.
_MOST_RUNS = 1000
_MOST_ROWS = 300  # of other tables
_MOST_PLOTS = 40
# Bokeh's names of Matplotlib's markers.
_MARKERS = {
  'o': 'circle',
  's': 'square',
  '^': 'triangle',
  'D': 'diamond',
  'v': 'inverted_triangle',
  '*': 'star',
  'P': 'plus',
  'p': 'hex',
  '<': 'triangle_pin',
  '>': 'square_pin',
}
# Names that `runs.csv` has for programs.
_RUN_COLUMNS = {
  'test/raw/top_1': 'test accuracy, last (%)',
  'test/ema/top_1': 'test accuracy, averaged (%)',
}


def draw(
  title: str,
  sections: Sequence[Section],
  charts: Mapping[str, Chart | None],
  pictures: Mapping[str, bytes],
  runs: Sequence[Row],
) -> bytes:
  """Returns the page.

  Args:
    title: of the report.
    sections: its parts.
    charts: what the figures show, by name; None where only the picture does.
    pictures: PNG files of the figures, which are shown instead of a chart of too many panels, or of
      no values yet.
    runs: of `tables.run_rows`, at least one.
  """
  shown_charts, num_plots = [], 0
  for name, chart in charts.items():
    panels = chart.panels if chart and _has_values(chart) else ()
    if num_plots + len(panels) > _MOST_PLOTS:
      panels = ()
    num_plots += len(panels)
    drawn = [
      (shown(p.title.replace('\n', ', ')), plots.to_json(_draw_panel(chart, p))) for p in panels
    ]
    title_of_chart = _title(chart) if chart else 'The best of each network'
    shown_charts.append({'name': name, 'title': title_of_chart, 'plots': drawn})
  run_rows, shared = _without_shared([_run_row(row) for row in runs])
  return document.render(
    'sweep.html',
    {chart['name']: pictures[chart['name']] for chart in shown_charts if not chart['plots']},
    title=shown(title),
    sections=[
      section._replace(
        heading=shown(section.heading),
        texts=[shown(text, 3000) for text in [*section.texts, *notes]],
        rows=rows[:_MOST_ROWS],
        lines=[shown(line) for line in section.lines],
      )
      for section in sections
      for rows, notes in [_without_shared([_shown_row(row) for row in section.rows])]
    ],
    charts=shown_charts,
    charts_note='Bars are standard errors. Below the data, a cross is a point that diverged, a '
    f'triangle one that has not been run to its end. {plots.HELP}',
    runs=run_rows[:_MOST_RUNS],
    runs_notes=[
      *shared,
      *[f'The first {_MOST_RUNS:,} of {len(runs):,} runs; runs.csv has all.']
      * (len(runs) > _MOST_RUNS),
    ],
  )


def _has_values(chart: Chart) -> bool:
  lines = (line for panel in chart.panels for line in panel.lines)
  return any(cell.values for line in lines for _, cell in line.points)


def _title(chart: Chart) -> str:
  value = chart.y_label.split('\n')[0].removesuffix(' (%)')
  return f'{value} against {chart.x_label}'.capitalize()


def _without_shared(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
  """Returns the rows without the columns in which all of them agree, and a text on these."""
  if len(rows) < 2:
    return list(rows), []
  shared = {
    column: value for column, value in rows[0].items() if all(row[column] == value for row in rows)
  }
  kept = [{c: value for c, value in row.items() if c not in shared} for row in rows]
  text = ', '.join(f'{column} {value}' for column, value in shared.items() if value != '')
  return kept, [f'All have: {text}.'] * bool(text)


def _shown_row(row: Row) -> Row:
  return {column: shown(value) for column, value in row.items()}


def _run_row(row: Row) -> Row:
  """A row of `tables.run_rows`, readable: accuracies come first, in percent."""
  values = {}
  for column, value in row.items():
    if column in _RUN_COLUMNS:
      values[_RUN_COLUMNS[column]] = '' if value == '' else f'{100 * value:.2f}'
    elif isinstance(value, float):
      values[column] = f'{value:.5g}'
    else:
      values[column] = shown(value, 120)
  first = ('run', 'status', *_RUN_COLUMNS.values())
  return {column: values[column] for column in (*first, *(c for c in values if c not in first))}


def _draw_panel(chart: Chart, panel: Panel) -> Any:
  """Returns the interactive plot of a panel."""
  from bokeh.models import FixedTicker, NoOverlap, PrintfTickFormatter

  cells = [cell for line in panel.lines for _, cell in line.points if cell.values]
  is_logarithmic = chart.is_logarithmic and any(cell.mean > 0 for cell in cells)
  plot = plots.new_figure(
    chart.x_label,
    chart.y_label,
    max_width=760,
    x_axis_type='log',
    **({'y_axis_type': 'log'} if is_logarithmic else {}),
  )
  bottom, step = _place_of_marks(cells, chart.factor, is_logarithmic=is_logarithmic)
  drawn = []
  for number, line in enumerate(panel.lines):
    y = bottom / step**number if is_logarithmic else bottom - step * number
    drawn += _draw_line(plot, line, chart.factor, y)
  plots.add_hover(
    plot,
    drawn,
    [
      (chart.x_label, '@x'),
      (chart.y_label.replace('\n', ' '), '@text'),
      ('best learning rate' if 'rate' not in chart.x_label else 'learning rate', '@rate'),
      ('runs that count', '@count'),
    ],
  )
  if panel.published:
    x, y, shades, _ = zip(*panel.published, strict=True)
    plot.scatter(
      x,
      y,
      marker='star',
      size=14,
      line_color=[colors.to_hex(shade) for shade in shades],
      fill_color='white',
      legend_label='paper (colour of its n)',
    )
  values = sorted({x for line in panel.lines for x, _ in line.points})
  plot.xaxis.ticker = FixedTicker(ticks=values)
  plot.xaxis.formatter = PrintfTickFormatter(format='%g')
  plot.xaxis.major_label_policy = NoOverlap()
  plots.place_legend(plot)
  return plot


def _place_of_marks(
  cells: Sequence[Cell], factor: float, *, is_logarithmic: bool
) -> tuple[float, float]:
  """Returns where the first row of marks goes, and the difference, or ratio, to the next one."""
  ends = [cell.mean + sign * (cell.standard_error or 0) for cell in cells for sign in (-1, 1)]
  values = [factor * end for end in ends if end > 0 or not is_logarithmic]
  low, high = (min(values), max(values)) if values else (0.0, 1.0)
  if is_logarithmic:
    step = max(high / low, 2.0) ** 0.06
    return low / step**1.5, step
  step = 0.06 * ((high - low) or 1.0)
  return low - 1.5 * step, step


def _draw_line(plot: Any, line: Line, factor: float, mark_y: float) -> list[Any]:
  """Draws a line with its error bars, and the marks of points without a value at `mark_y`."""
  style = line.style
  color, label = colors.to_hex(style.color), shown(style.label, 100)
  places = [i for i, (_, cell) in enumerate(line.points) if cell.status == 'measured']
  # A point that diverged in between breaks the line.
  points = line.points[places[0] : places[-1] + 1] if places else []
  means = np.array([factor * cell.mean if cell.values else np.nan for _, cell in points])
  errors = [cell.standard_error if cell.values else None for _, cell in points]
  errors = np.array([np.nan if error is None else factor * error for error in errors])
  x = [float(x) for x, _ in points]
  columns = {
    'x': x,
    'y': means,
    'text': [
      f'{mean:.4g}, of one run' if np.isnan(error) else f'{mean:.4g} ± {error:.2g}'
      for mean, error in zip(means, errors, strict=True)
    ],
    'rate': [f'{cell.runs[0].learning_rate:g}' for _, cell in points],
    'count': [f'{len(cell.values)} of {len(cell.runs)}' for _, cell in points],
  }
  drawn = plots.add_curve(
    plot,
    columns,
    label=label,
    color=color,
    is_dashed=not style.is_within,
    marker=_MARKERS[style.marker],
    size=8,
  )
  plot.segment(x, means - errors, x, means + errors, line_color=color, legend_label=label)
  for status, text, marker in (
    ('diverged', 'diverged', 'x'),
    ('missing', 'not run to its end', 'inverted_triangle'),
  ):
    found = [(x, cell) for x, cell in line.points if cell.status == status]
    if found:
      columns = {
        'x': [float(x) for x, _ in found],
        'y': [mark_y] * len(found),
        'text': [text] * len(found),
        'rate': [f'{cell.runs[0].learning_rate:g}' for _, cell in found],
        'count': [f'{len(cell.values)} of {len(cell.runs)}' for _, cell in found],
      }
      drawn += plots.add_curve(
        plot, columns, label=label, color=color, has_line=False, marker=marker, size=8
      )
  return drawn
