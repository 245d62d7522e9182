"""The paper's figures, drawn from runs; every function takes a list of runs and returns a figure.

    from nfnets_augmult.report import figures, recorded_runs
    figures.accuracy_against_length(recorded_runs.read_runs('runs/fig4'), unit='updates')

There is a line for each augmentation multiplicity, or for each number of dropout masks where the
runs differ in it (Figure 12); dashed lines are the neighbouring placement, error bars the standard
error. Below the data, a cross is a point that diverged (a plus sign for the neighbouring
placement), and a question mark one whose runs are not finished. Stars are the paper's numbers, in
the colour of their n.

Notebooks show a `Figure` after `%matplotlib inline`; `figure.savefig(path)` writes it to a file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nfnets_augmult.report import panels as panels_lib
from nfnets_augmult.report import statistics
from nfnets_augmult.report.recorded_runs import TRAINING_LOSS, RecordedRun
from nfnets_augmult.report.statistics import Cell

# Keys that a title shows first where settings differ in several.
_TITLE_KEYS = (
  'sam.rho',
  'augmentation.pad',
  'model.dropout_rate',
  'augmentation.randaugment.layers',
)
# The panel of the numbers of the paper.
_PAPER = 'paper'


def accuracy_against_length(
  runs: Sequence[RecordedRun],
  *,
  metric: str = 'test/raw/top_1',
  unit: str = 'epochs',
  published: Sequence[Mapping[str, Any]] = (),
  beside: Sequence[Mapping[str, Any]] = (),
) -> Figure:
  """Returns test accuracy at the best learning rate against length (Figures 2a, 3a, 4, 5, 8a).

  Args:
    runs: of one or several sweeps.
    metric: the recorded accuracy.
    unit: `'epochs'` or `'updates'`.
    published: numbers of the paper for these runs, drawn as stars; see `grid.Published`.
    beside: numbers of the paper for larger runs than these, drawn in a panel of their own; those
      that have no length in `unit` are left out.

  Raises:
    ValueError: another `unit`.
  """
  ylabel = 'test accuracy (%)'
  return _against_length(
    runs, metric, unit, ylabel=ylabel, factor=100, published=published, beside=beside
  )


def accuracy_by_model(
  runs: Sequence[RecordedRun],
  *,
  metric: str = 'test/ema/top_1',
  published: Sequence[Mapping[str, Any]] = (),
) -> Figure:
  """Returns the best test accuracy of each network, with and without SAM (Figure 8b).

  Circles are runs with SAM, triangles runs without, in the colour of their n. Published numbers are
  black for n = 1 and hollow for other n, each at its best length.

  Args:
    runs: of several networks.
    metric: the recorded accuracy.
    published: numbers whose keys name the network, n and `sam.rho`; see `grid.Published`.
  """
  numbers = [number for number in published if 'model.name' in number['keys']]
  names = {run.config['model.name'] for run in runs}
  names |= {number['keys']['model.name'] for number in numbers}
  places = {name: place for place, name in enumerate(sorted(names))}
  styles = panels_lib.make_styles(runs)
  colors = {run.augmult: styles[panels_lib.line_of(run)].color for run in runs}
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
  runs_by_setting = statistics.group_by(runs, lambda r: (r.config['sam.rho'], r.augmult))
  for (rho, augmult), same in runs_by_setting.items():
    for name, of_model in statistics.group_by(same, lambda r: r.config['model.name']).items():
      cells = [
        statistics.best_cell(group, metric)
        for group in statistics.group_by_attributes(of_model, 'budget').values()
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
  panels_lib.draw_legend(figure)
  return figure


def training_loss_against_length(runs: Sequence[RecordedRun], *, unit: str = 'epochs') -> Figure:
  """Returns the cross entropy of the raw training images at the learning rate that minimizes it.

  Figures 2b, 6a and 6b. `unit` is `'epochs'` or `'updates'`.
  """
  ylabel = 'training cross entropy\n(raw images, nats)'
  return _against_length(runs, TRAINING_LOSS, unit, ylabel=ylabel, smallest=True)


def accuracy_against_learning_rate(
  runs: Sequence[RecordedRun], *, metric: str = 'test/raw/top_1', temperature: bool = False
) -> Figure:
  """Returns test accuracy against learning rate, a panel for each length (Figures 2c, 6c, 6d).

  Args:
    runs: of one or several sweeps.
    metric: the recorded accuracy.
    temperature: whether the axis is the temperature, learning rate times n (Figures 7 and 10).
  """
  axis = 'temperature' if temperature else 'learning_rate'
  panels = statistics.group_by_attributes(runs, 'panel', 'budget')
  titles = panel_titles([panel for panel, _ in panels])
  styles = panels_lib.make_styles(runs)

  def draw(axes: Axes, key: Any, group: Sequence[RecordedRun]) -> None:
    def points(line: Sequence[RecordedRun]) -> list[tuple[float | None, Cell]]:
      return [
        (x, statistics.make_cell(same, metric))
        for x, same in statistics.group_by_attributes(line, axis).items()
      ]

    panels_lib.draw_lines(axes, group, points, styles, factor=100)
    epochs, steps = key[1]
    length = f'{epochs:g} epochs' if epochs else f'{steps:,} updates'
    axes.set_title(f'{titles[key[0]]}\n{length}', fontsize=9)
    axes.set_xlabel('temperature (learning rate x n)' if temperature else 'learning rate')
    axes.set_ylabel('test accuracy (%)')

  return panels_lib.draw_panels(panels, draw)


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
  ylabel: str,
  factor: float = 1,
  smallest: bool = False,
  published: Sequence[Mapping[str, Any]] = (),
  beside: Sequence[Mapping[str, Any]] = (),
) -> Figure:
  """`smallest` is for losses: their smallest values are the best, on a logarithmic axis."""
  if unit not in ('epochs', 'updates'):
    raise ValueError(f'unit={unit!r} must be epochs or updates')
  panels = statistics.group_by_attributes(runs, 'panel')
  titles = panel_titles(list(panels))
  styles = panels_lib.make_styles(runs)
  colors = {run.augmult: styles[panels_lib.line_of(run)].color for run in runs}
  length_key = 'total_epochs' if unit == 'epochs' else 'total_steps'
  if beside := [number for number in beside if length_key in number['keys']]:
    panels[_PAPER], titles[_PAPER] = [], 'the paper, full size'

  def draw(axes: Axes, panel: Any, group: Sequence[RecordedRun]) -> None:
    def points(line: Sequence[RecordedRun]) -> list[tuple[float | None, Cell]]:
      return [
        (getattr(same[0], unit), statistics.best_cell(same, metric, smallest=smallest))
        for same in statistics.group_by(line, lambda run: getattr(run, unit) or run.budget).values()
      ]

    for number in published:
      matching = next((run for run in group if matches_setting_and_length(number, run)), None)
      x = matching and getattr(matching, unit)
      if x:
        panels_lib.draw_published(
          axes, x, number['top_1'], color=styles[panels_lib.line_of(matching)].color
        )
    for number in beside if panel == _PAPER else ():
      panels_lib.draw_published(
        axes,
        number['keys'][length_key],
        number['top_1'],
        color=colors.get(number['keys'].get('augmult', 1), '0.5'),
        error=number['standard_error'],
      )
    panels_lib.draw_lines(axes, group, points, styles, factor=factor, is_logarithmic=smallest)
    axes.set_title(titles[panel], fontsize=9)
    axes.set_xlabel('epochs' if unit == 'epochs' else 'parameter updates')
    axes.set_ylabel(ylabel)

  return panels_lib.draw_panels(panels, draw)
