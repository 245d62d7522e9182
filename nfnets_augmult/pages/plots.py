"""Interactive plots: what those of all pages have in common, and their form in a page.

They are Bokeh's, which is imported when the first one is drawn.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
  from bokeh.plotting import figure as Figure

# Of a longer curve, the smallest and the largest value of so many stretches are drawn.
STRETCHES = 500
HELP = (
  'What is under the pointer, or near a tap, shows its values. Drag to zoom (on a touch screen, '
  'choose the tool first), or turn the wheel with Ctrl; the bent arrow resets. A click in the '
  'legend hides a curve.'
)
_FONT_SIZE = '14px'  # of axes and legends; Bokeh's own is too small for a phone


def new_figure(x_label: str, y_label: str, *, height: int = 340, **options: Any) -> 'Figure':
  """Returns an empty figure as wide as the page, with box zoom, wheel zoom, pan and reset.

  The wheel zooms while Ctrl is held, so that it scrolls the page otherwise.

  Args:
    x_label: of the horizontal axis.
    y_label: of the vertical axis.
    height: in pixels.
    **options: of `bokeh.plotting.figure`.
  """
  from bokeh.models import WheelZoomTool
  from bokeh.plotting import figure

  options = {'tools': 'pan,box_zoom,reset', 'active_drag': 'box_zoom', **options}
  plot = figure(
    x_axis_label=x_label,
    y_axis_label=y_label,
    height=height,
    sizing_mode='stretch_width',
    toolbar_location='above',
    **options,
  )
  plot.toolbar.logo = None
  if options.get('y_axis_type') == 'log':
    _label_log_axis(plot.yaxis[0])
  plot.add_tools(WheelZoomTool(modifiers='ctrl'))
  return plot


def _label_log_axis(axis: Any) -> None:
  """Labels several values of each decade; Bokeh labels few or none where the axis is short."""
  from bokeh.models import FixedTicker, NoOverlap, PrintfTickFormatter

  ticks = [float(f'{m}e{decade}') for decade in range(-12, 13) for m in (1, 2, 3, 5, 7)]
  axis.ticker = FixedTicker(ticks=ticks)
  axis.formatter = PrintfTickFormatter(format='%g')
  axis.major_label_policy = NoOverlap()


def add_curve(
  plot: 'Figure',
  columns: Mapping[str, Any],
  *,
  label: str,
  color: str,
  is_dashed: bool = False,
  has_line: bool = True,
  marker: str = '',
  size: int = 6,
) -> list[Any]:
  """Draws columns `x` and `y` as a line that breaks where `y` is NaN, and as markers.

  Args:
    plot: from `new_figure`.
    columns: arrays of equal length, among them what `add_hover` shows.
    label: in the legend, a click on which hides the curve, and in what the hover tool shows.
    color: of both.
    is_dashed: of the line.
    has_line: whether there is one.
    marker: Bokeh's name; '' for none.
    size: of the markers, pixels.

  Returns:
    What was drawn, for `add_hover`.
  """
  from bokeh.models import ColumnDataSource

  source = ColumnDataSource(dict(columns))
  shared = {'x': 'x', 'y': 'y', 'source': source, 'legend_label': label, 'name': label}
  drawn = []
  if has_line:
    dash = 'dashed' if is_dashed else 'solid'
    line = plot.line(**shared, line_color=color, line_width=1.6, line_dash=dash)
    drawn.append(line)
  if marker:
    fill = 'white' if is_dashed else color
    drawn.append(
      plot.scatter(**shared, marker=marker, size=size, color=color, fill_color=fill, line_width=1.6)
    )
  return drawn


def add_hover(plot: 'Figure', drawn: Sequence[Any], tooltips: Sequence[tuple[str, str]]) -> None:
  """Shows the label of what is under the pointer, and `tooltips` as (name, format) below it."""
  from bokeh.models import HoverTool

  plot.add_tools(
    HoverTool(
      renderers=list(drawn),
      tooltips=[('', '$name'), *tooltips],
      line_policy='nearest',
      limit=1,
      visible=False,
    )
  )


def place_legend(plot: 'Figure') -> None:
  """Puts the legend below the plot, where it hides nothing on a phone; a click hides a curve."""
  if plot.legend:
    legend = plot.legend[0]
    legend.click_policy = 'hide'
    legend.location = 'left'
    legend.border_line_color = None
    legend.margin, legend.padding, legend.spacing = 4, 2, 0
    plot.height += 22 * len(legend.items)
    plot.add_layout(legend, 'below')


def thinned(values: np.ndarray) -> np.ndarray:
  """Returns the places of the values to draw of a curve: all of them, unless they are many.

  Of a long one these are the first and the last, and of each of `STRETCHES` equal stretches the
  smallest, the largest and the first that is NaN, so that peaks and gaps stay.

  Args:
    values: float `[N]`.
  """
  if len(values) <= 2 * STRETCHES:
    return np.arange(len(values))
  kept = {0, len(values) - 1}
  for stretch in np.array_split(np.arange(len(values)), STRETCHES):
    part = values[stretch]
    finite = np.isfinite(part)
    if finite.any():
      kept.add(stretch[np.where(finite, part, np.inf).argmin()])
      kept.add(stretch[np.where(finite, part, -np.inf).argmax()])
    if not finite.all():
      kept.add(stretch[finite.argmin()])
  return np.array(sorted(kept))


def to_json(plot: 'Figure') -> str:
  """Returns the plot as JSON for a `<script>` of a page; the same plot gives the same text."""
  from bokeh.embed import json_item
  from bokeh.themes import Theme

  text = {'major_label_text_font_size': _FONT_SIZE, 'axis_label_text_font_size': _FONT_SIZE}
  look = {'Axis': text, 'Legend': {'label_text_font_size': _FONT_SIZE}}
  item = json_item(plot, theme=Theme(json={'attrs': look}))
  # Bokeh counts its objects from the start of the process.
  numbers: dict[str, str] = {}
  item = _renumbered(item, numbers)
  item['root_id'] = numbers[item['root_id']]
  # `</script>` and `<!--` in names would end the element.
  text = json.dumps(item, separators=(',', ':'), ensure_ascii=False)
  return text.replace('<', '\\u003c')


def _renumbered(value: Any, numbers: dict[str, str]) -> Any:
  """Returns a JSON value with the `id` of each object replaced by its number in the text."""
  if isinstance(value, list):
    return [_renumbered(part, numbers) for part in value]
  if not isinstance(value, dict):
    return value
  return {
    key: numbers.setdefault(part, f'm{len(numbers)}')
    if key == 'id' and isinstance(part, str)
    else _renumbered(part, numbers)
    for key, part in value.items()
  }
