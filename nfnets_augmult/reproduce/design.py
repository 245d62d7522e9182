"""Which runs compare n > 1 with n = 1 at equal updates, in which order: docs/results/claim.md.

Every n is tuned with one seed; then follow pairs of runs that share further seeds, each n at its
own learning rate. What is to be run next follows from what has come out so far.
"""

import dataclasses
import runpy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from nfnets_augmult.sweep.grid import Point, Published, Sweep, point_name

# The seed with which learning rates are tuned; pairs have the seeds after it.
_TUNING_SEED = 0
# The grid of learning rates grows up to this, while the best one is at its end.
_MOST_LEARNING_RATES = 6
# Pairs that may be begun and not done, for several processes to have something to do.
_PAIRS_AHEAD = 4
# A length is chosen for which this many pairs fit into this share of the time.
_PAIRS_THAT_FIT, _SHARE_OF_TIME = 6, 0.85

# From a point to its test accuracy; a run that has diverged is worse than any other. None for one
# that is not done.
Outcome = Callable[[Point], float | None]


@dataclasses.dataclass(frozen=True)
class Design:
  """A comparison of several n at a fixed batch size and equal updates.

  Attributes:
    title: of the report.
    base: config of all runs.
    sizes: values by dotted key that make the runs longer and larger, the cheapest first.
    augmults: the first is the one that the others are compared with, in this order.
    neighbouring: values of n that are compared with it last, with their copies in neighbouring
      batches (Appendix C).
    learning_rates: where the search begins, spaced by factors of 2.
    expected: the paper's finding.
    published: the paper's numbers.
    pairs: how many of each comparison.
  """

  title: str
  base: ml_collections.ConfigDict
  sizes: Sequence[Mapping[str, Any]]
  augmults: Sequence[int]
  learning_rates: Sequence[float]
  expected: str
  published: Sequence[Published] = ()
  pairs: int = 12
  neighbouring: Sequence[int] = ()

  def sweep(self, size: Mapping[str, Any], points: Sequence[Point]) -> Sweep:
    """Returns the runs of one size as a sweep."""
    base = self.base.copy_and_resolve_references()
    base.update_from_flattened_dict(dict(size))
    is_published = any(
      size.get(key) == value
      for number in self.published
      for key, value in number.keys.items()
      if key == 'total_steps'
    )
    return Sweep(
      self.title,
      base.lock(),
      points,
      self.expected,
      published=self.published,
      is_small=not is_published,
    )

  def with_base(self, base: ml_collections.ConfigDict) -> 'Design':
    """Returns the design with another base; raises ValueError if it changes what `sizes` set."""
    placement = 'neighbouring' if self.neighbouring else 'within'
    points = [{**size, **_Copies(1, placement).point(1.0, 0)} for size in self.sizes]
    return dataclasses.replace(
      self, base=Sweep(self.title, self.base, points, self.expected).with_base(base).base
    )

  def choose_size(self, seconds_per_run: Sequence[float], seconds: float) -> Mapping[str, Any]:
    """Returns the largest size whose search and pairs fit into the time; the first if none does.

    Args:
      seconds_per_run: of each size.
      seconds: left.
    """
    count = 2 * (len(self.learning_rates) + _PAIRS_THAT_FIT)
    fitting = [
      size
      for size, each in zip(self.sizes, seconds_per_run, strict=True)
      if count * each <= _SHARE_OF_TIME * seconds
    ]
    return fitting[-1] if fitting else self.sizes[0]

  def points(self, outcome: Outcome) -> tuple[list[Point], bool]:
    """Returns the points to be run by now, done ones too, in order; and whether these are all.

    None of them goes as more are done.
    """
    found: dict[str, Point] = {}
    ahead = _PAIRS_AHEAD
    first, *others = [_Copies(augmult) for augmult in self.augmults]
    for other in [*others, *(_Copies(augmult, 'neighbouring') for augmult in self.neighbouring)]:
      tuned = {copies: self._tune(copies, outcome) for copies in (first, other)}
      searched = [(rate, copies) for copies, (rates, _) in tuned.items() for rate in rates]
      for rate, copies in sorted(searched):
        point = copies.point(rate, _TUNING_SEED)
        found[point_name(point)] = point
      if any(best is None for _, best in tuned.values()):
        return list(found.values()), False
      for seed in range(_TUNING_SEED + 1, _TUNING_SEED + 1 + self.pairs):
        pair = [copies.point(best, seed) for copies, (_, best) in tuned.items()]
        found |= {point_name(point): point for point in pair}
        ahead -= any(outcome(point) is None for point in pair)
        if not ahead:
          return list(found.values()), False
    return list(found.values()), all(outcome(point) is not None for point in found.values())

  def _tune(self, copies: '_Copies', outcome: Outcome) -> tuple[list[float], float | None]:
    """Returns the learning rates to try, and the best one, None if there are runs to come."""
    rates = sorted(self.learning_rates)
    while True:
      accuracies = {rate: outcome(copies.point(rate, _TUNING_SEED)) for rate in rates}
      if None in accuracies.values():
        return rates, None
      best = max(rates, key=accuracies.__getitem__)
      if best not in (rates[0], rates[-1]) or len(rates) == _MOST_LEARNING_RATES:
        return rates, best
      rates = sorted([*rates, best / 2 if best == rates[0] else best * 2])


class _Copies(NamedTuple):
  """What is compared: n, and where the copies of an image are."""

  augmult: int
  placement: str = 'within'

  def point(self, learning_rate: float, seed: int) -> Point:
    point = {'augmult': self.augmult, 'optimizer.learning_rate': learning_rate, 'seed': seed}
    return point if self.placement == 'within' else {**point, 'placement': self.placement}


def load_design(path: str) -> Design:
  """Returns the design of `FILE.py` or `FILE.py:ARGUMENT`; raises ValueError if it has none."""
  file, _, argument = path.partition('.py:')
  members = runpy.run_path(file if file.endswith('.py') else f'{file}.py')
  if 'get_design' not in members:
    raise ValueError(f'--config={path} has no get_design(): see experiments/equal_updates.py')
  return members['get_design'](*[argument] * bool(argument))
