"""The arithmetic of a run: growing and fixed batch, epochs, steps, temperature, cadence.

These numbers are easily confused, so they are derived once, here, and printed.
"""

import dataclasses

from nfnets_augmult.data.multiplicity import MAX_AUGMULT, MAX_EPOCHS, PLACEMENTS, Multiplicity
from nfnets_augmult.ops.checks import LARGEST_COUNT, check_choice, check_int, check_number
from nfnets_augmult.optim.schedules import MOST_STEPS


@dataclasses.dataclass(frozen=True)
class Cadence:
  """How often things happen, in steps.

  Attributes:
    log: a record of the training loss and accuracy, averaged since the last.
    save: a checkpoint.
    evaluate: an evaluation, besides the one after the last step.
  """

  log: int = 50
  save: int = 1000
  evaluate: int = 1000

  def __post_init__(self):
    for name, steps in dataclasses.asdict(self).items():
      check_int(name, steps, least=1)

  def next_stop(self, step: int) -> int:
    """Returns the first step after `step` at which to log, save or evaluate."""
    return min((step // every + 1) * every for every in (self.log, self.save, self.evaluate))


@dataclasses.dataclass(frozen=True)
class Plan:
  """What follows from a config, a data set and a number of devices.

  Attributes:
    multiplicity: N, U, n, B and the placement.
    total_steps: parameter updates of the run.
    learning_rate: the peak of the schedule.
    host_count: number of hosts.
    device_count: devices over all hosts.
    cadence: how often to log, save and evaluate.
  """

  multiplicity: Multiplicity
  total_steps: int
  learning_rate: float
  host_count: int = 1
  device_count: int = 1
  cadence: Cadence = Cadence()

  @property
  def batch_size_per_host(self) -> int:
    """Augmented samples per step on one host."""
    return self.multiplicity.batch_size // self.host_count

  @property
  def batch_size_per_device(self) -> int:
    """Augmented samples per step on one device."""
    return self.multiplicity.batch_size // self.device_count

  @property
  def total_epochs(self) -> float:
    """Passes over the unique training images in the whole run."""
    return self.total_steps / self.multiplicity.steps_per_epoch

  @property
  def temperature(self) -> float:
    """Peak learning rate times n; governs test accuracy at fixed batch size (paper, Section 4)."""
    return self.learning_rate * self.multiplicity.augmult

  def epoch(self, step: int) -> float:
    """Passes over the unique training images completed after `step` updates."""
    return step / self.multiplicity.steps_per_epoch

  def is_evaluation_due(self, step: int) -> bool:
    """Whether to evaluate at `step`: regularly and after the last step, but not shortly before."""
    left, every = self.total_steps - step, self.cadence.evaluate
    return left == 0 or (step > 0 and step % every == 0 and 2 * left >= every)

  def to_json(self) -> dict[str, int | float | str]:
    """Returns the plan as numbers, for `run.json`."""
    m = self.multiplicity
    return {
      'num_train_images': m.num_images,
      'augmult': m.augmult,
      'placement': m.placement,
      'unique_images_per_batch': m.unique_images_per_batch,
      'copies_per_batch': m.copies_per_batch,
      'batch_size': m.batch_size,
      'batch_size_per_host': self.batch_size_per_host,
      'batch_size_per_device': self.batch_size_per_device,
      'num_hosts': self.host_count,
      'num_devices': self.device_count,
      'steps_per_epoch': m.steps_per_epoch,
      'total_steps': self.total_steps,
      'total_epochs': self.total_epochs,
      'peak_learning_rate': self.learning_rate,
      'peak_temperature': self.temperature,
    }

  def rows(self) -> list[tuple[str, str]]:
    """Returns the numbers to print before the run, as (name, value with its unit)."""
    m = self.multiplicity
    scheme = {
      'within': 'all n copies of an image in the same batch',
      'neighbouring': 'one copy of an image per batch, in n successive batches',
    }[m.placement]
    epoch = 'one pass over the unique images'
    if m.labels is not None:
      epoch = f'{m.num_images:,} images, of every class equally many'
    return [
      ('augmentation multiplicity n', f'{m.augmult} copies of each unique image'),
      ('placement', f'{m.placement}: {scheme}'),
      ('unique images per batch U', f'{m.unique_images_per_batch:,}'),
      (
        'batch size B',
        f'{m.batch_size:,} augmented samples per step'
        f' = {m.unique_images_per_batch:,} unique images x {m.copies_per_batch}',
      ),
      ('batch size per host', f'{self.batch_size_per_host:,} on each of {self.host_count}'),
      ('batch size per device', f'{self.batch_size_per_device:,} on each of {self.device_count}'),
      (
        'steps per epoch',
        f'{m.steps_per_epoch:,.2f} (an epoch is {epoch})',
      ),
      ('total', f'{self.total_steps:,} steps = {self.total_epochs:,.2f} epochs'),
      ('learning rate', f'{self.learning_rate:g} (peak)'),
      ('temperature', f'{self.temperature:g} = learning rate x n'),
    ]


def solve_batch(
  *,
  batch_size: int | None,
  unique_images_per_batch: int | None,
  augmult: int | None,
  placement: str = 'within',
) -> tuple[int, int, int]:
  """Returns `(batch_size, unique_images_per_batch, augmult)` from any two of them.

  Stating `batch_size` and `augmult` is the paper's fixed batch (Section 3); stating
  `unique_images_per_batch` and `augmult` its growing batch (Section 2). With `within`,
  `batch_size = unique_images_per_batch * augmult`; with `neighbouring` the two sizes are equal.

  Args:
    batch_size: B, augmented samples per step over all devices, or None (or 0) to derive it.
    unique_images_per_batch: U, or None (or 0).
    augmult: n, or None (or 0).
    placement: `'within'` or `'neighbouring'`.

  Raises:
    ValueError: fewer than two are given, or they contradict each other; the message names the
      arguments and a way out.

  Example:
    >>> from nfnets_augmult import solve_batch
    >>> solve_batch(batch_size=64, augmult=4, unique_images_per_batch=None)
    (64, 16, 4)
    >>> solve_batch(batch_size=None, augmult=4, unique_images_per_batch=64)
    (256, 64, 4)
  """
  check_choice('placement', placement, PLACEMENTS)
  given = {
    'batch_size': batch_size or None,
    'unique_images_per_batch': unique_images_per_batch or None,
    'augmult': augmult or None,
  }
  # 0 stands for what the other two determine.
  for key, value in given.items():
    if value is not None:
      check_int(key, value, most=MAX_AUGMULT if key == 'augmult' else LARGEST_COUNT)
  missing = [key for key, value in given.items() if value is None]
  if len(missing) > 1:
    stated = ', '.join(f'{key}={value or 0}' for key, value in given.items())
    raise ValueError(
      f'{stated}: state two of the three, at least 1 each, and the third follows '
      '(augmult=1 is ordinary training)'
    )
  size, unique, n = given['batch_size'], given['unique_images_per_batch'], given['augmult']
  if placement == 'neighbouring':
    if n is None:
      raise ValueError('placement=neighbouring needs augmult: its batches do not show it')
    if size and unique and size != unique:
      raise ValueError(
        f'batch_size={size} and unique_images_per_batch={unique} must be equal with '
        'placement=neighbouring, which puts one copy of an image in a batch; leave one of them out'
      )
    return size or unique, unique or size, n
  if size is None:
    check_int('unique_images_per_batch * augmult', unique * n, least=1)
    return unique * n, unique, n
  divisor = ('augmult', n) if n is not None else ('unique_images_per_batch', unique)
  key, value = divisor
  if value > size:
    raise ValueError(
      f'{key}={value} is larger than batch_size={size}; lower it or raise batch_size'
    )
  if size % value:
    below = size // value * value
    raise ValueError(
      f'{key}={value} does not divide batch_size={size}; use batch_size {below} or {below + value}'
      + (', or set unique_images_per_batch and leave batch_size out' if key == 'augmult' else '')
    )
  if n is not None and unique is not None and unique * n != size:
    raise ValueError(
      f'batch_size={size} is not unique_images_per_batch * augmult = {unique} * {n} = '
      f'{unique * n}; state two of the three and set the other to 0, which derives it'
    )
  return size, unique or size // n, n or size // unique


def check_length(*, total_epochs: float, total_steps: int) -> None:
  """Raises ValueError unless exactly one of the two is above 0, and the other is 0."""
  check_number('total_epochs', total_epochs, least=0, most=MAX_EPOCHS)
  check_int('total_steps', total_steps, most=MOST_STEPS)
  if bool(total_epochs) == bool(total_steps):
    raise ValueError(
      f'total_epochs={total_epochs} and total_steps={total_steps} state the length of the run: '
      'exactly one of them must be above 0'
    )


def make_plan(
  multiplicity: Multiplicity,
  *,
  learning_rate: float,
  total_epochs: float = 0,
  total_steps: int = 0,
  host_count: int = 1,
  device_count: int = 1,
  log_every_steps: int = 50,
  save_every_steps: int = 1000,
  evaluate_every_epochs: float = 1.0,
) -> Plan:
  """Returns the plan of a run whose length is given in epochs or in steps.

  Args:
    multiplicity: N, U, n, B and the placement.
    learning_rate: the peak of the schedule.
    total_epochs: length of the run; or
    total_steps: length of the run.
    host_count: number of hosts.
    device_count: devices over all hosts.
    log_every_steps: how often a record of the training loss is written.
    save_every_steps: how often a checkpoint is written.
    evaluate_every_epochs: how often the run is evaluated, besides after the last step.

  Raises:
    ValueError: not exactly one length, or hosts or devices do not divide the batch.
  """
  check_length(total_epochs=total_epochs, total_steps=total_steps)
  size = multiplicity.batch_size
  for key, count in (('hosts', host_count), ('devices', device_count)):
    if size % count:
      below = size // count * count
      raise ValueError(
        f'{count} {key} do not divide batch_size={size}; use '
        + ' or '.join(str(choice) for choice in (below, below + count) if choice)
      )
  steps = total_steps or multiplicity.steps_for_epochs(total_epochs)
  stated = f'total_steps={total_steps}' if total_steps else f'total_epochs={total_epochs}'
  if not 1 <= steps <= MOST_STEPS:
    raise ValueError(f'{stated} makes {steps:,} steps; there must be from 1 to {MOST_STEPS:,}')
  evaluate = max(1, round(min(evaluate_every_epochs * multiplicity.steps_per_epoch, steps)))
  plan = Plan(
    multiplicity,
    steps,
    learning_rate,
    host_count,
    device_count,
    Cadence(log_every_steps, save_every_steps, evaluate),
  )
  # The last batch may begin another epoch.
  if plan.total_epochs > MAX_EPOCHS - 1:
    raise ValueError(
      f'{stated} makes {plan.total_epochs:,.0f} epochs; a run has at most {MAX_EPOCHS - 1:,}'
    )
  return plan
