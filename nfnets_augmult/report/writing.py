"""Writes the report on a work directory: its tables, its figures and the records of its runs."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from nfnets_augmult.ops import files
from nfnets_augmult.report import archive, figures, recorded_runs, statistics, tables
from nfnets_augmult.report.recorded_runs import RecordedRun

_DEFAULT_METRIC = 'test/raw/top_1'


def write_report(workdir: str, output: str = '', metric: str = '') -> list[str]:
  """Reads the records in and below `workdir`, and writes the report on them.

  Args:
    workdir: of a sweep, of a run, or of several; or the folder of an earlier report.
    output: folder of the report; by default `workdir/report`, or `workdir` itself if that is the
      folder of an earlier report.
    metric: name of the test accuracy in the records; by default the one that the sweeps name.

  Returns:
    The paths of the files.

  Raises:
    ValueError: there are no runs, the sweeps name different metrics, no run has recorded `metric`,
      or a record is damaged.
  """
  archived = archive.read(workdir)
  sweeps, runs = archived or (
    recorded_runs.read_reported_sweeps(workdir),
    recorded_runs.read_runs(workdir),
  )
  if not runs:
    raise ValueError(f'workdir={workdir!r}: there are no runs in it')
  metrics = {sweep['metric'] for sweep in sweeps} or {_DEFAULT_METRIC}
  if not metric and len(metrics) > 1:
    raise ValueError(f'the sweeps below {workdir} count {" and ".join(metrics)}: say --metric=NAME')
  metric = metric or metrics.pop()
  known = statistics.recorded_metrics(runs)
  if known and metric not in known:
    raise ValueError(f'--metric={metric} is recorded by no run; there is {", ".join(known)}')
  published = [
    {**number, 'sweep': sweep['path']}
    for sweep in sweeps
    if not sweep['is_small']
    for number in sweep['published']
  ]
  output = output or (workdir if archived else os.path.join(workdir, 'report'))
  files.make_dirs(output)
  rows = tables.summary_rows(runs, metric, published)
  drawn = draw_all(runs, metric, published)
  texts = {
    archive.NAME: archive.dumps(sweeps, runs, workdir),
    'runs.csv': tables.csv_text(tables.run_rows(runs, workdir)),
    'summary.csv': tables.csv_text(rows),
    'report.md': tables.markdown(sweeps, runs, rows, list(drawn), workdir, metric),
  }
  for name, text in texts.items():
    files.write_whole(os.path.join(output, name), text.encode())
  for name, figure in drawn.items():
    for suffix, options in (
      ('png', {'dpi': 150}),
      ('pdf', {'metadata': {'CreationDate': None}}),  # the same report is the same file
    ):
      path = os.path.join(output, f'{name}.{suffix}')
      files.write_whole(
        path, lambda file, f=figure, s=suffix, o=options: f.savefig(file, format=s, **o)
      )
  return [os.path.join(output, name) for name in (*texts, *(f'{name}.png' for name in drawn))]


def draw_all(
  runs: Sequence[RecordedRun], metric: str, published: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Figure]:
  """Returns the figures by file name, without those whose axis would have a single value."""
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
  # At a growing batch the learning rate counts, not the temperature (Section 4).
  fixed = [run for run in runs if run.config['batch_size']]
  if _vary_learning_rate(fixed) and len({run.augmult for run in fixed}) > 1:
    drawn['accuracy_temperature'] = figures.accuracy_against_learning_rate(
      fixed, metric=metric, temperature=True
    )
  return drawn


def _vary_learning_rate(runs: Sequence[RecordedRun]) -> bool:
  """Whether some runs differ in their learning rate alone, and perhaps in their seed."""
  groups = statistics.group_by_setting(runs)
  return any(len({run.learning_rate for run in group}) > 1 for group in groups)
