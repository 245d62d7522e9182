"""Writes the report on a work directory: tables, figures, the page, and the records of its runs."""

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

from nfnets_augmult.ops import files
from nfnets_augmult.pages import document
from nfnets_augmult.report import (
  archive,
  figures,
  panels,
  recorded_runs,
  statistics,
  sweep_page,
  tables,
)
from nfnets_augmult.report import charts as charts_lib
from nfnets_augmult.report.charts import Chart
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
  charts = find_charts(runs, metric, published)
  drawn = {
    name: panels.draw_chart(chart)
    if chart
    else figures.accuracy_by_model(runs, metric=metric, published=published)
    for name, chart in charts.items()
  }
  title, sections = (
    tables.title(sweeps, workdir),
    tables.sections(sweeps, runs, rows, workdir, metric),
  )
  run_rows = tables.run_rows(runs, workdir)
  texts = {
    archive.NAME: archive.dumps(sweeps, runs, workdir),
    'runs.csv': tables.csv_text(run_rows),
    'summary.csv': tables.csv_text(rows),
    'report.md': tables.markdown(title, sections, list(drawn)),
  }
  for name, text in texts.items():
    files.write_whole(os.path.join(output, name), text.encode())
  pictures = {}
  for name, figure in drawn.items():
    for suffix, options in (
      ('png', {'dpi': 150}),
      ('pdf', {'metadata': {'CreationDate': None}}),  # the same report is the same file
    ):
      path = os.path.join(output, f'{name}.{suffix}')
      buffer = io.BytesIO()
      figure.savefig(buffer, format=suffix, **options)
      files.write_whole(path, buffer.getvalue())
      if suffix == 'png':
        pictures[name] = buffer.getvalue()
  names = [*texts, *(f'{name}.png' for name in drawn)]
  if document.is_available(sweep_page.NAME):
    page = sweep_page.draw(title, sections, charts, pictures, run_rows)
    files.write_whole(os.path.join(output, sweep_page.NAME), page)
    names.append(sweep_page.NAME)
  return [os.path.join(output, name) for name in names]


def find_charts(
  runs: Sequence[RecordedRun], metric: str, published: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Chart | None]:
  """Returns what the figures show by file name, without those whose axis would have a single value.

  None stands for the figure of networks, which has no such axis.
  """
  found: dict[str, Chart | None] = {}
  if len({run.budget for run in runs}) > 1:
    for unit in ('epochs', 'updates'):
      found[f'accuracy_{unit}'] = charts_lib.accuracy_against_length(
        runs, metric=metric, unit=unit, published=published
      )
      found[f'training_loss_{unit}'] = charts_lib.training_loss_against_length(runs, unit=unit)
  if len({run.config['model.name'] for run in runs}) > 1:
    found['accuracy_model'] = None
  if _vary_learning_rate(runs):
    found['accuracy_learning_rate'] = charts_lib.accuracy_against_learning_rate(
      runs, metric=metric, temperature=False
    )
  # At a growing batch the learning rate counts, not the temperature (Section 4).
  fixed = [run for run in runs if run.config['batch_size']]
  if _vary_learning_rate(fixed) and len({run.augmult for run in fixed}) > 1:
    found['accuracy_temperature'] = charts_lib.accuracy_against_learning_rate(
      fixed, metric=metric, temperature=True
    )
  return found


def _vary_learning_rate(runs: Sequence[RecordedRun]) -> bool:
  """Whether some runs differ in their learning rate alone, and perhaps in their seed."""
  groups = statistics.group_by_setting(runs)
  return any(len({run.learning_rate for run in group}) > 1 for group in groups)
