"""The records of many runs in one file, from which their report can be drawn again anywhere.

`records.json` holds the description of each sweep, and the status, the config and the last
evaluation of each run. Metrics from during training are in the work directories only.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from nfnets_augmult.ops import files
from nfnets_augmult.report.recorded_runs import RecordedRun

NAME = 'records.json'


def dumps(sweeps: Sequence[Mapping[str, Any]], runs: Sequence[RecordedRun], workdir: str) -> str:
  """Returns the text of the file, with paths relative to `workdir` and a line for each run.

  Args:
    sweeps: of `recorded_runs.read_reported_sweeps`.
    runs: of `recorded_runs.read_runs`; at least one.
    workdir: that both were read from.
  """
  # What all runs share is written once.
  common = dict(runs[0].config)
  for run in runs:
    theirs = run.config
    common = {k: value for k, value in common.items() if k in theirs and theirs[k] == value}
  head = {
    'common': common,
    # Points and base follow from the configs of the runs.
    'sweeps': [
      {
        **{key: value for key, value in sweep.items() if key not in ('base', 'points')},
        'path': os.path.relpath(sweep['path'], workdir),
      }
      for sweep in sweeps
    ],
  }
  lines = [
    json.dumps(
      {
        'path': os.path.relpath(run.path, workdir),
        'status': run.status,
        'message': run.message,
        'num_images': run.num_images,
        'config': {key: value for key, value in run.config.items() if key not in common},
        'result': run.result,
      }
    )
    for run in runs
  ]
  text = json.dumps(head, indent=2)
  return text.removesuffix('\n}') + ',\n  "runs": [\n' + ',\n'.join(lines) + '\n  ]\n}\n'


def read(workdir: str) -> tuple[list[dict[str, Any]], list[RecordedRun]] | None:
  """Returns sweeps and runs of the `records.json` in `workdir`; None if there is none.

  Raises:
    ValueError: it is not what `dumps` writes.
  """
  path = os.path.join(workdir, NAME)
  if not files.exists(path):
    return None
  try:
    found = json.loads(files.read(path).decode())
    sweeps = [{**s, 'path': os.path.join(workdir, s['path'])} for s in found['sweeps']]
    runs = [
      RecordedRun(
        path=os.path.join(workdir, run['path']),
        status=run['status'],
        message=run['message'],
        config={**found['common'], **run['config']},
        result=run['result'],
        num_images=run['num_images'],
      )
      for run in found['runs']
    ]
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f'{path} is damaged: {error}') from error
  return sweeps, runs
