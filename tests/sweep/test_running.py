"""Running sweeps: results, divergence, failures, stops, locks."""

import fcntl
import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from nfnets_augmult.recipes import tiny_digits_recipe
from nfnets_augmult.report import recorded_runs, writing
from nfnets_augmult.runs.run import Run
from nfnets_augmult.sweep import grid, groups, running
from nfnets_augmult.training import records
from nfnets_augmult.training.watch import StopRequested
from tests.toy_runs import ToyNet, stop_after, train_run


def _base():
  """Six steps of 16 samples, two a device."""
  base = tiny_digits_recipe()
  base.model.name = 'toy'
  base.batch_size = 16
  base.total_steps = 6
  base.dataset.test_split = 'train[200:264]'
  base.evaluation.train_images = 32
  return base


def _sweep():
  """Two runs that finish, one that diverges, and one whose model does not exist."""
  points = grid.grid({'augmult': (1, 2), 'optimizer.learning_rate': (0.05,)})
  points.append({'augmult': 1, 'optimizer.learning_rate': 1e9})
  points.append({'augmult': 2, 'dataset.train_split': 'nonesuch'})
  return grid.Sweep('A test', _base(), points, 'Nothing in particular.')


def _alone(points):
  return [[point] for point in points]


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  """The work directory and the tally of the sweep, run to its end."""
  workdir = str(tmp_path_factory.mktemp('sweep'))
  tested = _sweep()
  grid.describe(tested, workdir)
  return workdir, running.run_sweep(tested, _alone(tested.points), workdir)


def _status(workdir, name):
  return records.read_status(os.path.join(workdir, name))


def test_every_point_gets_its_result_despite_failures_of_others(done):
  """Diverging is a result; a failure is recorded with its reason, and the log has the traceback."""
  workdir, tally = done
  assert tally.counts == {'finished': 2, 'diverged': 1, 'failed': 1}
  names = list(_sweep().named_points())
  assert [_status(workdir, name)[0] for name in names] == [
    *('finished', 'finished', 'diverged', 'failed')
  ]
  assert 'of step' in _status(workdir, names[2])[1]
  assert "no split 'nonesuch'" in _status(workdir, names[3])[1]
  with open(os.path.join(workdir, names[3], 'log.txt')) as log:
    assert 'Traceback' in log.read()
  with open(os.path.join(workdir, names[0], 'log.txt')) as log:
    assert 'unique images per batch' in log.read()


def test_the_same_command_again_repeats_only_what_failed(done, capsys):
  workdir, _ = done
  tested = _sweep()
  again = running.run_sweep(tested, _alone(tested.points), workdir)
  assert again.counts == {'finished': 2, 'diverged': 1, 'failed': 1}
  assert not again.costs_and_seconds  # a run that fails says nothing of how long others take
  assert re.findall(r'\[(\d)/4\]', capsys.readouterr().out) == ['4']


def test_a_stopped_sweep_goes_on_to_the_results_of_single_runs(done, tmp_path):
  """Stopped between two steps of its second point, it ends like training each point alone."""
  workdir, _ = done
  tested = _sweep()
  points = tested.points[:2]
  grid.describe(tested, str(tmp_path))
  with pytest.raises(StopRequested):
    running.run_sweep(tested, _alone(points), str(tmp_path), stop_requested=stop_after(10))
  names = [grid.point_name(point) for point in points]
  assert [_status(tmp_path, name)[0] for name in names] == ['finished', 'unfinished']
  assert running.run_sweep(tested, _alone(points), str(tmp_path)).counts == {'finished': 2}
  alone = str(tmp_path / 'alone')
  _, result = train_run(tested.config(points[1]), alone)
  for folder in (tmp_path, workdir):
    assert records.read_json(os.path.join(folder, names[1], 'result.json')) == result


def test_seeds_share_programs_and_end_like_single_runs(tmp_path, monkeypatch):
  """Bit for bit, in folders and records of their own. Another learning rate has its own program."""
  traced = []
  trace = ToyNet.__call__
  monkeypatch.setattr(
    ToyNet, '__call__', lambda *args, **options: traced.append(1) or trace(*args, **options)
  )
  points = grid.grid({'seed': (0, 1, 2), 'optimizer.learning_rate': (0.05, 0.1)})
  tested = grid.Sweep('Seeds', _base(), points, 'Nothing in particular.')
  counts = []
  workdir = str(tmp_path / 'sweep')
  tally = running.run_sweep(
    tested, _alone(points), workdir, report=lambda text: counts.append(len(traced))
  )
  assert tally.counts == {'finished': 6}
  # Of later seeds only the initial parameters are traced, which are made outside of a program.
  assert np.diff(counts).tolist() == [counts[0], 1, 1, 1, 1]
  assert counts[0] > 3
  results = set()
  for point in points:
    alone = str(tmp_path / 'alone' / grid.point_name(point))
    state, result = train_run(tested.config(point), alone)
    folder = os.path.join(workdir, grid.point_name(point))
    assert records.read_json(os.path.join(folder, 'result.json')) == result
    jax.tree.map(np.testing.assert_array_equal, Run.open(folder).restore(), state)
    results.add(result['test/raw/cross_entropy'])
  assert len(results) == 6


@pytest.mark.extended
def test_seeds_share_programs_with_batches_of_the_host(tmp_path):
  """Which image fills a slot depends on the seed, also where classes are drawn equally often."""
  base = _base()
  base.input, base.dataset.balance, base.dataset.train_split = 'tf.data', 'classes', 'train[:45]'
  points = grid.grid({'seed': (0, 1)})
  tested = grid.Sweep('Seeds', base, points, 'Nothing in particular.')
  running.run_sweep(tested, _alone(points), str(tmp_path / 'sweep'))
  results = set()
  for point in points:
    name = grid.point_name(point)
    state, result = train_run(tested.config(point), str(tmp_path / 'alone' / name))
    folder = os.path.join(tmp_path, 'sweep', name)
    assert records.read_json(os.path.join(folder, 'result.json')) == result
    jax.tree.map(np.testing.assert_array_equal, Run.open(folder).restore(), state)
    results.add(result['test/raw/cross_entropy'])
  assert len(results) == 2


def test_programs_are_kept_for_so_many_shapes_of_one_data_set(monkeypatch):
  monkeypatch.setattr(running, '_MOST_SHAPES', 2)
  runs = running._Runs(_sweep())
  first, second, third = ({'augmult': n, 'seed': 0} for n in (1, 2, 4))
  network, data = runs.make(first, '').network, runs.make(first, '').data
  assert runs.make(second, '').network is not network
  assert runs.make(second, '').data is data
  assert runs.make({**first, 'seed': 1}, '').network is network
  runs.make(third, '')
  assert runs.make(first, '').network is not network
  network, data = runs.make(first, '').network, runs.make(first, '').data
  assert runs.make({**first, 'dataset.train_split': 'train[:100]'}, '').data is not data
  assert runs.make(first, '').network is not network


def test_a_point_that_another_process_runs_is_skipped(tmp_path):
  tested = _sweep()
  folder = tmp_path / grid.point_name(tested.points[0])
  folder.mkdir()
  with open(folder / '.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert running.run_sweep(tested, _alone(tested.points[:1]), str(tmp_path)).counts == {
      'elsewhere': 1
    }
  assert not (folder / 'config.json').exists()


def test_no_point_runs_if_one_of_them_is_not_valid(tmp_path):
  """The message names it."""
  for wrong, message in (
    ({'batch_size': 15, 'augmult': 2}, 'augmult=2: augmult=2 does not divide batch_size=15'),
    ({'total_epochs': 3.0}, 'total_epochs=3: total_epochs=3.0 and .* state the length'),
  ):
    points = [{'seed': 0}, wrong]
    tested = grid.Sweep('A test', _base(), points, 'Nothing.')
    with pytest.raises(ValueError, match=message):
      running.check(tested, points, str(tmp_path))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize('file', ['config.json', 'status.json'])
def test_a_damaged_record_affects_only_its_run(file, tmp_path):
  """A run with a damaged status is run again; one with a damaged config fails."""
  base = _base()
  base.total_steps = 1
  tested = grid.Sweep('A test', base, [{'seed': 0}, {'seed': 1}], 'Nothing.')
  (tmp_path / 'seed=0').mkdir()
  (tmp_path / 'seed=0' / file).write_text('{"a":')
  running.check(tested, tested.points, str(tmp_path))
  tally = running.run_sweep(tested, _alone(tested.points), str(tmp_path))
  if file == 'status.json':
    assert tally.counts == {'finished': 2}
  else:
    assert tally.counts == {'failed': 1, 'finished': 1}
    assert 'config.json is damaged' in _status(tmp_path, 'seed=0')[1]


def _together_sweep(seeds):
  """Two learning rates, of which one diverges, and two lengths."""
  base = _base()
  base.input = 'device'
  axes = {'total_steps': (4, 6), 'optimizer.learning_rate': (0.05, 1e9), 'seed': seeds}
  return grid.Sweep('A test', base, grid.grid(axes), 'Nothing.')


def _run_together(tested, workdir, **options):
  todo = [
    group for shape in groups.by_shape(tested.points) for group in groups.split(shape, workdir)
  ]
  return todo, running.run_sweep(tested, todo, workdir, **options)


@pytest.mark.extended
@pytest.mark.long
def test_points_of_one_shape_train_together(tmp_path):
  """Stopped and resumed: statuses and results are those of single runs, in the same folders."""
  tested = _together_sweep((0, 1))
  grid.describe(tested, str(tmp_path))
  with pytest.raises(StopRequested):
    _run_together(tested, str(tmp_path), stop_requested=stop_after(12))
  todo, tally = _run_together(tested, str(tmp_path))
  assert [len(group) for group in todo] == [1, 1, 1, 1, 4]  # the first group was done
  assert tally.counts == {'finished': 4, 'diverged': 4}
  found = recorded_runs.read_runs(str(tmp_path))
  assert len(found) == 8
  point = {'total_steps': 6, 'optimizer.learning_rate': 0.05, 'seed': 1}
  _, alone = train_run(tested.config(point), str(tmp_path / 'alone'))
  ours = records.read_json(os.path.join(tmp_path, grid.point_name(point), 'result.json'))
  assert ours['step'] == alone['step'] == 6
  assert ours['test/raw/cross_entropy'] == pytest.approx(alone['test/raw/cross_entropy'], rel=1e-4)
  _, again = _run_together(tested, str(tmp_path))
  assert again.counts == tally.counts and not again.costs_and_seconds


def test_groups_depend_on_what_has_been_run(tmp_path):
  """New seeds form a group without those that are done; a group that was started stays one."""
  workdir = str(tmp_path)
  tested = _together_sweep((0, 1))
  shape, _ = groups.by_shape(tested.points)
  assert [p['seed'] for p in shape] == [0, 1, 0, 1]
  groups.write_record(shape, groups.checkpoint_folder(shape, workdir))
  grown = _together_sweep((0, 1, 2, 3))
  shape, other = groups.by_shape(grown.points)
  sizes = [len(group) for group in groups.split(shape, workdir)]
  assert sizes == [4, 4]
  assert [len(group) for group in groups.split(other, workdir)] == [8]
  for point in shape:
    if point['seed'] < 2:
      records.write_status(str(tmp_path / grid.point_name(point)), 'diverged', 'of old')
  assert [len(group) for group in groups.split(shape, workdir)] == [1, 1, 1, 1, 4]


def test_groups_have_folders_of_their_own(tmp_path):
  """Also groups of the same shape and size, but other points."""
  shape, other = groups.by_shape(_together_sweep((0, 1)).points)
  folders = {
    groups.checkpoint_folder(group, str(tmp_path)) for group in (shape, shape[:2], shape[2:], other)
  }
  assert len(folders) == 4
  assert groups.checkpoint_folder(shape[:1], 'w') == f'w/{grid.point_name(shape[0])}'


def test_runs_that_an_earlier_version_trains_together_are_not_trained_twice(tmp_path):
  """The group has a config of its own; once finished, it is ignored."""
  (shape, _) = groups.by_shape(_together_sweep((0, 1)).points)
  folder = tmp_path / 'together' / 'total_steps=4,4_runs'
  folder.mkdir(parents=True)
  (folder / 'config.json').write_text('{}')
  with pytest.raises(ValueError, match=r'earlier version .* remove the folder'):
    groups.split(shape, str(tmp_path))
  (folder / 'result.json').write_text('{}')
  assert groups.split(shape, str(tmp_path)) == [shape]
  (folder / 'group.json').write_text('{"points": 3}')
  with pytest.raises(records.DamagedError, match=r'group.json is damaged: it has no points'):
    groups.split(shape, str(tmp_path))


def test_groups_of_a_single_host_stay_the_same():
  """In the same order."""
  points = _together_sweep((0, 1)).points
  made = [[points[5], points[1]], [points[0]], [points[2], points[3]]]
  assert groups.broadcast_from_first_host(made, points) == made
  assert groups.broadcast_from_first_host([], points) == []


def test_a_failure_is_recorded_for_all_points_of_a_group(tmp_path, monkeypatch):
  def fail(*_, **__):
    raise ValueError('no memory for so many runs')

  monkeypatch.setattr(running.training, 'train', fail)
  tested = _together_sweep((0, 1))
  _, tally = _run_together(tested, str(tmp_path))
  assert tally.counts == {'failed': 8}
  assert 'no memory' in _status(tmp_path, grid.point_name(tested.points[0]))[1]


def test_a_report_can_be_written_of_the_sweep(done, tmp_path):
  workdir, _ = done
  writing.write_report(workdir, str(tmp_path))
  text = (tmp_path / 'report.md').read_text(encoding='utf-8')
  assert '4 runs: 1 diverged, 1 failed, 2 finished' in text
  assert "no split 'nonesuch'" in text


def test_the_command_line_ends_with_a_status(tmp_path):
  """Failures give status 1, and listing runs nothing."""
  file = tmp_path / 'tiny.py'
  file.write_text(
    'from nfnets_augmult import recipes\n'
    'from nfnets_augmult.sweep import grid\n'
    'def get_sweep(argument=""):\n'
    '  base = recipes.tiny_digits_recipe()\n'
    '  base.batch_size = 16\n'
    '  base.total_steps = 1\n'
    '  points = grid.grid({"dataset.train_split": ("none",), "seed": (0, 1)})\n'
    '  return grid.Sweep("Tiny", base, points, "Nothing.")\n'
    'def get_config(argument=""):\n'
    '  return get_sweep(argument).base\n'
  )

  def start(*arguments):
    return subprocess.run(
      [sys.executable, '-m', 'nfnets_augmult.sweep', f'--config={file}', *arguments],
      capture_output=True,
      text=True,
      check=False,
    )

  workdir = f'--workdir={tmp_path / "sweep"}'
  listed = start(workdir, '--list', '--shard=1/2')
  assert listed.returncode == 0
  assert len(listed.stdout.splitlines()) == 1 and 'seed=1' in listed.stdout
  assert not (tmp_path / 'sweep').exists()
  failed = start(workdir)
  assert failed.returncode == 1
  assert 'error: 2 runs failed' in failed.stderr
  other = start(workdir, '--config.batch_size=32')
  assert other.returncode == 1
  assert 'holds another sweep' in other.stderr
  assert json.loads((tmp_path / 'sweep' / 'sweep.json').read_text())['base']['batch_size'] == 16


def test_images_that_no_run_finds_are_one_error(tmp_path):
  """Before the first run, which leaves no folder."""
  base = _base()
  base.dataset.name, base.dataset.data_dir = 'arrays', str(tmp_path / 'nowhere')
  points = grid.grid({'augmult': (1, 2)})
  tested = grid.Sweep('A test', base, points, 'Nothing in particular.')
  workdir = tmp_path / 'sweep'
  with pytest.raises(ValueError, match=r'^dataset.data_dir=.*nowhere'):
    running.run_sweep(tested, _alone(points), str(workdir))
  assert not workdir.exists()


@pytest.mark.parametrize(
  ('workdir', 'folder'),
  [('runs/one', 'runs/one/.compiled'), ('gs://bucket/one', '/caches/nfnets_augmult/compiled')],
)
def test_compiled_programs_are_not_kept_in_a_bucket(workdir, folder, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', '/caches')
  kept = []
  monkeypatch.setattr(running.compiled_programs, 'keep_in', kept.append)
  running.cache_compiled_programs(workdir)
  assert kept == [folder]
