"""Whether n > 1 is better at equal updates: paired tests by the rule of docs/results/claim.md.

The learning rate of each n and placement is the one that was best with the first seed. The runs of
the other seeds are compared, in pairs that share a seed.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from nfnets_augmult.report import statistics
from nfnets_augmult.report.recorded_runs import RecordedRun

CONFIDENCE = 0.95
SMALLEST_EFFECT = 0.005
_FEWEST_PAIRS = 3


class PairedTest(NamedTuple):
  """The test of a mean difference.

  Attributes:
    mean: of the differences.
    low: lower end of the interval of Student's t for it.
    high: upper end.
    spread: standard deviation of a difference.
    p_value: two-sided, of no difference.
    verdict: `'confirmed'` if the interval is above 0, `'refuted'` if it is not, and below the
      smallest effect of interest, or `'undecided'`.
  """

  mean: float
  low: float
  high: float
  spread: float
  p_value: float
  verdict: str


class Comparison(NamedTuple):
  """Two values of n, or one with its copies in different places, at equal batch size and updates.

  Attributes:
    runs: one of each, at its learning rate, first the one that the other is compared with.
    pairs: accuracies of both, `[pairs, 2]`, by seed.
    test: of the second less the first; None if there are fewer than two pairs.
  """

  runs: tuple[RecordedRun, RecordedRun]
  pairs: np.ndarray
  test: PairedTest | None


def paired_test(
  differences: Sequence[float], *, smallest_effect: float = SMALLEST_EFFECT
) -> PairedTest:
  """Tests whether the mean of at least two differences is above 0.

  Args:
    differences: of pairs, in any unit.
    smallest_effect: the smallest one of interest, in that unit.
  """
  count, mean = len(differences), float(np.mean(differences))
  spread = float(np.std(differences, ddof=1))
  error = spread / np.sqrt(count)
  half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
  low, high = mean - half, mean + half
  p_value = float(2 * stats.t.sf(abs(mean) / error, count - 1)) if error else float(mean == 0)
  verdict = 'confirmed' if low > 0 else 'refuted' if high < smallest_effect else 'undecided'
  if count < _FEWEST_PAIRS:
    verdict = 'undecided'
  return PairedTest(mean, low, high, spread, p_value, verdict)


def comparisons(runs: Sequence[RecordedRun], metric: str) -> Iterator[Comparison]:
  """Yields a comparison of each n with the least one, for every setting with a fixed batch size.

  An n with its copies in neighbouring batches is compared as another n is; and the same n within
  the batch with it.

  Args:
    runs: of one or several sweeps.
    metric: the recorded accuracy.
  """
  fixed = [run for run in runs if run.config['batch_size'] and run.updates]
  for same in statistics.group_by_attributes(fixed, 'panel', 'dropout_masks', 'updates').values():
    by_copies = statistics.group_by_attributes(same, 'augmult', 'is_apart')
    chosen = {copies: _at_best_learning_rate(g, metric) for copies, g in by_copies.items()}
    least, *others = chosen
    both = [(least, other) for other in others]
    both += [((n, True), (n, False)) for n, is_apart in others if is_apart and (n, False) in others]
    for names in both:
      first, second = ({r.seed: r.result[metric] for r in chosen[name]} for name in names)
      pairs = [(first[seed], second[seed]) for seed in sorted(first.keys() & second.keys())]
      if pairs:
        values = np.array(pairs)
        differences = values[:, 1] - values[:, 0]
        test = paired_test(differences) if len(pairs) > 1 else None
        yield Comparison((chosen[names[0]][0], chosen[names[1]][0]), values, test)


def _at_best_learning_rate(runs: Sequence[RecordedRun], metric: str) -> list[RecordedRun]:
  """The finished runs at the learning rate that is best with the first seed, without that seed."""
  finished = [run for run in runs if run.result.get(metric) is not None]
  first_seed = min(run.seed for run in runs)
  tuning = [run for run in finished if run.seed == first_seed]
  if not tuning:
    return []
  best = max(tuning, key=lambda run: run.result[metric]).learning_rate
  return [run for run in finished if run.learning_rate == best and run.seed != first_seed]
