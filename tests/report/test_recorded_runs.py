"""What is read from work directories, and what follows from it, such as lengths."""

import dataclasses
import os

import pytest

from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.report import recorded_runs
from nfnets_augmult.training import records
from nfnets_augmult.training.plan import make_plan
from tests.report.records_of_runs import METRIC, make_run


def test_runs_that_an_earlier_version_trained_together_are_found(tmp_path):
  """Each in its folder below the common one, which is no run itself."""
  config = dict(make_run(0.5).config)
  records.write_json(str(tmp_path / 'config.json'), {**config, 'runs.seeds': [0, 1]})
  records.write_json(str(tmp_path / 'result.json'), {'run_0_0.1': {}})
  for seed in (0, 1):
    folder = tmp_path / f'run_{seed}_0.1'
    folder.mkdir()
    records.write_json(str(folder / 'config.json'), {**config, 'seed': seed})
  assert [(run.seed, run.status) for run in recorded_runs.read_runs(str(tmp_path))] == [
    *((0, 'unfinished'), (1, 'unfinished'))
  ]


def test_runs_are_read_whatever_state_they_are_in(tmp_path):
  """A sweep with runs to come, a killed run, and a single run beside them."""
  config = dict(make_run(0.5).config)
  point = {'seed': 5}
  sweep = {'base': config, 'points': {'seed=5': point}, 'published': []}
  for folder in ('sweep/seed=0/checkpoints/3', 'single'):
    (tmp_path / folder).mkdir(parents=True)
  records.write_json(str(tmp_path / 'sweep' / 'sweep.json'), sweep)
  records.write_json(str(tmp_path / 'sweep' / 'seed=0' / 'config.json'), config)
  (tmp_path / 'sweep' / 'seed=0' / 'metrics.jsonl').write_text('{"step": 5, "tr')
  records.write_json(str(tmp_path / 'single' / 'config.json'), {**config, 'augmult': 4})
  result = {METRIC: 0.5, 'step': 3, 'epoch': 0.24}
  records.write_json(str(tmp_path / 'single' / 'result.json'), result)
  # Of other programs.
  (tmp_path / 'other').mkdir()
  records.write_json(str(tmp_path / 'other' / 'config.json'), {'theirs': 1})
  found = {
    os.path.relpath(run.path, tmp_path): run for run in recorded_runs.read_runs(str(tmp_path))
  }
  assert {name: run.status for name, run in found.items()} == {
    'single': 'finished',
    'sweep/seed=0': 'unfinished',
    'sweep/seed=5': 'missing',
  }
  assert found['sweep/seed=5'].config['seed'] == 5
  assert (found['single'].augmult, found['single'].unique_images_per_batch) == (4, 16)
  assert {run.num_images for run in found.values()} == {200}
  (tmp_path / 'single' / 'result.json').write_text('{"a":')
  with pytest.raises(ValueError, match=r'result\.json is damaged'):
    recorded_runs.read_runs(str(tmp_path))
  with pytest.raises(ValueError, match='is not a folder'):
    recorded_runs.read_runs(str(tmp_path / 'nowhere'))


def test_lengths_of_runs_to_come_are_derived_from_a_finished_one():
  """Epochs and updates, which tell the number of images: 6,400 in `make_run`."""
  finished = make_run(0.5)
  assert finished.recorded_num_images == 6400
  to_come = [
    dataclasses.replace(run, num_images=6400)
    for run in (
      make_run(status='missing', augmult=4, total_epochs=16.0),
      make_run(status='missing', augmult=4, placement='neighbouring', total_epochs=16.0),
      make_run(status='missing', augmult=4, total_epochs=0.0, total_steps=6400),
    )
  ]
  assert [(run.epochs, run.updates) for run in to_come] == [(16.0, 6400)] * 3
  assert make_run(status='missing').updates is None


def test_updates_are_those_of_the_plan():
  """1.1 epochs of 50,000 images at 50 unique ones a batch are 1,100 updates, in run and report."""
  keys = {'total_epochs': 1.1, 'total_steps': 0, 'unique_images_per_batch': 50, 'batch_size': 0}
  run = dataclasses.replace(make_run(status='missing', **keys), num_images=50_000)
  assert run.updates == 1_100
  multiplicity = Multiplicity(50_000, 50, run.augmult, 0)
  assert make_plan(multiplicity, learning_rate=0.1, total_epochs=1.1).total_steps == 1_100


def test_the_number_of_images_is_read_from_the_record(tmp_path):
  """Of a run that has only begun; what an older version wrote there is text, and tells nothing."""
  config = dict(make_run(0.5).config)
  records.write_json(str(tmp_path / 'config.json'), config)
  for plan, expected in (({'num_train_images': 640}, 640), ({'total': '12 steps'}, None)):
    records.write_json(str(tmp_path / 'run.json'), {'plan': plan})
    (run,) = recorded_runs.read_runs(str(tmp_path))
    assert run.num_images == expected
