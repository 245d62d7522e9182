"""Sweeps as data: grids, names, files, and the paper's experiments."""

import itertools
import pathlib
import re
import shlex
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from nfnets_augmult import configs, recipes
from nfnets_augmult.recipes import tiny_digits_recipe
from nfnets_augmult.runs import settings
from nfnets_augmult.sweep import grid, running
from nfnets_augmult.training.plan import solve_batch

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted(
  path
  for path in (ROOT / 'experiments' / 'figures').glob('*.py')
  if 'get_sweep' in path.read_text(encoding='utf-8')
)
TRAINING_IMAGES = {'cifar100': 50_000, 'imagenet2012': 1_281_167, 'digits': 200, 'arrays': 1600}
# Augmented images per second on one accelerator: what the files base their estimates on.
ASSUMED_SPEED = {
  'wrn_16_4': 17_000,
  'nf_resnet50': 3000,
  'nfnet_f2': 400,
  'nfnet_f3': 200,
  'nfnet_f5': 80,
}
SAM_COST = 1.2
ASSUMED_SPEED_OF_A_CORE = {'wrn_10_1': 2400}


def _all_sweeps():
  for path in FILES:
    for argument in ('', *(f':{name}' for name in _variants(path))):
      yield pytest.param(f'{path}{argument}', id=f'{path.stem}{argument}')


def _variants(path):
  return ('small', 'tiny') if '\ndef small(' in path.read_text(encoding='utf-8') else ('tiny',)


def _hours(loaded, speeds):
  """Hours of training at so many augmented images per second for each network."""
  hours = 0.0
  points = _of_the_first_seed(loaded)
  for point in points:
    config = loaded.config(point)
    samples = settings.read(config).relative_cost
    samples *= 1 if config.total_steps else TRAINING_IMAGES[config.dataset.name]
    samples *= SAM_COST if config.sam.rho else 1
    hours += samples / speeds[config.model.name] / 3600
  return hours * len(loaded.points) / len(points)


def _of_the_first_seed(loaded):
  """The points of one seed; those of the others are the same, and there are thousands."""
  points = [point for point in loaded.points if point['seed'] == 0]
  seeds = {point['seed'] for point in loaded.points}
  rest = grid.grid({'seed': sorted(seeds)})
  names = {grid.point_name({**point, **seed}) for point in points for seed in rest}
  assert names == set(loaded.named_points())
  return points


def _toy_sweep(points):
  base = tiny_digits_recipe()
  base.batch_size = 16
  base.total_steps = 6
  return grid.Sweep('A test', base, points, 'Nothing in particular.')


@pytest.mark.parametrize('path', _all_sweeps())
def test_every_point_is_a_valid_run(path):
  """All points differ, all configs are valid, B = U n, and n is within the paper's 1 to 16."""
  loaded = grid.load_sweep(path)
  points = _of_the_first_seed(loaded)
  flat = set()
  for point in points:
    config = loaded.config(point)
    settings.read(config)
    size, unique, augmult = solve_batch(
      batch_size=config.batch_size,
      unique_images_per_batch=config.unique_images_per_batch,
      augmult=config.augmult,
      placement=config.placement,
    )
    assert size == unique * (augmult if config.placement == 'within' else 1)
    assert augmult in (1, 2, 4, 8, 16)
    assert unique <= TRAINING_IMAGES[config.dataset.name] // 2
    flat.add(str(configs.flatten(config)))
  assert len(flat) == len(points)


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_files_state_what_they_cost(path):
  """The docstring's number of runs and the estimate of hours are those of the grid."""
  loaded = grid.load_sweep(str(path))
  text = ' '.join(path.read_text(encoding='utf-8').split('"""')[1].split())
  hours = _hours(loaded, ASSUMED_SPEED)
  assert f'{len(loaded.points):,} runs' in text
  assert f'about {loaded.accelerator_hours:,} accelerator hours' in text
  assert loaded.accelerator_hours == pytest.approx(hours, rel=0.02)
  assert loaded.expected
  assert 'Expected' in text
  assert not loaded.is_small
  for variant in _variants(path):
    found = grid.load_sweep(f'{path}:{variant}')
    assert found.is_small
    assert f'`:{variant}`' in text
    if variant == 'small':
      hours = _hours(found, ASSUMED_SPEED_OF_A_CORE)
      assert f'{len(found.points)} small runs, about {hours:.1f} core hours' in text
  assert re.search(rf'--config=experiments/figures/{path.name} ', text)


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_published_numbers_belong_to_points(path):
  """Every published number is for a setting and a length of points of the sweep."""
  loaded = grid.load_sweep(str(path))
  found = [configs.flatten(loaded.config(point)) for point in _of_the_first_seed(loaded)]
  for number in loaded.published:
    if number.source == 'Brock et al. 2021b':  # the points of Figure 8b that nobody runs again
      continue
    assert any(
      all(config[key] == value for key, value in number.keys.items()) for config in found
    ), number


def test_nfnets_of_a_table_have_their_own_recipes():
  """The resolutions and the magnitude of RandAugment are those of each variant."""
  for name, with_sam in (('table1_nfnet', False), ('table2_nfnet_sam', True)):
    loaded = grid.load_sweep(str(ROOT / 'experiments' / 'figures' / f'{name}.py'))
    for point in loaded.points:
      config = loaded.config(point)
      recipe = recipes.nfnet_recipe(config.model.name.removeprefix('nfnet_'))
      recipe = recipes.with_sam(recipe) if with_sam else recipe
      assert set(grid.difference(config, recipe)) <= {
        *('augmult', 'total_steps', 'optimizer.learning_rate')
      }


@pytest.mark.parametrize('name', ['fig2_growing_batch', 'fig4_cifar', 'fig5_cifar'])
def test_the_cifar_runs_have_the_papers_hyperparameters(name):
  """Section 2: WRN-16-4, momentum 0.9, L2 5e-4, 7 runs, learning rates spaced by factors of 2."""
  loaded = grid.load_sweep(str(ROOT / 'experiments' / 'figures' / f'{name}.py'))
  base = loaded.base
  assert (base.model.name, base.dataset.name) == ('wrn_16_4', 'cifar100')
  assert (base.optimizer.momentum, base.optimizer.weight_decay) == (0.9, 5e-4)
  assert (base.optimizer.schedule, base.label_smoothing) == ('halving', 0.0)
  assert {point['seed'] for point in loaded.points} == set(range(7))
  rates = sorted({point['optimizer.learning_rate'] for point in loaded.points})
  assert all(b == 2 * a for a, b in itertools.pairwise(rates))
  sizes = {'fig2_growing_batch': (0, 64), 'fig4_cifar': (1024, 0), 'fig5_cifar': (64, 0)}
  assert (base.batch_size, base.unique_images_per_batch) == sizes[name]


@pytest.mark.parametrize('argument', ['', ':small', ':tiny'])
def test_figure_12_varies_masks_alone(argument):
  """Appendix D: drop rate 0.4, one copy of as many images at every n; grids as Figure 2."""
  folder = ROOT / 'experiments' / 'figures'
  loaded, growing = (
    grid.load_sweep(f'{folder}/{name}.py{argument}')
    for name in ('fig12_dropout_masks', 'fig2_growing_batch')
  )
  found = [loaded.config(point) for point in loaded.points]
  assert {(config.augmult, config.model.dropout_rate) for config in found} == {(1, 0.4)}
  masks = {config.dropout_masks for config in found}
  assert masks == {growing.config(point).augmult for point in growing.points}
  base = configs.flatten(growing.base)
  differing = {key for key, value in configs.flatten(loaded.base).items() if value != base[key]}
  # Figure 2's n = 1 is then the same without dropout.
  assert differing == {'model.dropout_rate'}


def test_a_grid_is_every_combination_in_order():
  points = grid.grid({'augmult': (1, 2), 'seed': range(2)})
  assert points == [
    {'augmult': 1, 'seed': 0},
    {'augmult': 1, 'seed': 1},
    {'augmult': 2, 'seed': 0},
    {'augmult': 2, 'seed': 1},
  ]
  assert grid.powers_of_two(0.0125, 3) == [0.0125, 0.025, 0.05]


def test_names_of_points_are_readable_and_safe():
  point = {'augmult': 4, 'optimizer.learning_rate': 0.1, 'dataset.train_split': 'train[:9]/x'}
  assert grid.point_name(point) == 'augmult=4,learning_rate=0.1,train_split=train__9__x'
  # Values that differ little have names that differ.
  names = [grid.point_name({'optimizer.learning_rate': rate}) for rate in (0.1234567, 0.12345678)]
  assert names == ['learning_rate=0.1234567', 'learning_rate=0.12345678']


def test_invalid_sweeps_are_refused():
  """Repeated points, keys that do not exist, values of another type."""
  with pytest.raises(ValueError, match='points twice: augmult=1'):
    _toy_sweep([{'augmult': 1}, {'augmult': 1}])
  with pytest.raises(ValueError, match='varies augmul, which its base config does not have'):
    _toy_sweep([{'augmul': 1}])
  tested = _toy_sweep([{'augmult': 4.5}])
  with pytest.raises(ValueError, match=r'augmult=4.5: '):
    tested.config(tested.points[0])


def test_arguments_of_a_sweep_file():
  """The name of a variant and `seeds=N`, in any order; anything else is an error."""

  def make(augmult):
    return lambda seeds: _toy_sweep(grid.grid({'augmult': (augmult,), 'seed': seeds}))

  paper, tiny, small = make(1), make(4), make(2)
  get_sweep, get_config = grid.by_argument(paper, tiny, small)
  for argument, count in {'': 7, 'seeds=2': 2}.items():
    assert get_sweep(argument) == paper(range(count))
  for name, variant in {'small': small, 'tiny': tiny}.items():
    for argument, count in {name: 3, f'{name},seeds=5': 5, f'seeds=2,{name}': 2}.items():
      found = get_sweep(argument)
      assert (found.title, found.is_small) == (f'A test ({name})', True)
      assert found.points == variant(range(count)).points
    assert get_config(name) == get_sweep(name).base
  with pytest.raises(ValueError, match="'small' after the colon"):
    get_sweep('tiny,small')
  get_sweep, _ = grid.by_argument(paper, tiny, seeds=1)
  assert [len(get_sweep(argument).points) for argument in ('', 'tiny')] == [1, 3]
  with pytest.raises(ValueError, match=r"'small' .* is neither tiny nor seeds=N"):
    get_sweep('small')
  with pytest.raises(ValueError, match='seeds=0'):
    get_sweep('seeds=0')
  for path in FILES:
    with pytest.raises(
      ValueError, match=r"'smal' after the colon .* neither (small nor )?tiny nor seeds=N"
    ):
      grid.load_sweep(f'{path}:smal')


def test_seeds_come_one_after_another():
  points = grid.grid({'augmult': (1, 2), 'seed': range(2)})
  order = [(point['seed'], point['augmult']) for point in grid.seed_by_seed(points)]
  assert order == [(0, 1), (0, 2), (1, 1), (1, 2)]


def test_overrides_apply_to_all_points_but_not_to_what_they_vary():
  tested = _toy_sweep(grid.grid({'augmult': (1, 2)}))
  base = tiny_digits_recipe()
  base.batch_size = 32
  assert [tested.with_base(base).config(point).batch_size for point in tested.points] == [32, 32]
  base.augmult = 4
  with pytest.raises(ValueError, match='the sweep varies augmult itself'):
    tested.with_base(base)


def test_shards_are_a_partition():
  points = [{'seed': seed} for seed in range(11)]
  shards = [grid.take_shard(points, f'{index}/4') for index in range(4)]
  assert sorted(p['seed'] for shard in shards for p in shard) == list(range(11))
  for wrong in ('4/4', '1', '-1/2', 'a/b', '0/0'):
    with pytest.raises(ValueError, match='must be I/K'):
      grid.take_shard(points, wrong)


def test_a_work_directory_has_one_sweep_that_may_grow(tmp_path):
  """More points are allowed; fewer, another base, or a single run are not."""
  workdir = str(tmp_path / 'sweep')
  grid.describe(_toy_sweep([{'seed': 0}]), workdir)
  grown = _toy_sweep([{'seed': 0}, {'seed': 1}])
  grid.describe(grown, workdir)
  (tmp_path / 'sweep' / 'seed=1').mkdir()
  (tmp_path / 'sweep' / 'seed=1' / 'config.json').write_text('{}')
  with pytest.raises(ValueError, match=r'1 points that are not in this one, such as seed=1'):
    grid.describe(_toy_sweep([{'seed': 0}]), workdir)
  # What has not been started may go: a mistake in the grid can be mended.
  grid.describe(_toy_sweep([{'seed': 0}, {'seed': 1}, {'seed': 2}]), workdir)
  grid.describe(grown, workdir)
  changed = tiny_digits_recipe()
  changed.batch_size = 32
  with pytest.raises(ValueError, match=r'differs in batch_size \(16 there, 32 now\)'):
    grid.describe(grown.with_base(changed), workdir)
  (tmp_path / 'config.json').write_text('{}')
  with pytest.raises(ValueError, match='holds a single run'):
    grid.describe(grown, str(tmp_path))


QUICKSTART = str(ROOT / 'experiments' / 'quickstart_digits.py')


def test_a_file_of_a_single_run_needs_axes():
  with pytest.raises(ValueError, match=r'describes a single run: .* --grid.seed=0,1,2'):
    grid.load_sweep(QUICKSTART)
  axes = [
    'seed=0,1',
    'optimizer.learning_rate=0.1,2',
    'placement=within',
    'optimizer.nesterov=True',
  ]
  loaded = grid.load_sweep(QUICKSTART, axes)
  assert [tuple(point.values()) for point in loaded.points] == [
    (0, 0.1, 'within', True),
    (0, 2.0, 'within', True),
    (1, 0.1, 'within', True),
    (1, 2.0, 'within', True),
  ]
  assert [loaded.config(point).optimizer.learning_rate for point in loaded.points[:2]] == [0.1, 2.0]
  with pytest.raises(ValueError, match='a sweep with a grid of its own'):
    grid.load_sweep(f'{ROOT}/experiments/figures/fig2_growing_batch.py', axes)


@pytest.mark.parametrize(
  ('axis', 'message'),
  [
    ('optimizer.learning_rat=1', r"no key 'optimizer.learning_rat': did you mean optimizer.learn"),
    ('seed=0,x', r'--grid.seed=0,x: each of the values between the commas must be a whole number'),
    ('seed=', 'must be a whole number'),
    ('seed=1.5', 'must be a whole number'),
    ('optimizer.nesterov=yes', 'must be True or False'),
    ('augmentation.inception.area=0.1', 'has several values itself'),
    ('seed=1,1', 'points twice: seed=1'),
  ],
)
def test_axes_that_cannot_be_varied_are_named(axis, message):
  with pytest.raises(ValueError, match=message):
    grid.load_sweep(QUICKSTART, [axis])


def test_an_axis_is_given_once():
  with pytest.raises(ValueError, match=r'--grid\.seed is given twice'):
    grid.load_sweep(QUICKSTART, ['seed=0', 'augmult=1', 'seed=1'])


def test_listed_commands_give_the_configs_of_the_points(monkeypatch):
  """Every command, read as the training program reads it, is the run that the sweep would make."""
  path = f'{ROOT}/experiments/figures/fig6_7_10_cifar.py:tiny'
  original = grid.load_sweep(path)
  base = grid.load_sweep(path).base
  base.dataset.data_dir = 'a folder'
  listed = original.with_base(base)
  points = listed.points[::15]
  lines = list(
    grid.commands(listed, points, original_base=original.base, config_path=path, workdir='runs/x')
  )
  for point, line in zip(points, lines, strict=True):
    words = shlex.split(line)
    assert words[:3] == ['python', '-m', 'nfnets_augmult.train']
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('config', flag_values=values)
    flags.DEFINE_string('workdir', None, 'Where.', flag_values=values)
    monkeypatch.setattr(sys, 'argv', words[2:])
    values(words[2:])
    assert configs.flatten(values.config) == configs.flatten(listed.config(point))
    assert values.workdir == f'runs/x/{grid.point_name(point)}'


def test_the_time_left_is_exact_on_a_straight_line():
  """Two seconds to start and one for ten units of work; proportional with a single run."""
  done = [(10.0, 3.0), (30.0, 5.0), (20.0, 4.0)]
  assert running.seconds_left(done, [40.0, 10.0]) == pytest.approx(6.0 + 3.0)
  assert running.seconds_left([(10.0, 3.0)], [20.0]) == pytest.approx(6.0)


def test_the_table_of_experiments_is_true():
  """The user guide lists all files, with their numbers of runs and hours, and those of variants."""
  text = (ROOT / 'docs' / 'sweeps.md').read_text(encoding='utf-8')
  rows = re.findall(r'\| `(\w+)\.py` \| ([\d,]+) \| ([\d,]+) \| ([\d., ]*) \| (\d+) \|', text)
  found = []
  for name, *stated in rows:
    path = ROOT / 'experiments' / 'figures' / f'{name}.py'
    full, tiny = (grid.load_sweep(f'{path}{argument}') for argument in ('', ':tiny'))
    small = ''
    if 'small' in _variants(path):
      sweep = grid.load_sweep(f'{path}:small')
      small = f'{len(sweep.points)}, {_hours(sweep, ASSUMED_SPEED_OF_A_CORE):.1f}'
    assert stated == [
      *(f'{len(full.points):,}', f'{full.accelerator_hours:,}', small, f'{len(tiny.points)}')
    ]
    found.append(path)
  assert sorted(found) == sorted(FILES)
