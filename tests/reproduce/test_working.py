"""Working until the time is over, and going on from there."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import pytest

from nfnets_augmult.report import recorded_runs, writing
from nfnets_augmult.reproduce import design as design_lib
from nfnets_augmult.reproduce import working
from nfnets_augmult.sweep import grid
from nfnets_augmult.training import records
from tests.toy_runs import stop_after, train_run

pytestmark = pytest.mark.extended

ROOT = pathlib.Path(__file__).parent.parent.parent
SCRIPT = ROOT / 'launch' / 'reproduce.sh'


@pytest.fixture
def design(monkeypatch):
  """One learning rate and two pairs of 4 or 8 steps."""
  monkeypatch.setattr(design_lib, '_MOST_LEARNING_RATES', 1)
  monkeypatch.setattr(working, '_MEASURED_STEPS', 6)
  monkeypatch.setattr(working, '_STEPS_PER_RECORD', 2)
  tiny = design_lib.load_design(f'{ROOT}/experiments/equal_updates.py:tiny')
  base = tiny.base.copy_and_resolve_references()
  base.dataset.test_split = 'train[200:264]'
  base.evaluation.train_images = 32
  sizes = [{'batch_size': 16, 'total_steps': steps} for steps in (4, 8, 10**6)]
  return dataclasses.replace(
    tiny, base=base.lock(), sizes=sizes, augmults=(1, 4), learning_rates=(0.05,), pairs=2
  )


def test_stopped_anywhere_it_goes_on_to_the_results_of_single_runs(design, tmp_path, capsys):
  """The size is chosen at the first start; the report compares the pairs, without seed 0."""
  workdir = str(tmp_path / 'work')
  # Stopped in the third run: while measuring it is asked 8 times or so, and by a run 6 times.
  arguments = {'seconds': 3600.0, 'stop_requested': stop_after(22)}
  assert not working.work(design, workdir, **arguments)
  plan = records.read_object(os.path.join(workdir, working.PLAN))
  assert plan['size'] == design.sizes[1]  # a million steps do not fit
  assert plan['images_per_second'] > 0
  begun = [run.status for run in recorded_runs.read_runs(os.path.join(workdir, working.RUNS))]
  assert 'finished' in begun and {'unfinished', 'missing'} & set(begun)
  assert working.work(design, workdir, seconds=1.0, stop_requested=lambda: False)
  assert records.read_object(os.path.join(workdir, working.PLAN)) == plan
  runs = recorded_runs.read_runs(os.path.join(workdir, working.RUNS))
  assert sorted((run.augmult, run.seed, run.updates) for run in runs) == [
    (n, seed, 8) for n in (1, 4) for seed in (0, 1, 2)
  ]
  assert {run.status for run in runs} == {'finished'}
  last = next(run for run in runs if (run.augmult, run.seed) == (4, 2))
  sweep = design.sweep(design.sizes[1], [])
  point = {'augmult': 4, 'optimizer.learning_rate': 0.05, 'seed': 2}
  _, alone = train_run(sweep.config(point), str(tmp_path / 'alone'))
  assert last.result == alone
  capsys.readouterr()
  assert working.work(design, workdir, seconds=1.0, stop_requested=lambda: False)
  assert not capsys.readouterr().out  # nothing is left to run
  writing.write_report(os.path.join(workdir, working.RUNS), str(tmp_path / 'report'))
  text = (tmp_path / 'report' / 'report.md').read_text(encoding='utf-8')
  assert '## n > 1 at equal updates' in text
  assert '| 4 against 1 | 0.05 and 0.05 |' in text


def test_a_run_of_another_process_is_left_to_it(design, tmp_path):
  """A process that finds nothing else waits, until it is stopped."""
  workdir = str(tmp_path)
  plan = {'size': design.sizes[0]}
  records.write_json(os.path.join(workdir, working.PLAN), plan)
  points, _ = design.points(lambda point: None)
  folders = [tmp_path / working.RUNS / grid.point_name(point) for point in points]
  with records.lock_workdir(str(folders[0])), records.lock_workdir(str(folders[1])):
    assert not working.work(design, workdir, seconds=1.0, stop_requested=stop_after(2))
  assert not [folder for folder in folders if (folder / 'config.json').exists()]


def test_a_failing_run_ends_it(design, tmp_path):
  base = design.base.copy_and_resolve_references()
  base.dataset.train_split = 'train[:8]'  # fewer images than a batch of n = 1 has
  wrong = dataclasses.replace(design, base=base.lock())
  with pytest.raises(ValueError, match=r'measured: failed: .* training images, 8'):
    working.work(wrong, str(tmp_path), seconds=1.0, stop_requested=lambda: False)


def _script(*arguments, **environment):
  return subprocess.run(
    [str(SCRIPT), *arguments],
    capture_output=True,
    text=True,
    env={**os.environ, 'PYTHON': sys.executable, **environment},
  )


def test_the_script(tmp_path):
  """Without a number of hours it says so; without any time it starts and stops."""
  for arguments in ((), ('--workdir=x',), ('eight',)):
    failed = _script(*arguments)
    assert failed.returncode == 1
    assert failed.stderr == ('error: say how many hours there are, as in launch/reproduce.sh 8\n')
  tiny = '--config=experiments/equal_updates.py:tiny'
  done = _script('0.0', tiny, '--data_dir=a b', f'--workdir={tmp_path}', '--processes=2')
  assert done.returncode == 0, done.stderr
  assert done.stdout == 'stopped; the same command goes on from there\n'
