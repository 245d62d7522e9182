"""The paired test at equal updates, and which runs it compares."""

import numpy as np
import pytest

from nfnets_augmult.report import tables, verdict
from tests.report.records_of_runs import METRIC, make_run


def test_a_paired_test_by_hand():
  """Student's t of (1, 2, 3): mean 2, spread 1, and 4.303 standard errors to either side."""
  test = verdict.paired_test([1.0, 2.0, 3.0])
  assert (test.mean, test.spread) == (2.0, 1.0)
  half = 4.302653 / 3**0.5
  assert (test.low, test.high) == pytest.approx((2 - half, 2 + half), rel=1e-6)
  assert test.p_value == pytest.approx(0.0741799, rel=1e-5)
  assert test.verdict == 'undecided'


@pytest.mark.parametrize(
  ('differences', 'expected'),
  [
    ([0.010, 0.012, 0.011], 'confirmed'),
    ([0.001, 0.0012, 0.0011], 'confirmed'),  # small, and above 0
    ([-0.010, -0.012, -0.011], 'refuted'),
    ([0.001, -0.001, 0.0005], 'refuted'),  # the interval ends below 0.5 %
    ([0.03, -0.01, 0.01], 'undecided'),
    ([0.010, 0.011], 'undecided'),  # two pairs are too few, though the interval is above 0
  ],
)
def test_the_rule(differences, expected):
  assert verdict.paired_test(differences).verdict == expected


def test_the_interval_holds_the_truth_as_often_as_it_says():
  rng = np.random.default_rng(0)
  tests = [verdict.paired_test(rng.normal(0.3, 1.0, size=5)) for _ in range(2000)]
  assert np.mean([test.low < 0.3 < test.high for test in tests]) == pytest.approx(0.95, abs=0.02)


def _run(augmult, rate, seed, accuracy, **keys):
  keys = {'optimizer__learning_rate': rate, 'total_epochs': 8.0 / augmult, **keys}
  return make_run(accuracy, augmult=augmult, seed=seed, **keys)


def test_pairs_at_the_learning_rates_of_the_first_seed():
  """The first seed chooses, and does not count; seeds without a partner and diverged ones neither.

  With more epochs and the same updates for n = 1, runs are compared by updates.
  """
  runs = [
    *(_run(1, 0.1, 0, 0.9), _run(1, 0.2, 0, 0.8)),
    *(_run(4, 0.1, 0, 0.1), _run(4, 0.2, 0, 0.2)),
    *(_run(1, 0.1, seed, 0.70 + seed / 100) for seed in (1, 2, 3, 4)),
    *(_run(4, 0.2, seed, 0.72 + seed / 100) for seed in (1, 2, 3)),
    _run(4, 0.2, 4, None, status='diverged'),
    _run(1, 0.2, 1, 0.99),  # not the learning rate of n = 1
    _run(4, 0.2, 5, 0.99),
  ]
  (compared,) = verdict.comparisons(runs, METRIC)
  assert [(run.augmult, run.learning_rate) for run in compared.runs] == [(1, 0.1), (4, 0.2)]
  np.testing.assert_allclose(compared.pairs, [[0.71, 0.73], [0.72, 0.74], [0.73, 0.75]])
  (row,) = tables.comparison_rows(runs, METRIC)
  assert (row['n'], row['updates'], row['pairs']) == ('4 against 1', 800, 3)
  assert (row['difference (%)'], row['verdict']) == ('2.00', 'confirmed')


def test_copies_in_neighbouring_batches_are_compared_with_one_copy_and_with_the_same_batch():
  """The placement of a single copy makes no difference; each has its own learning rate."""
  apart = {'placement': 'neighbouring', 'total_epochs': 8.0}  # as many updates
  runs = [
    *(_run(1, 0.1, seed, 0.7, placement='neighbouring') for seed in range(4)),
    *(_run(4, 0.1, seed, 0.8) for seed in range(4)),
    *(_run(4, 0.05, seed, 0.75, **apart) for seed in range(4)),
    _run(4, 0.1, 0, 0.6, **apart),
  ]
  for run in runs:
    run.result['step'] = 800
  found = [
    ([run.copies for run in compared.runs], round(compared.test.mean, 6))
    for compared in verdict.comparisons(runs, METRIC)
  ]
  assert found == [
    (['1', '4'], 0.1),
    (['1', '4 neighbouring'], 0.05),
    (['4 neighbouring', '4'], 0.05),
  ]
  assert [row['n'] for row in tables.comparison_rows(runs, METRIC)] == [
    *('4 against 1', '4 neighbouring against 1', '4 against 4 neighbouring')
  ]


def test_what_is_not_compared():
  """Runs of other lengths, growing batches, and an n of which only the first seed has been run."""
  assert not list(verdict.comparisons([_run(1, 0.1, 0, 0.9), _run(4, 0.1, 0, 0.9)], METRIC))
  pairs = [_run(n, 0.1, seed, 0.9) for n in (1, 4) for seed in range(4)]
  assert len(list(verdict.comparisons(pairs, METRIC))) == 1
  for seed in range(4):
    pairs[seed] = _run(1, 0.1, seed, 0.9, total_epochs=16.0)
  assert not list(verdict.comparisons(pairs, METRIC))
  growing = [
    make_run(0.9, augmult=n, seed=s, total_epochs=8 / n, batch_size=0, unique_images_per_batch=64)
    for n in (1, 4)
    for s in range(4)
  ]
  assert not list(verdict.comparisons(growing, METRIC))
