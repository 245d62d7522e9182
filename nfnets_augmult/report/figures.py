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

from matplotlib.figure import Figure

from nfnets_augmult.report import charts, statistics
from nfnets_augmult.report import panels as panels_lib
from nfnets_augmult.report.recorded_runs import RecordedRun


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
  return panels_lib.draw_chart(
    charts.accuracy_against_length(
      runs, metric=metric, unit=unit, published=published, beside=beside
    )
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
  styles = charts.make_styles(runs)
  colors = {run.augmult: styles[charts.line_of(run)].color for run in runs}
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
  return panels_lib.draw_chart(charts.training_loss_against_length(runs, unit=unit))


def accuracy_against_learning_rate(
  runs: Sequence[RecordedRun], *, metric: str = 'test/raw/top_1', temperature: bool = False
) -> Figure:
  """Returns test accuracy against learning rate, a panel for each length (Figures 2c, 6c, 6d).

  Args:
    runs: of one or several sweeps.
    metric: the recorded accuracy.
    temperature: whether the axis is the temperature, learning rate times n (Figures 7 and 10).
  """
  return panels_lib.draw_chart(
    charts.accuracy_against_learning_rate(runs, metric=metric, temperature=temperature)
  )
