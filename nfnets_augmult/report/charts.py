"""What the figures of a report show, before it is drawn: panels, lines and points.

`figures.py` draws it with Matplotlib, `sweep_page.py` for the page.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib import colormaps

from nfnets_augmult.report import statistics
from nfnets_augmult.report.recorded_runs import TRAINING_LOSS, RecordedRun
from nfnets_augmult.report.statistics import Cell

_MARKERS = 'os^Dv*Pp<>'
# Keys that a title shows first where settings differ in several.
_TITLE_KEYS = (
  'sam.rho',
  'augmentation.pad',
  'model.dropout_rate',
  'augmentation.randaugment.layers',
)


class Style(NamedTuple):
  """The look of a line, that is of one n, number of dropout masks and placement."""

  color: Any
  marker: str
  is_within: bool
  label: str


def line_of(run: RecordedRun) -> tuple[int, int, str]:
  """Returns n, number of dropout masks and placement, which the runs of a line share."""
  return run.augmult, run.dropout_masks, run.placement


def make_styles(runs: Sequence[RecordedRun]) -> dict[tuple[int, int, str], Style]:
  """Returns a style for each line of a figure of these runs, by `line_of`."""
  lines = sorted({line_of(run) for run in runs}, key=lambda line: (line[:2], line[2] != 'within'))
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


class Line(NamedTuple):
  """The runs of one n, number of dropout masks and placement.

  Attributes:
    style: of the line.
    points: x and the statistics there, by increasing x.
  """

  style: Style
  points: Sequence[tuple[float, Cell]]


class PublishedPoint(NamedTuple):
  """A number of the paper: x, accuracy and its standard error in percent; None: not drawn."""

  x: float
  top_1: float
  color: Any
  error: float | None = None


class Panel(NamedTuple):
  """The runs that differ in the axes and the lines of a figure alone.

  Attributes:
    title: one line or several.
    lines: in the order of the legend.
    published: the paper's numbers.
  """

  title: str
  lines: Sequence[Line]
  published: Sequence[PublishedPoint] = ()


class Chart(NamedTuple):
  """What one figure shows.

  Attributes:
    panels: with logarithmic horizontal axes.
    x_label: of all panels.
    y_label: of all panels.
    factor: that the values of the cells are multiplied by.
    is_logarithmic: whether the vertical axis is.
  """

  panels: Sequence[Panel]
  x_label: str
  y_label: str
  factor: float = 1
  is_logarithmic: bool = False


def accuracy_against_length(
  runs: Sequence[RecordedRun],
  *,
  metric: str,
  unit: str,
  published: Sequence[Mapping[str, Any]] = (),
  beside: Sequence[Mapping[str, Any]] = (),
) -> Chart:
  """See `figures.accuracy_against_length`."""
  chart = _against_length(runs, metric, unit, published=published)
  if of_paper := _published_panel(beside, unit, make_styles(runs)):
    chart = chart._replace(panels=[*chart.panels, of_paper])
  return chart._replace(y_label='test accuracy (%)', factor=100)


def training_loss_against_length(runs: Sequence[RecordedRun], *, unit: str) -> Chart:
  """See `figures.training_loss_against_length`."""
  chart = _against_length(runs, TRAINING_LOSS, unit, smallest=True)
  return chart._replace(y_label='training cross entropy\n(raw images, nats)', is_logarithmic=True)


def accuracy_against_learning_rate(
  runs: Sequence[RecordedRun], *, metric: str, temperature: bool
) -> Chart:
  """See `figures.accuracy_against_learning_rate`."""
  axis = 'temperature' if temperature else 'learning_rate'
  groups = statistics.group_by_attributes(runs, 'panel', 'budget')
  titles = panel_titles([panel for panel, _ in groups])

  def points(line: Sequence[RecordedRun]) -> list[tuple[float | None, Cell]]:
    return [
      (x, statistics.make_cell(same, metric))
      for x, same in statistics.group_by_attributes(line, axis).items()
    ]

  styles, panels = make_styles(runs), []
  for (panel, (epochs, steps)), group in groups.items():
    length = f'{epochs:g} epochs' if epochs else f'{steps:,} updates'
    panels.append(Panel(f'{titles[panel]}\n{length}', _lines(group, points, styles)))
  x_label = 'temperature (learning rate x n)' if temperature else 'learning rate'
  return Chart(panels, x_label, 'test accuracy (%)', factor=100)


def panel_titles(panels: Sequence[Any]) -> dict[Any, str]:
  """Returns a title for each panel: network, data, batches, and the keys that tell it apart."""
  unique = [dict(panel) for panel in dict.fromkeys(panels)]
  keys = ['model.name', 'dataset.name', 'batch_size', 'unique_images_per_batch']
  candidates = [*_TITLE_KEYS, *sorted({key for panel in unique for key in panel})]
  for key in candidates:
    # A key that follows from those before it, as the resolution does from the network, is left out.
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


def matches_setting_and_length(number: Mapping[str, Any], run: RecordedRun) -> bool:
  """Whether a number of the paper is for the setting and the length of `run`.

  It is not if the paper gives the number for no particular length.
  """
  has_length = {'total_epochs', 'total_steps'} & set(number['keys'])
  return bool(has_length) and matches_setting(number, run)


def matches_setting(number: Mapping[str, Any], run: RecordedRun) -> bool:
  """Whether a number of the paper is for the setting of `run`.

  A number that has the folder of its `sweep` is for runs in that folder only.
  """
  is_of_its_sweep = 'sweep' not in number or run.is_inside(number['sweep'])
  return is_of_its_sweep and all(
    run.config.get(key) == value for key, value in number['keys'].items()
  )


def _against_length(
  runs: Sequence[RecordedRun],
  metric: str,
  unit: str,
  *,
  smallest: bool = False,
  published: Sequence[Mapping[str, Any]] = (),
) -> Chart:
  """`smallest` is for losses: their smallest values are the best."""
  if unit not in ('epochs', 'updates'):
    raise ValueError(f'unit={unit!r} must be epochs or updates')

  def points(line: Sequence[RecordedRun]) -> list[tuple[float | None, Cell]]:
    return [
      (getattr(same[0], unit), statistics.best_cell(same, metric, smallest=smallest))
      for same in statistics.group_by(line, lambda run: getattr(run, unit) or run.budget).values()
    ]

  groups = statistics.group_by_attributes(runs, 'panel')
  titles, styles, panels = panel_titles(list(groups)), make_styles(runs), []
  for panel, group in groups.items():
    numbers = []
    for number in published:
      matching = next((run for run in group if matches_setting_and_length(number, run)), None)
      if x := matching and getattr(matching, unit):
        numbers.append(PublishedPoint(x, number['top_1'], styles[line_of(matching)].color))
    panels.append(Panel(titles[panel], _lines(group, points, styles), numbers))
  return Chart(panels, 'epochs' if unit == 'epochs' else 'parameter updates', y_label='')


def _published_panel(
  numbers: Sequence[Mapping[str, Any]], unit: str, styles: Mapping[Any, Style]
) -> Panel | None:
  """Returns the numbers of the paper that have a length in `unit`, coloured by n."""
  key = 'total_epochs' if unit == 'epochs' else 'total_steps'
  colors = {augmult: style.color for (augmult, *_), style in styles.items()}
  points = [
    PublishedPoint(
      number['keys'][key],
      number['top_1'],
      colors.get(number['keys'].get('augmult', 1), '0.5'),
      number['standard_error'],
    )
    for number in numbers
    if key in number['keys']
  ]
  return Panel('the paper, full size', (), points) if points else None


def _lines(
  runs: Sequence[RecordedRun],
  points: Callable[[Sequence[RecordedRun]], list[tuple[float | None, Cell]]],
  styles: Mapping[Any, Style],
) -> list[Line]:
  """Returns the lines of a panel; points whose x is None, as it is not known, are left out."""
  by_line = statistics.group_by(runs, line_of)
  return [
    Line(style, sorted((p for p in points(by_line[key]) if p[0] is not None), key=lambda p: p[0]))
    for key, style in styles.items()
    if key in by_line
  ]


def _line_label(
  augmult: int, masks: int, placement: str, *, all_lines: Sequence[tuple[int, int, str]]
) -> str:
  """The label of a line; n counts dropout masks if lines differ in these alone (Figure 12)."""
  parts = [f'n = {augmult}']
  if len({line[1] for line in all_lines}) > 1:
    is_figure_12 = len({line[0] for line in all_lines}) == 1
    masks_text = f'{masks} dropout mask' + 's' * (masks > 1)
    parts = [f'n = {masks_text}'] if is_figure_12 else [*parts, masks_text]
  return ', '.join(parts + [placement] * (placement != 'within'))
