"""The interactive plots on the page of a run."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colors

from nfnets_augmult.pages import plots
from nfnets_augmult.runs import curves

# Of more classes, the confusion matrix shows those that are confused most often.
MOST_CONFUSED = 60
_MARKERS = {'o': 'circle', 's': 'square'}
_TOOLTIPS = [('step', '@step{0,0}'), ('epoch', '@epoch{0.00}'), ('value', '@y{0.0000}')]
_RED = '#d62728'
_MOST_WITH_NUMBERS = 15  # classes; of more, the cells are too small
_NAME_LENGTH = 24  # of classes in the confusion matrix


def draw_curves(
  records: Sequence[Mapping[str, Any]], divergence: Mapping[str, Any] | None = None
) -> tuple[list[Any], bool]:
  """Returns plots of cross entropy, top-1 accuracy and learning rate, as `curves.draw_curves`.

  Args:
    records: of `metrics.jsonl`; a value that is null is a gap in its curve.
    divergence: see `training.records.read_divergence`.

  Returns:
    The plots that have something to show, and whether long curves were thinned out.
  """
  panels = (
    ('cross entropy (nats)', curves.CROSS_ENTROPY, 1, True),
    ('top-1 accuracy (%)', curves.ACCURACY, 100, False),
    ('learning rate', (('learning_rate', 'learning rate', {'color': 'C2'}),), 1, False),
  )
  place = divergence and curves.locate_divergence(records, divergence)
  figures, is_thinned = [], False
  for label, names, factor, is_loss in panels:
    found = [(_columns(records, name, factor), title, style) for name, title, style in names]
    found = [(columns, title, style) for columns, title, style in found if len(columns['y'])]
    if is_loss and place and place.losses:
      x, y = np.transpose(place.losses)
      last = place.step - len(divergence['last_losses']) + 1
      steps = [last + i for i, loss in enumerate(divergence['last_losses']) if loss is not None]
      columns = {'x': x, 'y': y, 'epoch': x, 'step': np.array(steps)}
      found.append((columns, place.label, {'color': _RED, 'marker': 'o', 'ls': ''}))
    if not found:
      continue
    values = np.concatenate([columns['y'] for columns, _, _ in found])
    options = {'y_axis_type': 'log'} if is_loss and (values > 0).any() else {}
    plot = plots.new_figure(curves.EPOCHS, label, **options)
    drawn = []
    for columns, title, style in found:
      kept = plots.thinned(columns['y'])
      is_thinned |= len(kept) < len(columns['y'])
      drawn += plots.add_curve(
        plot,
        {name: values[kept].astype(np.float32) for name, values in columns.items()},
        label=title,
        color=colors.to_hex(style['color']),
        is_dashed=style.get('ls') == '--',
        has_line=style.get('ls') != '',
        # A line through a single point would be invisible.
        marker=_MARKERS.get(style.get('marker'), 'circle' if len(kept) == 1 else ''),
      )
    plots.add_hover(plot, drawn, _TOOLTIPS)
    if place:
      _mark_divergence(plot, place)
    plots.place_legend(plot)
    figures.append(plot)
  return figures, is_thinned


def _columns(
  records: Sequence[Mapping[str, Any]], name: str, factor: float
) -> dict[str, np.ndarray]:
  """The records that have `name`, as float64 columns; null is NaN."""
  found = [record for record in records if name in record]
  epochs = np.array([record['epoch'] for record in found], float)
  values = np.array([record[name] for record in found], float)
  values[~np.isfinite(values)] = np.nan
  steps = np.array([record['step'] for record in found], float)
  return {'x': epochs, 'y': factor * values, 'step': steps, 'epoch': epochs}


def _mark_divergence(plot: Any, place: curves.Divergence) -> None:
  from bokeh.models import Span

  line = Span(location=place.epoch, dimension='height', line_color=_RED, line_dash='dotted')
  plot.add_layout(line)
  # A span has no place in the legend.
  text = f'diverged at step {place.step}'
  plot.line([], [], line_color=_RED, line_dash='dotted', legend_label=text)


class Confusion(NamedTuple):
  """The confusion matrix of some classes.

  Attributes:
    plot: true classes from top to bottom, predicted ones from left to right.
    width: the least at which it can be read, pixels.
    num_shown: how many classes.
  """

  plot: Any
  width: int
  num_shown: int


def draw_confusion(names: Sequence[str], cells: Sequence[Sequence[int]]) -> Confusion:
  """Draws a confusion matrix, of at most `MOST_CONFUSED` classes.

  Args:
    names: of the K classes.
    cells: true label, predicted label and number of images, without those of no image.
  """
  from bokeh.models import ColumnDataSource, FixedTicker

  true, predicted, images = np.array(cells, int).reshape(-1, 3).T
  is_wrong = true != predicted
  totals = np.bincount(true, images, len(names))
  errors = np.bincount(true[is_wrong], images[is_wrong], len(names))
  errors += np.bincount(predicted[is_wrong], images[is_wrong], len(names))
  labels = np.sort(np.argsort(-errors, kind='stable')[:MOST_CONFUSED])
  place = np.full(len(names), -1)
  place[labels] = np.arange(len(labels))
  kept = (place[true] >= 0) & (place[predicted] >= 0)
  true, predicted, images, is_wrong = (a[kept] for a in (true, predicted, images, is_wrong))
  shares = images / totals[true]
  short = [name if len(name) <= _NAME_LENGTH else f'{name[: _NAME_LENGTH - 1]}…' for name in names]
  count = len(labels)
  cell = max(18, min(44, 440 // count))
  longest = max(len(short[label]) for label in labels)
  margin = 60 + 8 * min(longest, _NAME_LENGTH)
  plot = plots.new_figure(
    'predicted',
    'true',
    height=cell * count + margin,
    max_width=max(420, cell * count + margin),
    x_range=(-0.5, count - 0.5),
    y_range=(count - 0.5, -0.5),
    tools='pan,box_zoom,reset',
  )
  rectangles = []
  for is_right, name in ((True, 'right'), (False, 'wrong')):
    chosen = is_wrong != is_right
    columns = {
      'x': place[predicted[chosen]],
      'y': place[true[chosen]],
      'true': [short[label] for label in true[chosen]],
      'predicted': [short[label] for label in predicted[chosen]],
      'images': images[chosen],
      'share': shares[chosen].astype(np.float32),
      # Wrong ones beside the largest of them, since most are far below the right ones.
      'color': _shades(shares[chosen] / max(shares[chosen], default=1), is_right=is_right),
    }
    rectangles.append(
      plot.rect('x', 'y', 0.96, 0.96, source=ColumnDataSource(columns), color='color', name=name)
    )
  plots.add_hover(
    plot,
    rectangles,
    [
      ('true', '@true'),
      ('predicted', '@predicted'),
      ('images', '@images{0,0}'),
      ('share of the class', '@share{0.0%}'),
    ],
  )
  if count <= _MOST_WITH_NUMBERS:
    columns = {'x': place[predicted], 'y': place[true], 'text': [f'{n}' for n in images]}
    columns['color'] = np.where(shares > 0.5, 'white', 'black').tolist()
    plot.text(
      source=ColumnDataSource(columns),
      text_color='color',
      text_align='center',
      text_baseline='middle',
      text_font_size='13px',
    )
  for axis in (plot.xaxis[0], plot.yaxis[0]):
    axis.ticker = FixedTicker(ticks=list(range(count)))
    axis.major_label_overrides = {i: short[label] for i, label in enumerate(labels)}
  plot.xaxis.major_label_orientation = 'vertical'
  plot.grid.visible = False
  return Confusion(plot, margin + 16 * count, count)


def _shades(shares: np.ndarray, *, is_right: bool) -> list[str]:
  """Colours from light to dark, blue for right and orange for wrong ones."""
  from matplotlib import colormaps

  shades = colormaps['Blues' if is_right else 'Oranges'](0.12 + 0.75 * shares)
  return [colors.to_hex(shade) for shade in shades]


def draw_reliability(calibration: Mapping[str, Any]) -> Any:
  """Draws a reliability diagram, before and after temperature scaling.

  Args:
    calibration: of `assessment.json`, with `bins` and `scaled`.
  """
  plot = plots.new_figure(
    'confidence (%)',
    'accuracy (%)',
    height=380,
    max_width=640,
    x_range=(0, 101),
    y_range=(0, 103),
  )
  plot.line([0, 100], [0, 100], line_color='#999999', line_dash='dotted', legend_label='calibrated')
  drawn = []
  both = [
    ('as trained', calibration, '#1f77b4'),
    ('after scaling', calibration['scaled'], '#ff7f0e'),
  ]
  for label, found, color in both:
    if not found or not found['bins']:
      continue
    bins = found['bins']
    columns = {name: np.array([b[name] for b in bins], float) for name in bins[0]}
    columns = {name: columns[name] for name in ('low', 'high', 'images')} | {
      'x': 100 * columns['confidence'],
      'y': 100 * columns['accuracy'],
    }
    drawn += plots.add_curve(
      plot,
      columns,
      label=label,
      color=color,
      marker='circle',
      size=8,
      is_dashed=found is not calibration,
    )
  plots.add_hover(
    plot,
    drawn,
    [
      ('probabilities', '@low{0.00} to @high{0.00}'),
      ('images', '@images{0,0}'),
      ('confidence', '@x{0.0} %'),
      ('accuracy', '@y{0.0} %'),
    ],
  )
  plots.place_legend(plot)
  return plot
