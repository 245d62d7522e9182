"""Which runs follow from which outcomes."""

import pathlib

import pytest

from nfnets_augmult.reproduce import design as design_lib
from nfnets_augmult.runs import settings

ROOT = pathlib.Path(__file__).parent.parent.parent
FILE = f'{ROOT}/experiments/equal_updates.py'


@pytest.fixture(scope='module')
def design():
  return design_lib.load_design(FILE)


def _key(point):
  return point['augmult'], point['optimizer.learning_rate'], point['seed']


def _run_all(design, accuracy):
  """Runs point by point, in order; returns the keys in that order."""
  done = {}
  while True:
    points, is_all = design.points(lambda point: done.get(_key(point)))
    assert done.keys() <= set(map(_key, points))  # no run is ever dropped
    if is_all:
      return list(done)
    key = next(_key(point) for point in points if _key(point) not in done)
    done[key] = accuracy(*key)


def test_learning_rates_first_then_pairs_in_turn(design):
  """N = 1 is best in the grid; n = 4 above it, so that its grid grows until 0.4 is not the end."""
  best = {1: 0.1, 4: 0.4, 16: 0.2, 2: 0.1, 8: 0.025}
  order = _run_all(design, lambda n, rate, seed: 1 / (1 + abs(rate - best[n])))
  searched = [(0.05, 1), (0.05, 4), (0.1, 1), (0.1, 4), (0.2, 1), (0.2, 4), (0.4, 4), (0.8, 4)]
  assert order[:8] == [(n, rate, 0) for rate, n in searched]
  pairs = [(n, best[n], seed) for seed in range(1, 13) for n in (1, 4)]
  assert [key for key in order if key[2] and key[0] in (1, 4)] == pairs
  assert order[8:16] == pairs[:8]
  # The runs of n = 1 are shared by all comparisons, and each n has its own learning rate.
  assert [key[0] for key in order if key[2]].count(1) == 12
  assert {key[:2] for key in order if key[2]} == set(best.items())
  assert sorted(rate for n, rate, seed in order if n == 8 and not seed) == [
    *(0.0125, 0.025, 0.05, 0.1, 0.2)
  ]


def test_the_search_ends_where_everything_diverges(design):
  order = _run_all(design, lambda n, rate, seed: -1.0)
  rates = [0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2]
  assert sorted(rate for n, rate, seed in order if (n, seed) == (1, 0)) == rates


def test_pairs_for_several_processes_to_take(design):
  """While nothing is done, four pairs; a pair that is done makes room for another."""
  tuned = {(n, rate, 0): 1 - abs(rate - 0.1) for n in (1, 4) for rate in (0.05, 0.1, 0.2)}
  points, _ = design.points(lambda point: tuned.get(_key(point)))
  assert [_key(p)[::2] for p in points[6:]] == [(n, s) for s in range(1, 5) for n in (1, 4)]
  tuned |= {(1, 0.1, 1): 0.9, (4, 0.1, 1): 0.9}
  points, _ = design.points(lambda point: tuned.get(_key(point)))
  assert _key(points[-1]) == (4, 0.1, 5)


def test_copies_in_neighbouring_batches_come_last():
  """They are tuned for themselves, and compared with n = 1 seed by seed."""
  design = design_lib.load_design(f'{FILE}:small')
  done = {}
  for _ in range(1000):
    points, is_all = design.points(lambda point: done.get(tuple(point.items())))
    if is_all:
      break
    point = next(point for point in points if tuple(point.items()) not in done)
    best = 0.0125 if point.get('placement') else 0.025
    done[tuple(point.items())] = 1 - abs(point['optimizer.learning_rate'] - best)
  last = [dict(items) for items in done if dict(items).get('placement') == 'neighbouring']
  assert [tuple(p.items()) for p in last] == list(done)[-len(last) :]
  assert {p['augmult'] for p in last} == {4}
  assert sorted(p['optimizer.learning_rate'] for p in last if not p['seed']) == [
    *(0.00625, 0.0125, 0.025, 0.05)
  ]
  assert [_key(p)[1:] for p in last if p['seed']] == [(0.0125, seed) for seed in range(1, 9)]
  settings.read(design.sweep(design.sizes[0], last).config(last[0]))


def test_the_longest_runs_that_fit_are_chosen(design):
  """Six learning rates and six pairs are 18 runs, for 85 % of the time."""
  seconds = [10.0 * (1 + index) for index in range(len(design.sizes))]
  assert design.choose_size(seconds, 18 * 30 / 0.84) == design.sizes[2]
  assert design.choose_size(seconds, 18 * 30 / 0.86) == design.sizes[1]
  assert design.choose_size(seconds, 1) == design.sizes[0]
  assert design.choose_size(seconds, 1e9) == design.sizes[-1]


@pytest.mark.parametrize('argument', ['', ':small', ':tiny'])
def test_every_size_is_valid_for_every_n(argument):
  design = design_lib.load_design(FILE + argument)
  points = [{'augmult': n, 'optimizer.learning_rate': 0.1, 'seed': 0} for n in design.augmults]
  for size in design.sizes:
    sweep = design.sweep(size, points)
    for point in points:
      settings.read(sweep.config(point))
    assert sweep.is_small == (size['total_steps'] != 400_000)


def test_batches_are_two_per_cent_and_the_largest_runs_the_papers(design):
  images = {'train[:12800]': 12_800, 'train': 50_000}
  for size in design.sizes:
    share = size['batch_size'] / images[size['dataset.train_split']]
    assert share == pytest.approx(0.02, rel=0.03)
  assert design.sizes[-1] == {
    'dataset.train_split': 'train',
    'model.name': 'wrn_16_4',
    'batch_size': 1024,
    'total_steps': 400_000,
  }


def test_overrides_of_what_the_sizes_set_are_refused(design):
  base = design.base.copy_and_resolve_references()
  base.dataset.data_dir = 'somewhere'
  changed = design.with_base(base.lock()).sweep(design.sizes[0], [])
  assert changed.base.dataset.data_dir == 'somewhere'
  base.total_steps = 7
  with pytest.raises(ValueError, match='varies total_steps itself'):
    design.with_base(base)
  base = design.base.copy_and_resolve_references()
  base.placement = 'neighbouring'
  assert design.with_base(base).base.placement == 'neighbouring'
  small = design_lib.load_design(f'{FILE}:small')
  base = small.base.copy_and_resolve_references()
  base.placement = 'neighbouring'
  with pytest.raises(ValueError, match='varies placement itself'):
    small.with_base(base)
  with pytest.raises(ValueError, match=r'no get_design\(\)'):
    design_lib.load_design(f'{ROOT}/experiments/quickstart_digits.py')
  with pytest.raises(ValueError, match="'large' after the colon"):
    design_lib.load_design(f'{FILE}:large')
