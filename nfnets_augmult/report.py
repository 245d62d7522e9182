"""Gathers runs into tables and the paper's figures; works at any time, also while they go on.

    python -m nfnets_augmult.report --workdir=runs/fig2 [--output=DIR] [--metric=NAME]

Takes every run and sweep in and below the work directory, and writes `report.md`, `summary.csv`
(a line for each setting, at its best learning rate), `runs.csv` (a line for each run),
`records.json` (what all this is made of) and the pictures, as PNG and PDF. Of a folder that holds a
`records.json` it draws the report again from that.
"""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
from absl import flags
from matplotlib.figure import Figure

from nfnets_augmult.analysis import archive, figures
from nfnets_augmult.analysis import runs as runs_lib
from nfnets_augmult.analysis.runs import Cell, RecordedRun
from nfnets_augmult.ops.atomic_file import write_atomically

Row = dict[str, Any]
_DEFAULT_METRIC = 'test/raw/top_1'
# What the runs of one row of the summary share; they differ in learning rate and seed.
_SETTING = ('panel', 'augmult', 'dropout_masks', 'placement', 'budget')
# A sweep that has just begun misses hundreds.
_MOST_LISTED = 20


def write_report(workdir: str, output: str = '', metric: str = '') -> list[str]:
  """Reads the records below `workdir` and writes the report.

  Args:
    workdir: of a sweep, of a run, or of several.
    output: where the report goes; by default `workdir/report`, or `workdir` if it is drawn again.
    metric: the recorded test accuracy that counts; by default what the sweep says.

  Returns:
    The paths of the files.

  Raises:
    ValueError: there are no runs, or sweeps that count different metrics, or a record is damaged.
  """
  archived = archive.read(workdir)
  sweeps, runs = archived or (runs_lib.read_reported_sweeps(workdir), runs_lib.read_runs(workdir))
  if not runs:
    raise ValueError(f'workdir={workdir!r}: there are no runs in it')
  metrics = {sweep['metric'] for sweep in sweeps} or {_DEFAULT_METRIC}
  if not metric and len(metrics) > 1:
    raise ValueError(f'the sweeps below {workdir} count {" and ".join(metrics)}: say --metric=NAME')
  metric = metric or metrics.pop()
  known = runs_lib.recorded_metrics(runs)
  if known and metric not in known:
    raise ValueError(f'--metric={metric} is recorded by no run; there is {", ".join(known)}')
  published = [
    {**number, 'sweep': sweep['path']}
    for sweep in sweeps
    if not sweep['is_small']
    for number in sweep['published']
  ]
  output = output or (workdir if archived else os.path.join(workdir, 'report'))
  os.makedirs(output, exist_ok=True)
  rows = summary_rows(runs, metric, published)
  pictures = draw_all(runs, metric, published)
  files = {
    archive.NAME: archive.dumps(sweeps, runs, workdir),
    'runs.csv': _csv(run_rows(runs, workdir)),
    'summary.csv': _csv(rows),
    'report.md': _markdown(sweeps, runs, rows, list(pictures), workdir, metric),
  }
  for name, text in files.items():
    write_atomically(os.path.join(output, name), lambda file, text=text: file.write(text.encode()))
  for name, figure in pictures.items():
    for suffix, options in (
      ('png', {'dpi': 150}),
      ('pdf', {'metadata': {'CreationDate': None}}),  # the same report is the same file
    ):
      path = os.path.join(output, f'{name}.{suffix}')
      write_atomically(
        path, lambda file, f=figure, s=suffix, o=options: f.savefig(file, format=s, **o)
      )
  return [os.path.join(output, name) for name in (*files, *(f'{p}.png' for p in pictures))]


def draw_all(
  runs: Sequence[RecordedRun], metric: str, published: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Figure]:
  """Returns the figures by file name; those whose axis would have a single value are left out."""
  drawn = {}
  if len({run.budget for run in runs}) > 1:
    for unit in ('epochs', 'updates'):
      drawn[f'accuracy_{unit}'] = figures.accuracy_against_length(
        runs, metric=metric, unit=unit, published=published
      )
      drawn[f'training_loss_{unit}'] = figures.training_loss_against_length(runs, unit=unit)
  if len({run.config['model.name'] for run in runs}) > 1:
    drawn['accuracy_model'] = figures.accuracy_by_model(runs, metric=metric, published=published)
  if _vary_learning_rate(runs):
    drawn['accuracy_learning_rate'] = figures.accuracy_against_learning_rate(runs, metric=metric)
  # Where the number of unique images is fixed, the learning rate alone is what counts (Section 4).
  fixed = [run for run in runs if run.config['batch_size']]
  if _vary_learning_rate(fixed) and len({run.augmult for run in fixed}) > 1:
    drawn['accuracy_temperature'] = figures.accuracy_against_learning_rate(
      fixed, metric=metric, temperature=True
    )
  return drawn


def _vary_learning_rate(runs: Sequence[RecordedRun]) -> bool:
  """Whether some runs differ in their learning rate alone, and perhaps in their seed."""
  groups = runs_lib.by(runs, *_SETTING).values()
  return any(len({run.learning_rate for run in group}) > 1 for group in groups)


def summary_rows(
  runs: Sequence[RecordedRun], metric: str, published: Sequence[Mapping[str, Any]] = ()
) -> list[Row]:
  """Returns a row for each setting and length, at the learning rate that is best for it.

  A number that the paper gives for no length in particular stands in the row that is best.
  """
  titles = figures.panel_titles(list(runs_lib.by(runs, 'panel')))
  groups = list(runs_lib.by(runs, *_SETTING).values())
  cells = [runs_lib.best_cell(group, metric) for group in groups]
  papers: dict[int, float] = {}
  for number in published:
    about = [row for row, group in enumerate(groups) if figures.is_about(number, group[0])]
    if any(figures.matches(number, groups[row][0]) for row in about):
      papers |= dict.fromkeys(about, number['top_1'])
    elif measured := [row for row in about if cells[row].status == 'measured']:
      papers[max(measured, key=lambda row: cells[row].mean)] = number['top_1']
  rows = []
  for row, (group, cell) in enumerate(zip(groups, cells, strict=True)):
    first = group[0]
    loss = runs_lib.best_cell(group, runs_lib.TRAINING_LOSS, smallest=True)
    is_measured = cell.status == 'measured'
    rows.append(
      {
        'setting': titles[first.panel].replace('\n', ', '),
        'n': first.augmult,
        'dropout masks': first.dropout_masks,
        'placement': first.placement,
        'epochs': '' if first.epochs is None else f'{first.epochs:.4g}',
        'updates': first.updates or '',
        'best learning rate': f'{cell.runs[0].learning_rate:g}' if is_measured else '',
        'at the edge of the grid': _yes(is_measured and runs_lib.is_at_edge(cell, group)),
        'temperature': f'{cell.runs[0].temperature:g}' if is_measured else '',
        'test accuracy (%)': _accuracy(cell),
        'standard error (%)': _percent(cell.standard_error) if is_measured else '',
        'runs that count': _count(cell),
        'training cross entropy': f'{loss.mean:.4g}' if loss.status == 'measured' else loss.status,
        'paper (%)': papers.get(row, ''),
      }
    )
  return rows


def run_rows(runs: Sequence[RecordedRun], workdir: str) -> list[Row]:
  """Returns a row for each run."""
  rows = []
  for run in runs:
    values = run.result
    rows.append(
      {
        'run': os.path.relpath(run.path, workdir),
        'status': run.status,
        'model': run.config['model.name'],
        'data set': run.config['dataset.name'],
        'n': run.augmult,
        'dropout masks': run.dropout_masks,
        'placement': run.placement,
        'unique images per batch': run.unique_images_per_batch,
        'batch size': run.batch_size,
        'learning rate': run.learning_rate,
        'temperature': run.temperature,
        'seed': run.config['seed'],
        'epochs': values.get('epoch', ''),
        'updates': values.get('step', ''),
        **{
          key: '' if values.get(key) is None else values[key]
          for key in ('test/raw/top_1', 'test/ema/top_1', 'test/raw/cross_entropy')
        },
        runs_lib.TRAINING_LOSS: values.get(runs_lib.TRAINING_LOSS, ''),
        'message': run.message,
      }
    )
  return rows


def _markdown(
  sweeps: Sequence[Mapping[str, Any]],
  runs: Sequence[RecordedRun],
  rows: Sequence[Row],
  pictures: Sequence[str],
  workdir: str,
  metric: str,
) -> str:
  counts = {status: len(group) for status, group in runs_lib.by(runs, 'status').items()}
  name = os.path.basename(os.path.abspath(workdir))
  parts = [f'# {"; ".join(sweep["title"] for sweep in sweeps) or name}']
  parts += [f'The paper: {sweep["expected"]}' for sweep in sweeps]
  counted = ', '.join(f'{count} {status}' for status, count in counts.items())
  parts.append(
    f'{len(runs)} runs: {counted}. Test accuracy is `{metric}` after the last update, at the '
    'learning rate of the grid where it is best: the mean and its standard error over the best 5 '
    'of 7 runs as in the paper, or over all runs where there are fewer. The training cross entropy '
    'is that of the raw images, at the learning rate where it is least. Where the best learning '
    'rate is at the edge of its grid, a better one may lie beyond.'
  )
  parts.append(_markdown_table(rows))
  if lines := [_published_line(number) for sweep in sweeps for number in sweep['published']]:
    is_small = any(sweep['is_small'] for sweep in sweeps)
    note = ', for its full-size runs' * is_small
    parts.append('\n'.join([f'The paper prints{note}:', '', *lines]))
  for status in ('failed', 'diverged', 'unfinished', 'missing'):
    if lines := [
      f'* {os.path.relpath(run.path, workdir)}' + ''.join(f': {m}' for m in _first_line(run))
      for run in runs
      if run.status == status
    ]:
      if len(lines) > _MOST_LISTED:
        more = f'* and {len(lines) - _MOST_LISTED} more, see runs.csv'
        lines = [*lines[:_MOST_LISTED], more]
      parts.append('\n'.join([f'## {status.capitalize()} runs', '', *lines]))
  parts += [f'![{name.replace("_", " ")}]({name}.png)' for name in pictures]
  return '\n\n'.join(parts) + '\n'


def _published_line(number: Mapping[str, Any]) -> str:
  keys = ', '.join(
    f'{key} {value:g}' if isinstance(value, int | float) else f'{key} {value}'
    for key, value in number['keys'].items()
  )
  error = number['standard_error']
  return (
    f'* {number["top_1"]:g}{f" ± {error:g}" if error else ""} % for {keys} ({number["source"]})'
  )


def _markdown_table(rows: Sequence[Row]) -> str:
  names = list(rows[0])
  lines = [names, ['---'] * len(names), *([str(row[name]) for name in names] for row in rows)]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _csv(rows: Sequence[Row]) -> str:
  text = io.StringIO()
  writer = csv.DictWriter(text, list(rows[0]), lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue()


def _accuracy(cell: Cell) -> str:
  return _percent(cell.mean) if cell.status == 'measured' else cell.status


def _percent(share: float | None) -> str:
  return '' if share is None else f'{100 * share:.2f}'


def _count(cell: Cell) -> str:
  """How many runs count of how many, and how many are still to come."""
  to_come = f', {cell.num_missing} to come' if cell.num_missing else ''
  return f'{len(cell.values)} of {len(cell.runs)}{to_come}'


def _first_line(run: RecordedRun) -> list[str]:
  return run.message.splitlines()[:1]


def _yes(flag: bool) -> str:
  return 'yes' if flag else ''


def main() -> None:
  """Reads the flags and writes the report."""
  args = flags.FLAGS
  try:
    files = write_report(args.workdir, args.output, args.metric)
  except ValueError as error:
    command_line.fail(str(error))
  except OSError as error:
    command_line.fail(f'cannot read {args.workdir} or write the report: {error}')
  print('\n'.join(files))


if __name__ == '__main__':
  command_line.define_path(
    'workdir', None, 'Directory of a sweep, of a run, or of several.', required=True
  )
  command_line.define_path('output', '', 'Where the report goes; default: WORKDIR/report.')
  flags.DEFINE_string('metric', '', 'Test accuracy that counts; default: what the sweep says.')
  command_line.run(main)
