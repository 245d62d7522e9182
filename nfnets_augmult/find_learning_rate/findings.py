"""The findings of a search for the largest stable learning rate, as JSON and as text."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from nfnets_augmult.find_learning_rate import trials


@dataclasses.dataclass(frozen=True)
class Findings:
  """The findings about a config.

  Attributes:
    facts: the plan of the run and the settings of the search, JSON values.
    ramps: one per seed.
    checks: of all seeds, in the order they were made.
    largest_stable: by seed; None if no checked learning rate was stable.
    safety: least ratio of the largest stable learning rate to the suggestion.
  """

  facts: dict[str, Any]
  ramps: Sequence[trials.Ramp]
  checks: Sequence[trials.Check]
  largest_stable: dict[int, float | None]
  safety: float

  @property
  def stable_for_all(self) -> float | None:
    """The largest learning rate that is stable for all seeds, or None."""
    values = list(self.largest_stable.values())
    return None if None in values else min(values)

  @property
  def smallest_unstable(self) -> float | None:
    """The smallest larger learning rate at which a seed was unstable; None if there is none."""
    largest = self.stable_for_all or 0.0
    above = (c.learning_rate for c in self.checks if not c.is_stable and c.learning_rate > largest)
    return min(above, default=None)

  @property
  def suggestion(self) -> float | None:
    """A learning rate with a margin of stability, or None if none was stable.

    Of the learning rates checked with every seed that are at most the largest stable one divided by
    `safety`, the one with the lowest last loss.
    """
    if self.stable_for_all is None:
      return None
    most = self.stable_for_all / self.safety
    safe = {rate: loss for rate, loss in self._last_losses.items() if rate <= most}
    return min(safe, key=safe.__getitem__, default=most)

  @property
  def _last_losses(self) -> dict[float, float]:
    """By learning rate, of those that were checked with every seed."""
    return trials.mean_last_losses(self.checks, seeds=len(self.ramps))

  @property
  def is_suggestion_checked(self) -> bool:
    """Whether the suggestion was tried itself, or only follows from larger ones that are stable."""
    return self.suggestion in self._last_losses

  def to_json(self) -> dict[str, Any]:
    """Returns everything as JSON values; losses that are not finite are null."""
    return {
      **self.facts,
      'largest_stable': self.stable_for_all,
      'smallest_unstable': self.smallest_unstable,
      'suggestion': self.suggestion,
      'is_suggestion_checked': self.is_suggestion_checked,
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


def report(findings: Findings) -> str:
  """Returns the findings as a few lines of text."""
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
    f'{largest / findings.suggestion:.2g} below'
    + ('' if findings.is_suggestion_checked else '; not checked itself: lower --lowest'),
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
  """Returns the paper's findings on other n, as lines."""
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
