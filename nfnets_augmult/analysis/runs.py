"""Finished and unfinished runs read from their work directories, and the statistics over them."""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nfnets_augmult import configs
from nfnets_augmult.data.multiplicity import solve_batch, steps_for_epochs
from nfnets_augmult.training import records

LEARNING_RATE = 'optimizer.learning_rate'
TRAINING_LOSS = 'train_raw/raw/cross_entropy'  # of the raw images, without augmentation

# The paper takes the best 5 of 7 runs (Section 2).
_BEST, _OF = 5, 7
# What may differ between points of one picture; anything else makes another panel.
_VARIED = (
  *('seed', 'augmult', 'placement', 'dropout_masks'),
  *('total_epochs', 'total_steps', LEARNING_RATE),
  # These change where batches are made and what is watched, not what is computed.
  *('input', 'steps_per_dispatch', 'runs.seeds', 'runs.learning_rates'),
  *('evaluation.every_epochs', *configs.FREE_KEYS),
)


@dataclasses.dataclass(frozen=True)
class RecordedRun:
  """One run.

  Attributes:
    path: its work directory.
    status: `'finished'`, `'diverged'`, `'failed'`, `'unfinished'` or `'missing'`.
    message: why it diverged or failed.
    config: by dotted key; complete.
    result: the last evaluation, with `step` and `epoch`; empty unless finished.
    num_images: unique training images N; None if no run tells.
  """

  path: str
  status: str
  message: str
  config: Mapping[str, Any]
  result: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  num_images: int | None = None

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
  def seed(self) -> int:
    """The seed of the run."""
    return self.config['seed']

  @property
  def placement(self) -> str:
    """`'within'` or `'neighbouring'`."""
    return self.config['placement']

  @property
  def dropout_masks(self) -> int:
    """Dropout masks per sample, n of Figure 12."""
    return self.config['dropout_masks']

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

  @property
  def updates(self) -> int | None:
    """Parameter updates; None if the length is in epochs and N is not known."""
    if self.result:
      return self.result['step']
    if self.config['total_steps'] or not self.num_images:
      return self.config['total_steps'] or None
    return steps_for_epochs(
      self.config['total_epochs'],
      num_images=self.num_images,
      unique_images_per_batch=self.unique_images_per_batch,
      turns=self._batches_per_group,
    )

  @property
  def epochs(self) -> float | None:
    """Passes over the unique images; None if the length is in updates and N is not known."""
    if self.config['total_epochs']:
      return self.config['total_epochs']
    if self.result:
      return self.result['epoch']
    if not self.num_images:
      return None
    groups = self.config['total_steps'] / self._batches_per_group
    return groups * self.unique_images_per_batch / self.num_images

  @property
  def recorded_num_images(self) -> int | None:
    """Unique training images N, as recorded or else as follows from the result."""
    if self.num_images or not self.result:
      return self.num_images
    if not self.result['epoch']:
      return None
    groups = self.result['step'] / self._batches_per_group
    return round(groups * self.unique_images_per_batch / self.result['epoch'])

  @property
  def _batches_per_group(self) -> int:
    """Batches that share their unique images."""
    return self.augmult if self.placement == 'neighbouring' else 1

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
    status: `'measured'`, `'diverged'` or `'missing'`.
    num_missing: of `runs`: neither finished nor diverged.
  """

  runs: Sequence[RecordedRun]
  values: Sequence[float]
  status: str
  num_missing: int

  @property
  def mean(self) -> float:
    """Over `values`."""
    return float(np.mean(self.values))

  @property
  def standard_error(self) -> float | None:
    """Of the mean; None for a single run."""
    count = len(self.values)
    return float(np.std(self.values, ddof=1) / np.sqrt(count)) if count > 1 else None


def make_cell(runs: Sequence[RecordedRun], metric: str, *, smallest: bool = False) -> Cell:
  """Returns the statistics of runs that differ in their seed alone.

  Of 7 runs the best 5 count, as in the paper, and 2 may diverge. Of fewer than 7 all count, and
  none may diverge: then the cell has diverged. A run that several sweeps share counts once.

  Args:
    runs: at least one.
    metric: name in the records.
    smallest: whether small values are the best ones.
  """
  runs = [min(same, key=_unfinished_rank) for same in by(runs, 'seed').values()]
  found = [r.result[metric] for r in runs if r.result.get(metric) is not None]
  best = sorted(found, reverse=not smallest)
  diverged = sum(run.status == 'diverged' for run in runs)
  dropped = len(runs) * (_OF - _BEST) // _OF if len(runs) >= _OF else 0
  missing = len(runs) - len(found) - diverged
  if diverged > dropped:
    return Cell(runs, (), 'diverged', missing)
  return Cell(runs, best[: len(runs) - dropped], 'measured' if best else 'missing', missing)


def _unfinished_rank(run: RecordedRun) -> int:
  """What says most about a point comes first."""
  return {'finished': 0, 'diverged': 1}.get(run.status, 2)


def by(runs: Iterable[RecordedRun], *names: str) -> dict[Any, list[RecordedRun]]:
  """Returns the runs in groups that agree in the attributes `names`, in order of their values."""
  groups = group(runs, lambda run: tuple(getattr(run, name) for name in names))
  ordered = sorted(groups.items(), key=lambda item: _in_order_of_numbers(item[0]))
  return {key if len(names) > 1 else key[0]: same for key, same in ordered}


def group(
  runs: Iterable[RecordedRun], value: Callable[[RecordedRun], Any]
) -> dict[Any, list[RecordedRun]]:
  """Returns the runs in groups that agree in `value`, in the order in which these are met."""
  groups: dict[Any, list[RecordedRun]] = {}
  for run in runs:
    groups.setdefault(value(run), []).append(run)
  return groups


def _in_order_of_numbers(value: Any) -> Any:
  """A key for sorting in which 64 comes before 1024 also where both are text."""
  if isinstance(value, tuple):
    return tuple(_in_order_of_numbers(part) for part in value)
  try:
    return (0, float(value), '')
  except ValueError:
    return (1, 0.0, str(value))


def best_cell(runs: Sequence[RecordedRun], metric: str, *, smallest: bool = False) -> Cell:
  """Returns the cell at the best learning rate; one that is not measured if there is no other.

  Learning rates of which runs are still to come are set aside if others are complete: one lucky
  run would beat the mean of seven.
  """
  cells = [
    make_cell(group, metric, smallest=smallest) for group in by(runs, 'learning_rate').values()
  ]
  measured = [cell for cell in cells if cell.status == 'measured']
  if measured:
    least_missing = min(cell.num_missing for cell in measured)
    compared = [cell for cell in measured if cell.num_missing == least_missing]
    return (min if smallest else max)(compared, key=lambda cell: cell.mean)
  return min(cells, key=lambda cell: cell.status)  # 'diverged' before 'missing'


def is_at_edge(cell: Cell, runs: Sequence[RecordedRun]) -> bool:
  """Whether the learning rate of `cell` is the least or the largest that `runs` have tried."""
  rates = {run.learning_rate for run in runs if run.status in ('finished', 'diverged')}
  return len(rates) > 1 and cell.runs[0].learning_rate in (min(rates), max(rates))


def recorded_metrics(runs: Iterable[RecordedRun]) -> list[str]:
  """Returns the names of the accuracies that finished runs have recorded."""
  return sorted({name for run in runs for name in run.result if name.endswith('/top_1')})


# What a `sweep.json` must hold: what to run, and for a report what to say of it.
_TO_RUN = {'base': dict, 'points': dict}
_TO_REPORT = {'title': str, 'expected': str, 'metric': str, 'is_small': bool, 'published': list}


def inside(run: RecordedRun, folder: str) -> bool:
  """Whether the work directory of `run` lies below `folder`."""
  return os.path.abspath(run.path).startswith(os.path.join(os.path.abspath(folder), ''))


def read_sweeps(workdir: str) -> list[dict[str, Any]]:
  """Returns what the `sweep.json` files in and below `workdir` say, each with its `path`."""
  sweeps = []
  for folder, _, files in _walk(workdir):
    if 'sweep.json' in files:
      path = os.path.join(folder, 'sweep.json')
      sweep = records.read_object(path) or {}
      _check_sweep(sweep, path, _TO_RUN)
      sweeps.append({'path': folder, **sweep})
  return sweeps


def read_reported_sweeps(workdir: str) -> list[dict[str, Any]]:
  """As `read_sweeps`, with all that a report says of a sweep."""
  sweeps = read_sweeps(workdir)
  for sweep in sweeps:
    _check_sweep(sweep, os.path.join(sweep['path'], 'sweep.json'), _TO_REPORT)
  return sweeps


def _check_sweep(sweep: Mapping[str, Any], path: str, kinds: Mapping[str, type]) -> None:
  for key, kind in kinds.items():
    if not isinstance(sweep.get(key), kind):
      raise records.DamagedError(f'{path} is damaged: it has no {key}')


def read_runs(workdir: str) -> list[RecordedRun]:
  """Returns the runs in and below `workdir`, also those that a sweep there is still to start.

  Raises:
    ValueError: `workdir` is not a folder, or a record in it is damaged.
  """
  found: dict[str, Mapping[str, Any]] = {}
  for sweep in read_sweeps(workdir):
    for name, point in sweep['points'].items():
      found[os.path.join(sweep['path'], name)] = {**sweep['base'], **point}
  for folder, folders, files in _walk(workdir):
    config = records.read_json(os.path.join(folder, 'config.json'))
    if 'config.json' in files and isinstance(config, dict) and LEARNING_RATE in config:
      if config.get('runs.seeds') or config.get('runs.learning_rates'):
        continue  # its runs are in folders below it, see many_runs.py
      found[folder] = config
      folders.clear()  # checkpoints and events
  runs = [_read_run(path, configs.with_defaults(config)) for path, config in sorted(found.items())]
  # What one run tells of its data set holds for the others, which may not have begun.
  told = {_data_set(run): number for run in runs if (number := run.recorded_num_images)}
  return [dataclasses.replace(run, num_images=told.get(_data_set(run))) for run in runs]


def _data_set(run: RecordedRun) -> tuple[str, ...]:
  return tuple(run.config[f'dataset.{key}'] for key in ('name', 'data_dir', 'train_split'))


def _walk(workdir: str) -> Iterable[tuple[str, list[str], list[str]]]:
  if not os.path.isdir(workdir):
    raise ValueError(f'workdir={workdir!r} is not a folder')
  return os.walk(workdir)


def _read_run(path: str, config: Mapping[str, Any]) -> RecordedRun:
  status, message = records.read_status(path)
  result_path = os.path.join(path, 'result.json')
  result = records.read_object(result_path) or {}
  if result and not all(isinstance(result.get(key), int | float) for key in ('step', 'epoch')):
    raise records.DamagedError(f'{result_path} is damaged: it has no step and epoch; remove it')
  plan = (records.read_object(os.path.join(path, 'run.json')) or {}).get('plan')
  # Runs of before recorded their plan as text.
  recorded = plan.get('num_train_images') if isinstance(plan, dict) else None
  num_images = recorded if isinstance(recorded, int) else None
  return RecordedRun(path, status, message, config, result, num_images)
