"""The tables of a report: a row for each setting, a row for each run, and `report.md`."""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from nfnets_augmult.report import charts, recorded_runs, statistics, verdict
from nfnets_augmult.report.recorded_runs import RecordedRun
from nfnets_augmult.report.statistics import Cell

Row = dict[str, Any]
# Runs that failed or are missing; a sweep that has just begun misses hundreds.
_MOST_LISTED = 20


def summary_rows(
  runs: Sequence[RecordedRun], metric: str, published: Sequence[Mapping[str, Any]] = ()
) -> list[Row]:
  """Returns a row for each setting and length, at its best learning rate.

  A number that the paper gives for no particular length is in the row of the best length.
  """
  titles = charts.panel_titles(list(statistics.group_by_attributes(runs, 'panel')))
  groups = statistics.group_by_setting(runs)
  cells = [statistics.best_cell(group, metric) for group in groups]
  paper_top_1: dict[int, float] = {}
  for number in published:
    matching = [row for row, g in enumerate(groups) if charts.matches_setting(number, g[0])]
    if any(charts.matches_setting_and_length(number, groups[row][0]) for row in matching):
      paper_top_1 |= dict.fromkeys(matching, number['top_1'])
    elif measured := [row for row in matching if cells[row].status == 'measured']:
      paper_top_1[max(measured, key=lambda row: cells[row].mean)] = number['top_1']
  rows = []
  for row, (group, cell) in enumerate(zip(groups, cells, strict=True)):
    first = group[0]
    loss = statistics.best_cell(group, recorded_runs.TRAINING_LOSS, smallest=True)
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
        'at the edge of the grid': _yes(is_measured and statistics.is_at_edge(cell, group)),
        'temperature': f'{cell.runs[0].temperature:g}' if is_measured else '',
        'test accuracy (%)': _accuracy(cell),
        'standard error (%)': _percent(cell.standard_error) if is_measured else '',
        'runs that count': _count(cell),
        'training cross entropy': f'{loss.mean:.4g}' if loss.status == 'measured' else loss.status,
        'paper (%)': paper_top_1.get(row, ''),
      }
    )
  return rows


def comparison_rows(runs: Sequence[RecordedRun], metric: str) -> list[Row]:
  """Returns a row for each of `verdict.comparisons`."""
  titles = charts.panel_titles(list(statistics.group_by_attributes(runs, 'panel')))
  return [
    {
      'setting': titles[compared.runs[0].panel].replace('\n', ', '),
      'updates': compared.runs[0].updates,
      'n': ' against '.join(run.copies for run in reversed(compared.runs)),
      'learning rates': ' and '.join(f'{run.learning_rate:g}' for run in reversed(compared.runs)),
      'test accuracy (%)': ' and '.join(map(_percent, compared.pairs.mean(axis=0)[::-1])),
      'pairs': len(compared.pairs),
      'difference (%)': _percent((compared.pairs[:, 1] - compared.pairs[:, 0]).mean()),
      'interval (%)': f'{_percent(test.low)} to {_percent(test.high)}' if test else '',
      'spread of a difference (%)': _percent(test.spread) if test else '',
      'p': f'{test.p_value:.2g}' if test else '',
      'verdict': test.verdict if test else 'undecided',
    }
    for compared in verdict.comparisons(runs, metric)
    for test in [compared.test]
  ]


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
        recorded_runs.TRAINING_LOSS: values.get(recorded_runs.TRAINING_LOSS, ''),
        'message': run.message,
      }
    )
  return rows


class Section(NamedTuple):
  """A part of the report, for `report.md` and `sweep.html`.

  Attributes:
    heading: '' for none.
    texts: paragraphs, with code between backticks.
    rows: of a table.
    lines: of a list.
  """

  heading: str
  texts: Sequence[str]
  rows: Sequence[Row] = ()
  lines: Sequence[str] = ()


def title(sweeps: Sequence[Mapping[str, Any]], workdir: str) -> str:
  """Returns the title of the report: those of the sweeps, or the name of the folder."""
  name = os.path.basename(os.path.abspath(workdir))
  return '; '.join(_distinct(sweep['title'] for sweep in sweeps)) or name


def _distinct(texts: Iterable[str]) -> list[str]:
  """In their order: sweeps of one experiment, such as of several lengths, say some things alike."""
  return list(dict.fromkeys(texts))


def sections(
  sweeps: Sequence[Mapping[str, Any]],
  runs: Sequence[RecordedRun],
  rows: Sequence[Row],
  workdir: str,
  metric: str,
) -> list[Section]:
  """Returns the parts of the report.

  Args:
    sweeps: of `recorded_runs.read_reported_sweeps`.
    runs: at least one.
    rows: of `summary_rows`.
    workdir: that `sweeps` and `runs` were read from.
    metric: the recorded accuracy.
  """
  by_status = statistics.group_by_attributes(runs, 'status')
  counted = ', '.join(f'{len(group)} {status}' for status, group in by_status.items())
  texts = _distinct(f'The paper: {sweep["expected"]}' for sweep in sweeps if sweep['expected'])
  texts.append(
    f'{len(runs)} runs: {counted}. Test accuracy is `{metric}` after the last update, at the '
    'learning rate of the grid where it is best: the mean and its standard error over the best 5 '
    'of 7 runs as in the paper, or over all runs where there are fewer. The training cross entropy '
    'is that of the raw images, at the learning rate where it is least. Where the best learning '
    'rate is at the edge of its grid, a better one may lie beyond.'
  )
  parts = [Section('', texts, rows)]
  if compared := comparison_rows(runs, metric):
    text = (
      f"Pairs of runs that share a seed, with {verdict.CONFIDENCE:.0%} intervals of Student's t. "
      'The learning rate of each n is the best one of the first seed, which does not count here. '
      'Confirmed: the interval is above 0. Refuted: it is not, and it is below '
      f'{100 * verdict.SMALLEST_EFFECT:g} %, the smallest effect of interest. A verdict is on runs '
      'of this size and length, not on longer ones.'
    )
    parts.append(Section('n > 1 at equal updates', [text], compared))
  numbers = (number for sweep in sweeps for number in sweep['published'])
  if lines := _distinct(map(_published_line, numbers)):
    is_small = any(sweep['is_small'] for sweep in sweeps)
    note = ', for its full-size runs' * is_small
    parts.append(Section('', [f'The paper prints{note}:'], lines=lines))
  for status in ('failed', 'diverged', 'unfinished', 'missing'):
    if lines := [
      os.path.relpath(run.path, workdir) + ''.join(f': {m}' for m in _first_line(run))
      for run in runs
      if run.status == status
    ]:
      if len(lines) > _MOST_LISTED:
        more = f'and {len(lines) - _MOST_LISTED} more, see runs.csv'
        lines = [*lines[:_MOST_LISTED], more]
      parts.append(Section(f'{status.capitalize()} runs', [], lines=lines))
  return parts


def markdown(title: str, sections: Sequence[Section], pictures: Sequence[str]) -> str:
  """Returns the text of `report.md`.

  Args:
    title: of the report.
    sections: its parts.
    pictures: names of the PNG files beside it, without their ending.
  """
  parts = [f'# {title}']
  for section in sections:
    parts += [f'## {section.heading}'] if section.heading else []
    parts += section.texts
    parts += [markdown_table(section.rows)] if section.rows else []
    parts += ['\n'.join(f'* {line}' for line in section.lines)] if section.lines else []
  parts += [f'![{name.replace("_", " ")}]({name}.png)' for name in pictures]
  return '\n\n'.join(parts) + '\n'


def markdown_table(rows: Sequence[Row]) -> str:
  """Returns rows, at least one, as a table in Markdown."""
  names = list(rows[0])
  lines = [names, ['---'] * len(names), *([str(row[name]) for name in names] for row in rows)]
  return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def csv_text(rows: Sequence[Row]) -> str:
  """Returns the rows, at least one, as CSV with a header line."""
  text = io.StringIO()
  writer = csv.DictWriter(text, list(rows[0]), lineterminator='\n')
  writer.writeheader()
  writer.writerows(rows)
  return text.getvalue()


def _published_line(number: Mapping[str, Any]) -> str:
  keys = ', '.join(
    f'{key} {value:g}' if isinstance(value, int | float) else f'{key} {value}'
    for key, value in number['keys'].items()
  )
  error = number['standard_error']
  return f'{number["top_1"]:g}{f" ± {error:g}" if error else ""} % for {keys} ({number["source"]})'


def _accuracy(cell: Cell) -> str:
  return _percent(cell.mean) if cell.status == 'measured' else cell.status


def _percent(share: float | None) -> str:
  return '' if share is None else f'{100 * share:.2f}'


def _count(cell: Cell) -> str:
  """How many of the runs count, and how many are not finished yet."""
  to_come = f', {cell.num_missing} to come' if cell.num_missing else ''
  return f'{len(cell.values)} of {len(cell.runs)}{to_come}'


def _first_line(run: RecordedRun) -> list[str]:
  return run.message.splitlines()[:1]


def _yes(flag: bool) -> str:
  return 'yes' if flag else ''
