"""Runs as their work directories record them, finished or not."""

import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping
from typing import Any

from nfnets_augmult import configs
from nfnets_augmult.data.multiplicity import steps_for_epochs
from nfnets_augmult.ops import files
from nfnets_augmult.training import records
from nfnets_augmult.training.plan import solve_batch

LEARNING_RATE = 'optimizer.learning_rate'
TRAINING_LOSS = 'train_raw/raw/cross_entropy'  # of the raw images, without augmentation

# Keys in which the runs of one panel of a figure may differ.
_KEYS_THAT_VARY = (
  *('seed', 'augmult', 'placement', 'dropout_masks'),
  *('total_epochs', 'total_steps', LEARNING_RATE),
  # Where batches are made and how often a run is evaluated do not change its result.
  *('input', 'steps_per_dispatch', *configs.RETIRED),
  *('evaluation.every_epochs', *configs.FREE_KEYS),
)


@dataclasses.dataclass(frozen=True)
class RecordedRun:
  """What is known of one run.

  Attributes:
    path: its work directory.
    status: `'finished'`, `'diverged'`, `'failed'`, `'unfinished'` or `'missing'`.
    message: why it diverged or failed.
    config: the value of every key, by dotted key.
    result: the last evaluation, with `step` and `epoch`; empty unless finished.
    num_images: unique training images N; None if no run on the data set has recorded it.
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
  def is_apart(self) -> bool:
    """Whether the copies of an image are in neighbouring batches; a single copy never is."""
    return self.augmult > 1 and self.placement == 'neighbouring'

  @property
  def copies(self) -> str:
    """The value of n, and where the copies are if not in the same batch: `'4 neighbouring'`."""
    return f'{self.augmult}{" neighbouring" * self.is_apart}'

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
    """The length of the run as the config states it, (epochs, steps); one of the two is 0."""
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
    """Unique training images N: as recorded, or else computed from the result."""
    if self.num_images or not self.result:
      return self.num_images
    if not self.result['epoch']:
      return None
    groups = self.result['step'] / self._batches_per_group
    return round(groups * self.unique_images_per_batch / self.result['epoch'])

  @property
  def _batches_per_group(self) -> int:
    """How many successive batches share their unique images."""
    return self.augmult if self.placement == 'neighbouring' else 1

  @functools.cached_property
  def panel(self) -> tuple[tuple[str, Any], ...]:
    """The keys and values that the runs of one panel of a figure share."""
    items = ((key, value) for key, value in self.config.items() if key not in _KEYS_THAT_VARY)
    return tuple((key, str(value)) for key, value in sorted(items))

  def is_inside(self, folder: str) -> bool:
    """Whether the work directory of the run is below `folder`."""
    return os.path.abspath(self.path).startswith(os.path.join(os.path.abspath(folder), ''))

  @functools.cached_property
  def _sizes(self) -> tuple[int, int, int]:
    keys = ('batch_size', 'unique_images_per_batch', 'augmult', 'placement')
    return solve_batch(**{key: self.config[key] for key in keys})


# The types of what a `sweep.json` must hold: what to run, and what a report says about it.
_TO_RUN = {'base': dict, 'points': dict}
_TO_REPORT = {'title': str, 'expected': str, 'metric': str, 'is_small': bool, 'published': list}


def read_sweeps(workdir: str) -> list[dict[str, Any]]:
  """Returns the `sweep.json` files in and below `workdir`, each with the `path` of its folder."""
  sweeps = []
  for folder, _, names in _walk(workdir):
    if 'sweep.json' in names:
      path = os.path.join(folder, 'sweep.json')
      sweep = records.read_object(path) or {}
      _check_sweep(sweep, path, _TO_RUN)
      sweeps.append({'path': folder, **sweep})
  return sweeps


def read_reported_sweeps(workdir: str) -> list[dict[str, Any]]:
  """As `read_sweeps`, and checks that each has what a report says about a sweep."""
  sweeps = read_sweeps(workdir)
  for sweep in sweeps:
    _check_sweep(sweep, os.path.join(sweep['path'], 'sweep.json'), _TO_REPORT)
  return sweeps


def _check_sweep(sweep: Mapping[str, Any], path: str, kinds: Mapping[str, type]) -> None:
  for key, kind in kinds.items():
    if not isinstance(sweep.get(key), kind):
      raise records.DamagedError(f'{path} is damaged: it has no {key}')


def read_runs(workdir: str) -> list[RecordedRun]:
  """Returns the runs in and below `workdir`, and those that its sweeps have not started yet.

  Raises:
    ValueError: `workdir` is not a folder, or a record in it is damaged.
  """
  found: dict[str, Mapping[str, Any]] = {}
  for sweep in read_sweeps(workdir):
    for name, point in sweep['points'].items():
      found[os.path.join(sweep['path'], name)] = {**sweep['base'], **point}
  for folder, folders, names in _walk(workdir):
    config = 'config.json' in names and records.read_json(os.path.join(folder, 'config.json'))
    if isinstance(config, dict) and LEARNING_RATE in config:
      if any(config.get(key) for key in configs.RETIRED):
        continue  # of runs that an earlier version trained together, in folders below
      found[folder] = config
      folders.clear()  # checkpoints and events
  runs = [_read_run(path, configs.with_defaults(config)) for path, config in sorted(found.items())]
  # A run that has not started yet takes N from another one on the same data set.
  known = {_data_set(run): number for run in runs if (number := run.recorded_num_images)}
  return [dataclasses.replace(run, num_images=known.get(_data_set(run))) for run in runs]


def _data_set(run: RecordedRun) -> tuple[str, ...]:
  return tuple(run.config[f'dataset.{key}'] for key in ('name', 'data_dir', 'train_split'))


def _walk(workdir: str) -> Iterable[tuple[str, list[str], list[str]]]:
  if not files.is_dir(workdir):
    raise ValueError(f'workdir={workdir!r} is not a folder')
  return files.walk(workdir)


def _read_run(path: str, config: Mapping[str, Any]) -> RecordedRun:
  status, message = records.read_status(path)
  result_path = os.path.join(path, 'result.json')
  result = records.read_object(result_path) or {}
  if result and not all(isinstance(result.get(key), int | float) for key in ('step', 'epoch')):
    raise records.DamagedError(f'{result_path} is damaged: it has no step and epoch; remove it')
  plan = (records.read_object(os.path.join(path, 'run.json')) or {}).get('plan')
  # Older versions recorded the plan as text.
  recorded = plan.get('num_train_images') if isinstance(plan, dict) else None
  num_images = recorded if isinstance(recorded, int) else None
  return RecordedRun(path, status, message, config, result, num_images)
