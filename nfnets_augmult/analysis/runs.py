"""Finished and unfinished runs read from their work directories, and the statistics over them."""

import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nfnets_augmult.data.multiplicity import solve_batch
from nfnets_augmult.training import records

LEARNING_RATE = 'optimizer.learning_rate'
TRAINING_LOSS = 'train_raw/raw/cross_entropy'  # of the raw images, without augmentation

# The paper takes the best 5 of 7 runs (Section 2).
_BEST, _OF = 5, 7
# What may differ between points of one picture; anything else makes another panel. The last six
# change what is watched, not what is computed.
_VARIED = (
  *('seed', 'augmult', 'placement', 'dropout_masks'),
  *('total_epochs', 'total_steps', LEARNING_RATE),
  *('dataset.data_dir', 'dataset.allow_download', 'evaluation.batch_size'),
  *('checkpoint.every_steps', 'checkpoint.keep', 'log_every_steps'),
)


@dataclasses.dataclass(frozen=True)
class Run:
  """One run.

  Attributes:
    path: its work directory.
    status: `'finished'`, `'diverged'`, `'failed'`, `'unfinished'` or `'missing'`.
    message: why it diverged or failed.
    config: by dotted key.
    result: the last evaluation, with `step` and `epoch`; empty unless finished.
  """

  path: str
  status: str
  message: str
  config: Mapping[str, Any]
  result: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def augmult(self) -> int:
    """Augmented copies of each unique image, n."""
    return self._sizes[2]

  @property
  def unique_images_per_batch(self) -> int:
    """Unique images per batch, U."""
    return self._sizes[1]

  @property
  def batch_size(self) -> int:
    """Augmented samples per batch, B."""
    return self._sizes[0]

  @property
  def placement(self) -> str:
    """`'within'` or `'neighbouring'`."""
    return self.config['placement']

  @property
  def dropout_masks(self) -> int:
    """Dropout masks per sample, n of Figure 12; 1 also for runs from before this was a key."""
    return self.config.get('dropout_masks', 1)

  @property
  def learning_rate(self) -> float:
    """The peak of the schedule."""
    return self.config[LEARNING_RATE]

  @property
  def temperature(self) -> float:
    """Learning rate times n (Section 4)."""
    return self.learning_rate * self.augmult

  @property
  def budget(self) -> tuple[float, int]:
    """The length as the config states it: epochs or steps, the other 0."""
    return self.config['total_epochs'], self.config['total_steps']

  @functools.cached_property
  def panel(self) -> tuple[tuple[str, Any], ...]:
    """The keys and values that runs of one panel share."""
    items = ((key, value) for key, value in self.config.items() if key not in _VARIED)
    return tuple((key, str(value)) for key, value in sorted(items))

  @functools.cached_property
  def _sizes(self) -> tuple[int, int, int]:
    keys = ('batch_size', 'unique_images_per_batch', 'augmult', 'placement')
    return solve_batch(**{key: self.config[key] for key in keys})


@dataclasses.dataclass(frozen=True)
class Cell:
  """What the runs that differ in their seed alone say together.

  Attributes:
    runs: all of them.
    values: the metric of those that count.
    num_diverged: of `runs`.
    num_missing: of `runs`: neither finished nor diverged.
  """

  runs: Sequence[Run]
  values: Sequence[float]
  num_diverged: int
  num_missing: int

  @property
  def status(self) -> str:
    """`'measured'`, `'diverged'` or `'missing'`."""
    if self.values:
      return 'measured'
    return 'diverged' if self.num_diverged else 'missing'

  @property
  def mean(self) -> float:
    """Over `values`."""
    return float(np.mean(self.values))

  @property
  def standard_error(self) -> float | None:
    """Of the mean; None for a single run."""
    count = len(self.values)
    return float(np.std(self.values, ddof=1) / np.sqrt(count)) if count > 1 else None


def make_cell(runs: Sequence[Run], metric: str, *, smallest: bool = False) -> Cell:
  """Returns the statistics of runs that differ in their seed alone.

  Of 7 runs the best 5 count, as in the paper, and 2 may diverge. Of fewer than 7 all count, and
  none may diverge: then the cell has diverged.

  Args:
    runs: at least one.
    metric: name in the records.
    smallest: whether small values are the best ones.
  """
  found = sorted((r.result[metric] for r in runs if r.result.get(metric) is not None), reverse=True)
  diverged = sum(run.status == 'diverged' for run in runs)
  dropped = len(runs) * (_OF - _BEST) // _OF if len(runs) >= _OF else 0
  missing = len(runs) - len(found) - diverged
  best = (found[::-1] if smallest else found)[: len(runs) - dropped]
  return Cell(runs, () if diverged > dropped else best, diverged, missing)


def by(runs: Iterable[Run], *names: str) -> dict[Any, list[Run]]:
  """Returns the runs in groups that agree in the attributes `names`, in order of their values."""
  groups: dict[Any, list[Run]] = {}
  for run in runs:
    key = tuple(getattr(run, name) for name in names)
    groups.setdefault(key if len(names) > 1 else key[0], []).append(run)
  return dict(sorted(groups.items()))


def best_cell(runs: Sequence[Run], metric: str, *, smallest: bool = False) -> Cell:
  """Returns the cell at the best learning rate; one that is not measured if there is no other."""
  cells = [
    make_cell(group, metric, smallest=smallest) for group in by(runs, 'learning_rate').values()
  ]
  measured = [cell for cell in cells if cell.status == 'measured']
  if measured:
    return (min if smallest else max)(measured, key=lambda cell: cell.mean)
  return min(cells, key=lambda cell: cell.status)  # 'diverged' before 'missing'


def is_at_edge(cell: Cell, runs: Sequence[Run]) -> bool:
  """Whether the learning rate of `cell` is the least or the largest of `runs`."""
  rates = [run.learning_rate for run in runs]
  return len(set(rates)) > 1 and cell.runs[0].learning_rate in (min(rates), max(rates))


def updates(runs: Sequence[Run]) -> int | None:
  """Returns the number of updates of runs of one length; None if none is finished or says so."""
  known = [run.result['step'] for run in runs if run.result]
  return known[0] if known else runs[0].config['total_steps'] or None


def read_sweeps(workdir: str) -> list[dict[str, Any]]:
  """Returns what the `sweep.json` files in and below `workdir` say, each with its `path`."""
  sweeps = []
  for folder, _, files in _walk(workdir):
    if 'sweep.json' in files:
      sweeps.append({'path': folder, **records.read_json(os.path.join(folder, 'sweep.json'))})
  return sweeps


def read_runs(workdir: str) -> list[Run]:
  """Returns the runs in and below `workdir`, also those that a sweep there is still to start."""
  configs: dict[str, Mapping[str, Any]] = {}
  for sweep in read_sweeps(workdir):
    for name, point in sweep['points'].items():
      configs[os.path.join(sweep['path'], name)] = {**sweep['base'], **point}
  for folder, folders, files in _walk(workdir):
    if 'config.json' in files:
      configs[folder] = records.read_json(os.path.join(folder, 'config.json'))
      folders.clear()  # checkpoints and events
  return [_read_run(path, config) for path, config in sorted(configs.items())]


def _walk(workdir: str) -> Iterable[tuple[str, list[str], list[str]]]:
  if not os.path.isdir(workdir):
    raise ValueError(f'workdir={workdir!r} is not a folder')
  return os.walk(workdir)


def _read_run(path: str, config: Mapping[str, Any]) -> Run:
  status, message = records.read_status(path)
  result = records.read_json(os.path.join(path, 'result.json')) or {}
  return Run(path, status, message, config, result)
