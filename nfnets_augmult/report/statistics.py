"""Groups of runs, and the statistics over them: the best runs, at the best learning rate."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from nfnets_augmult.report.recorded_runs import RecordedRun

# The paper takes the best 5 of 7 runs (Section 2).
_BEST_RUNS, _ALL_RUNS = 5, 7


@dataclasses.dataclass(frozen=True)
class Cell:
  """A point of a curve: statistics over runs that differ in their seed alone.

  Attributes:
    runs: all of these runs.
    values: the metric of those that count.
    status: `'measured'`, `'diverged'` or `'missing'`.
    num_missing: how many of `runs` have neither finished nor diverged.
  """

  runs: Sequence[RecordedRun]
  values: Sequence[float]
  status: str
  num_missing: int

  @property
  def num_done(self) -> int:
    """How many of `runs` have finished or diverged."""
    return len(self.runs) - self.num_missing

  @property
  def mean(self) -> float:
    """Mean of `values`."""
    return float(np.mean(self.values))

  @property
  def standard_error(self) -> float | None:
    """Standard error of the mean; None for a single run."""
    count = len(self.values)
    return float(np.std(self.values, ddof=1) / np.sqrt(count)) if count > 1 else None


def make_cell(runs: Sequence[RecordedRun], metric: str, *, smallest: bool = False) -> Cell:
  """Returns the statistics over runs that differ in their seed alone.

  Of 7 runs the best 5 count (Section 2), and up to 2 may diverge. Of fewer than 7 all count, and
  if any of them diverges the cell has diverged. A run that several sweeps share counts once.

  Args:
    runs: at least one.
    metric: its name in the records.
    smallest: whether the smallest values are the best ones.
  """
  runs = [min(same, key=_unfinished_rank) for same in group_by_attributes(runs, 'seed').values()]
  found = [r.result[metric] for r in runs if r.result.get(metric) is not None]
  best = sorted(found, reverse=not smallest)
  diverged = sum(run.status == 'diverged' for run in runs)
  dropped = len(runs) * (_ALL_RUNS - _BEST_RUNS) // _ALL_RUNS if len(runs) >= _ALL_RUNS else 0
  missing = len(runs) - len(found) - diverged
  if diverged > dropped:
    return Cell(runs, (), 'diverged', missing)
  return Cell(runs, best[: len(runs) - dropped], 'measured' if best else 'missing', missing)


def _unfinished_rank(run: RecordedRun) -> int:
  """Sorts finished runs before diverged ones, and these before all others."""
  return {'finished': 0, 'diverged': 1}.get(run.status, 2)


def group_by(
  runs: Iterable[RecordedRun], key: Callable[[RecordedRun], Any]
) -> dict[Any, list[RecordedRun]]:
  """Returns the runs by the value of `key`, values in the order in which they first occur."""
  groups: dict[Any, list[RecordedRun]] = {}
  for run in runs:
    groups.setdefault(key(run), []).append(run)
  return groups


def group_by_attributes(runs: Iterable[RecordedRun], *names: str) -> dict[Any, list[RecordedRun]]:
  """Returns the runs by the values of these attributes, in increasing order of the values.

  The keys are tuples; with a single name, plain values.
  """
  groups = group_by(runs, lambda run: tuple(getattr(run, name) for name in names))
  ordered = sorted(groups.items(), key=lambda item: _sort_key(item[0]))
  return {key if len(names) > 1 else key[0]: same for key, same in ordered}


def group_by_setting(runs: Iterable[RecordedRun]) -> list[list[RecordedRun]]:
  """Returns the runs in groups that differ in nothing but learning rate and seed."""
  names = ('panel', 'augmult', 'dropout_masks', 'placement', 'budget')
  return list(group_by_attributes(runs, *names).values())


def _sort_key(value: Any) -> Any:
  """Numbers in numerical order before other text, also where they are strings: '64' < '1024'."""
  if isinstance(value, tuple):
    return tuple(_sort_key(part) for part in value)
  try:
    return (0, float(value), '')
  except ValueError:
    return (1, 0.0, str(value))


def best_cell(runs: Sequence[RecordedRun], metric: str, *, smallest: bool = False) -> Cell:
  """Returns the cell at the best learning rate; one that is not measured if there is no other.

  Learning rates with fewer runs that are done than others are left out: one lucky run would beat
  the mean of seven.
  """
  by_learning_rate = group_by_attributes(runs, 'learning_rate')
  cells = [make_cell(group, metric, smallest=smallest) for group in by_learning_rate.values()]
  measured = [cell for cell in cells if cell.status == 'measured']
  if measured:
    most_done = max(cell.num_done for cell in measured)
    compared = [cell for cell in measured if cell.num_done == most_done]
    return (min if smallest else max)(compared, key=lambda cell: cell.mean)
  return min(cells, key=lambda cell: cell.status)  # 'diverged' before 'missing'


def is_at_edge(cell: Cell, runs: Sequence[RecordedRun]) -> bool:
  """Whether the learning rate of `cell` is the smallest or the largest that `runs` have tried."""
  rates = {run.learning_rate for run in runs if run.status in ('finished', 'diverged')}
  return len(rates) > 1 and cell.runs[0].learning_rate in (min(rates), max(rates))


def recorded_metrics(runs: Iterable[RecordedRun]) -> list[str]:
  """Returns the names of the top-1 accuracies that finished runs have recorded."""
  return sorted({name for run in runs for name in run.result if name.endswith('/top_1')})
