"""Statistics over runs, from records made by hand."""

import numpy as np
import pytest

from nfnets_augmult.report import recorded_runs, statistics, tables
from tests.report.records_of_runs import METRIC, make_run


def test_of_seven_runs_the_best_five_count():
  """As in Section 2: two are left out, and two may diverge; a third one makes the cell diverge."""
  values = [0.7, 0.1, 0.75, 0.74, 0.2, 0.73, 0.72]
  cell = statistics.make_cell([make_run(value, seed=s) for s, value in enumerate(values)], METRIC)
  best = [0.75, 0.74, 0.73, 0.72, 0.7]
  assert cell.values == best
  assert cell.mean == pytest.approx(sum(best) / 5)
  assert cell.standard_error == pytest.approx(np.std(best, ddof=1) / 5**0.5)
  for diverged, status in ((2, 'measured'), (3, 'diverged')):
    mixed = [
      make_run(status='diverged', seed=s) if s < diverged else make_run(value, seed=s)
      for s, value in enumerate(values)
    ]
    assert statistics.make_cell(mixed, METRIC).status == status
  losses = [make_run(0.5, loss=loss, seed=loss) for loss in range(7)]
  assert statistics.make_cell(losses, recorded_runs.TRAINING_LOSS, smallest=True).values == [
    0,
    1,
    2,
    3,
    4,
  ]


def test_of_fewer_runs_all_count_and_the_count_is_told():
  three = [make_run(0.5), make_run(0.7, seed=1), make_run(status='unfinished', seed=2)]
  cell = statistics.make_cell(three, METRIC)
  assert (cell.mean, len(cell.values), len(cell.runs), cell.num_missing) == (0.6, 2, 3, 1)
  assert tables.summary_rows(three, METRIC)[0]['runs that count'] == '2 of 3, 1 to come'
  assert statistics.make_cell([make_run(0.5)], METRIC).standard_error is None
  diverged = make_run(status='diverged', seed=1)
  assert statistics.make_cell([make_run(0.5), diverged], METRIC).status == 'diverged'
  assert statistics.make_cell([make_run(status='failed')], METRIC).status == 'missing'
  # Two of seven may diverge, so that one has says nothing yet.
  begun = [diverged, *(make_run(status='missing', seed=s) for s in range(2, 8))]
  assert statistics.make_cell(begun, METRIC).status == 'missing'


def test_a_run_that_two_sweeps_share_counts_once():
  """Whichever of the two has finished it."""
  same = [make_run(status='missing'), make_run(0.5), make_run(0.7, seed=1), make_run(0.7, seed=1)]
  cell = statistics.make_cell(same, METRIC)
  assert (cell.mean, len(cell.runs), cell.num_missing) == (0.6, 2, 0)


def test_the_best_learning_rate_is_found_over_means_and_its_place_in_the_grid():
  """0.1 has the best single run, 0.05 the best mean; 0.2 diverges."""
  found = [
    make_run(accuracy, seed=seed, optimizer__learning_rate=rate)
    for rate, both in ((0.025, (0.6, 0.6)), (0.05, (0.7, 0.8)), (0.1, (0.9, 0.2)))
    for seed, accuracy in enumerate(both)
  ]
  found.append(make_run(status='diverged', optimizer__learning_rate=0.2))
  best = statistics.best_cell(found, METRIC)
  assert best.runs[0].learning_rate == 0.05
  assert not statistics.is_at_edge(best, found)
  assert statistics.is_at_edge(best, found[:4])
  to_come = make_run(status='missing', optimizer__learning_rate=0.2)
  assert statistics.is_at_edge(best, [*found[:4], to_come])


def test_a_learning_rate_with_runs_to_come_is_set_aside_where_others_are_complete():
  """One lucky run of seven is not compared with the mean of seven."""
  complete = [make_run(0.7, seed=s, optimizer__learning_rate=0.05) for s in range(7)]
  begun = [make_run(status='missing', seed=s, optimizer__learning_rate=0.1) for s in range(1, 7)]
  begun.append(make_run(0.75, optimizer__learning_rate=0.1))
  assert statistics.best_cell([*complete, *begun], METRIC).mean == pytest.approx(0.7)
  assert statistics.best_cell(begun, METRIC).mean == 0.75
