"""Finds out how large the learning rate of a run can be, before it is trained.

    python -m nfnets_augmult.find_learning_rate --config=experiments/quickstart_digits.py
        [--workdir=DIR] [--config.KEY=VALUE ...] [--seeds=3] [--ramp_steps=300] [--check_steps=200]
        [--lowest=1e-4] [--highest=10] [--safety=2]

The steps are those of the real run: its data, batches, n, model, clipping and SAM. For every seed
the learning rate first rises exponentially; short trainings with the schedule of the run follow,
at learning rates that differ by factors of 2. Prints the largest one that is stable for all seeds,
a suggestion below it and what the paper says about other n; leaves `learning_rate.json` and
`learning_rate.png` in the work directory, by default `runs/NAME-find_learning_rate`.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags, logging

from nfnets_augmult import assembly, configs, train
from nfnets_augmult.analysis import learning_rate_figure
from nfnets_augmult.data.sources import BadDataError
from nfnets_augmult.ops import checks, paths
from nfnets_augmult.training import learning_rate_finder as finder
from nfnets_augmult.training import records
from nfnets_augmult.training.checkpoints import CheckpointError

JSON_NAME, PICTURE_NAME = 'learning_rate.json', 'learning_rate.png'


@dataclasses.dataclass(frozen=True)
class Findings:
  """What was found about a config.

  Attributes:
    facts: the plan of the run and the settings of the search, JSON values.
    ramps: one per seed.
    checks: of all seeds, in the order they were made.
    largest_stable: by seed; None where none of the learning rates checked was stable.
    safety: factor between the largest stable learning rate and the suggestion, at least.
  """

  facts: dict[str, Any]
  ramps: Sequence[finder.Ramp]
  checks: Sequence[finder.Check]
  largest_stable: dict[int, float | None]
  safety: float

  @property
  def stable_for_all(self) -> float | None:
    """The largest learning rate that is stable for all seeds, or None."""
    values = list(self.largest_stable.values())
    return None if None in values else min(values)

  @property
  def smallest_unstable(self) -> float | None:
    """The smallest learning rate above it at which some seed was not; None if there is none."""
    largest = self.stable_for_all or 0.0
    above = (c.learning_rate for c in self.checks if not c.is_stable and c.learning_rate > largest)
    return min(above, default=None)

  @property
  def suggestion(self) -> float | None:
    """A learning rate with room above it, or None if there is nothing to go by.

    Of those that are at most the largest stable one divided by `safety` and were checked with every
    seed, the one that had learned most: what is stable need not be fast.
    """
    if self.stable_for_all is None:
      return None
    most = self.stable_for_all / self.safety
    losses = finder.mean_last_losses(self.checks, seeds=len(self.ramps))
    safe = {rate: loss for rate, loss in losses.items() if rate <= most}
    return min(safe, key=safe.__getitem__, default=most)

  def to_json(self) -> dict[str, Any]:
    """Returns everything as JSON values; losses that are not finite are null."""
    return {
      **self.facts,
      'largest_stable': self.stable_for_all,
      'smallest_unstable': self.smallest_unstable,
      'suggestion': self.suggestion,
      'safety': self.safety,
      'largest_stable_by_seed': {str(seed): rate for seed, rate in self.largest_stable.items()},
      'ramps': [
        {
          'seed': ramp.seed,
          'learning_rates': [float(f'{rate:.5g}') for rate in ramp.learning_rates],
          'losses': [_json_number(loss) for loss in ramp.losses],
          'initial_loss': _json_number(ramp.initial_loss),
          'limit': _json_number(ramp.limit),
          'breakdown': ramp.breakdown,
        }
        for ramp in self.ramps
      ],
      'checks': [
        dataclasses.asdict(check)
        | {key: _json_number(getattr(check, key)) for key in ('highest_loss', 'last_loss')}
        for check in self.checks
      ],
    }


def find(
  config: ml_collections.ConfigDict,
  *,
  seeds: int = 3,
  ramp_steps: int = 300,
  check_steps: int = 200,
  lowest: float = 1e-4,
  highest: float = 10.0,
  safety: float = 2.0,
) -> Findings:
  """Returns what short trainings of the run that `config` describes say about its learning rate.

  Writes nothing. The seeds are the config's and those that follow it.

  Args:
    config: of one run; the peak learning rate in it is the origin of the grid that is checked.
    seeds: how many, at least 1.
    ramp_steps: length of a ramp, at least 30.
    check_steps: length of a check, at least 30, or the whole run if that is shorter. A warm-up of
      more than half of it is shortened to half of it.
    lowest: where the ramp starts.
    highest: where it ends; nothing larger is checked.
    safety: at least 1, see `Findings.suggestion`.

  Raises:
    ValueError: the config or an argument is out of range; the message names it.
    BadDataError: an image does not decode, and the policy is to fail.
  """
  check_settings(
    seeds=seeds,
    ramp_steps=ramp_steps,
    check_steps=check_steps,
    lowest=lowest,
    highest=highest,
    safety=safety,
  )
  run = train.prepare(config, '')
  check_steps = min(check_steps, run.plan.total_steps)
  trainer = Trainer(run, max_steps=max(ramp_steps, check_steps))
  ramp_rates = np.geomspace(lowest, highest, ramp_steps)
  ramps, checkers, all_checks, largest_stable = [], {}, [], {}
  for seed in range(config.seed, config.seed + seeds):
    ramp = finder.make_ramp(trainer.train, seed, ramp_rates)
    logging.info('seed %d: %s', seed, _describe_ramp(ramp))
    # A ramp flatters: it gets to large learning rates with a network that is trained already.
    start = (ramp.breakdown or highest) / finder.FACTOR**2
    checkers[seed] = _checker(trainer, ramp, check_steps)
    largest_stable[seed], made = finder.find_largest_stable(
      checkers[seed],
      start=finder.nearest_on_grid(max(start, lowest), origin=config.optimizer.learning_rate),
      low=lowest,
      high=highest,
    )
    ramps.append(ramp)
    all_checks += made
  if None not in largest_stable.values():
    below = finder.largest_on_grid(
      min(largest_stable.values()) / safety, origin=config.optimizer.learning_rate
    )
    all_checks = finder.lower_while_faster(checkers, all_checks, start=below, low=lowest)
  return Findings(
    facts=_facts(run, ramp_steps=ramp_steps, check_steps=check_steps),
    ramps=ramps,
    checks=all_checks,
    largest_stable=largest_stable,
    safety=safety,
  )


def check_settings(
  *,
  seeds: int,
  ramp_steps: int,
  check_steps: int,
  lowest: float,
  highest: float,
  safety: float,
) -> None:
  """Raises ValueError if an argument of `find` is out of its range; the message names the flag."""
  checks.check_int('--seeds', seeds, least=1, most=1000)
  for name, steps in (('--ramp_steps', ramp_steps), ('--check_steps', check_steps)):
    checks.check_int(name, steps, least=3 * finder.WINDOW, most=10**6)
  checks.check_number('--lowest', lowest, above=0)
  checks.check_number('--highest', highest, above=lowest)
  checks.check_number('--safety', safety, least=1)


class Trainer:
  """Trains any seed with any learning rates in one compiled program."""

  def __init__(self, run: train.Run, *, max_steps: int):
    self.run = run
    self._max_steps = max_steps
    config, network, plan = run.config, run.network, run.plan

    def train_step(state: Any, batch: Any, key_and_rates: tuple[jax.Array, jax.Array]) -> Any:
      key, rates = key_and_rates
      step, _ = assembly.make_train_step(config, network, plan, schedule=lambda s: rates[s])
      return step(state, batch, key)

    long_enough = dataclasses.replace(plan, total_steps=max_steps)
    self._restart = assembly.make_restartable(config, run.data, long_enough, train_step)

  def train(self, seed: int, learning_rates: np.ndarray, is_over: Any) -> np.ndarray:
    """See `learning_rate_finder.Train`."""
    run = self.run
    config = run.config.copy_and_resolve_references()
    config.seed = seed
    table = np.full(self._max_steps, learning_rates[-1], np.float32)
    table[: len(learning_rates)] = learning_rates
    state, _ = assembly.first_state(
      run.network, run.initial_params, assembly.parameters_key(config)
    )
    advance = self._restart(
      (assembly.steps_key(config), table),
      multiplicity=dataclasses.replace(run.plan.multiplicity, seed=seed),
      start_step=0,
    )
    return finder.collect_losses(advance, state, steps=len(learning_rates), is_over=is_over)


def _checker(trainer: Trainer, ramp: finder.Ramp, steps: int) -> Callable[[float], finder.Check]:
  """Returns what checks a peak learning rate with the seed of a ramp."""
  run, best_loss = trainer.run, ramp.best[1]

  def check(peak: float) -> finder.Check:
    nonlocal best_loss
    made = finder.make_check(
      trainer.train,
      ramp,
      peak,
      schedule_of(run, peak, steps),
      num_classes=len(run.data.train.class_names),
      best_loss=best_loss,
    )
    best_loss = min(best_loss, made.last_loss)
    said = made.problem or f'stable, loss {made.last_loss:.3g} after {made.steps} steps'
    logging.info('seed %d, learning rate %.4g: %s', ramp.seed, peak, said)
    return made

  return check


def schedule_of(run: train.Run, peak: float, steps: int) -> np.ndarray:
  """Returns the run's learning rates for its first steps, float64 `[steps]`, with another peak.

  A warm-up of more than half of the steps is shortened to half of them.
  """
  config = run.config.copy_and_resolve_references()
  config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, steps // 2)
  schedule = assembly.make_schedule(config, run.plan, peak=peak)
  return np.asarray(jax.vmap(schedule)(jnp.arange(steps)), np.float64)


def _facts(run: train.Run, *, ramp_steps: int, check_steps: int) -> dict[str, Any]:
  """What the findings are about."""
  config, plan = run.config, run.plan
  multiplicity = plan.multiplicity
  return {
    'model': config.model.name,
    'dataset': config.dataset.name,
    'image_size': run.data.image_shape[0],
    'augmult': multiplicity.augmult,
    'batch_size': multiplicity.batch_size,
    'unique_images_per_batch': multiplicity.unique_images_per_batch,
    'is_batch_size_fixed': bool(config.batch_size),
    'learning_rate': plan.learning_rate,
    'warmup_steps': config.optimizer.warmup_steps,
    'warmup_steps_of_checks': min(config.optimizer.warmup_steps, check_steps // 2),
    'ramp_steps': ramp_steps,
    'check_steps': check_steps,
    'config': configs.flatten(config),
    'versions': records.versions(),
  }


def _describe_ramp(ramp: finder.Ramp) -> str:
  rate, loss = ramp.best
  lowest = f'lowest loss {loss:.3g} at learning rate {rate:.3g}'
  if ramp.breakdown is None:
    return f'no breakdown up to learning rate {ramp.learning_rates[-1]:.3g}, {lowest}'
  return f'the ramp breaks down at learning rate {ramp.breakdown:.3g}, {lowest}'


def report(findings: Findings) -> str:
  """Returns what there is to say to a person, a few lines."""
  facts, augmult = findings.facts, findings.facts['augmult']
  own, largest = facts['learning_rate'], findings.stable_for_all
  if largest is None:
    smallest = min(check.learning_rate for check in findings.checks)
    return (
      f'No learning rate down to {smallest:g} is stable for every seed. Is the model initialized '
      'as it should be? Adaptive gradient clipping (optimizer.clipping=0.1) or a warm-up '
      '(optimizer.warmup_steps) may help.'
    )
  next_one = findings.smallest_unstable
  above = f'; {next_one:g} is not' if next_one else '; nothing larger was tried'
  lines = [
    f'largest stable learning rate  {largest:g} for all of {len(findings.ramps)} seed(s){above}',
    f'  {_agreement(findings)}',
    f'suggestion                    {findings.suggestion:.3g}, a factor of '
    f'{largest / findings.suggestion:.2g} below',
    f'temperature there             {findings.suggestion * augmult:.3g} = learning rate x n, '
    f'n = {augmult}',
    f'the config has                {own:g}: {_margin(own, largest)}',
  ]
  if facts['warmup_steps_of_checks'] < facts['warmup_steps']:
    lines.append(
      f'  (warm-up of {facts["warmup_steps"]:,} steps, shortened to '
      f'{facts["warmup_steps_of_checks"]:,} for the checks)'
    )
  return '\n'.join([*lines, '', *_other_n(findings)])


def _agreement(findings: Findings) -> str:
  values = findings.largest_stable
  if len(values) == 1:
    return 'one seed says nothing about others: --seeds=3 or more tells how far they agree'
  ratio = max(values.values()) / min(values.values())
  each = ', '.join(f'{seed}: {rate:g}' for seed, rate in values.items())
  if ratio == 1:
    return f'the seeds agree ({each})'
  return f'the seeds differ by a factor of up to {ratio:g} ({each})'


def _margin(own: float, largest: float) -> str:
  if own > largest:
    return f'{own / largest:.3g} times the largest stable one, too large'
  room = f'the largest stable one is {largest / own:.3g} times that'
  return room if largest >= 2 * own else f'{room}, too little room'


def _other_n(findings: Findings) -> list[str]:
  """What the paper says about a change of n from here."""
  facts, rate = findings.facts, findings.suggestion
  n = facts['augmult']
  if not facts['is_batch_size_fixed']:
    return [
      'Another n with the number of unique images fixed (a growing batch): larger n are stable at',
      'larger learning rates, and gain most there (paper, Section 2, Figure 2c). Measure again.',
    ]
  other = 2 * n
  return [
    f'Another n at batch size {facts["batch_size"]:,}: runs at equal temperature are alike as long '
    'as it is small',
    f'(paper, Section 4, Figure 7); n = {other} has this temperature at learning rate '
    f'{rate * n / other:.3g}. Larger n',
    'stay stable at higher temperatures. In large batches the best learning rate hardly depends on',
    'n, in small ones it falls as n rises (Figure 6). Tune by factors of 2 from here.',
  ]


def _json_number(value: float) -> float | None:
  return float(f'{value:.5g}') if math.isfinite(value) else None


def main() -> None:
  """Reads the flags, searches, prints, draws and writes."""
  args = flags.FLAGS
  workdir = (
    args.workdir or f'{train.default_workdir(command_line.config_path())}-find_learning_rate'
  )
  command_line.check_devices()
  try:
    paths.check_writable('--workdir', workdir)
    findings = find(
      args.config,
      seeds=args.seeds,
      ramp_steps=args.ramp_steps,
      check_steps=args.check_steps,
      lowest=args.lowest,
      highest=args.highest,
      safety=args.safety,
    )
    result = findings.to_json()
    os.makedirs(workdir, exist_ok=True)
    records.write_json(os.path.join(workdir, JSON_NAME), result)
    learning_rate_figure.save(result, os.path.join(workdir, PICTURE_NAME))
  except (ValueError, BadDataError, CheckpointError) as error:
    command_line.fail(str(error))
  except OSError as error:
    command_line.fail(f'cannot write to {workdir}: {error}')
  print(report(findings))
  print(f'\npicture: {workdir}/{PICTURE_NAME}, numbers: {workdir}/{JSON_NAME}')


if __name__ == '__main__':
  command_line.define_path(
    'workdir', None, 'Folder of the results; default: runs/NAME-find_learning_rate.'
  )
  flags.DEFINE_integer('seeds', 3, "How many: the config's and those that follow it.")
  flags.DEFINE_integer('ramp_steps', 300, 'Steps in which the learning rate rises, for each seed.')
  flags.DEFINE_integer('check_steps', 200, 'Steps of each short training with the real schedule.')
  flags.DEFINE_float('lowest', 1e-4, 'Learning rate at which the ramp starts.')
  flags.DEFINE_float('highest', 10.0, 'Learning rate at which it ends; nothing larger is tried.')
  flags.DEFINE_float('safety', 2.0, 'At least so many times is the suggestion below the largest.')
  command_line.define_config_flag()
  command_line.run(main)
