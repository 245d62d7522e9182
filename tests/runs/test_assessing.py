"""Assessments of runs: the numbers are those of the evaluation, names those of the data."""

import csv
import json
import os
import shutil

import jax
import numpy as np
import pytest

from nfnets_augmult import train
from nfnets_augmult.data.folder_source import folder_source
from nfnets_augmult.runs import assessing, run_page
from nfnets_augmult.runs.evaluating import evaluate
from nfnets_augmult.runs.predicting import load_predictor
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import records
from nfnets_augmult.training.watch import StopRequested
from tests import toy_runs
from tests.runs import predicted_runs


def _rows(folder, name='images.csv'):
  with open(os.path.join(folder, name), encoding='utf-8', newline='') as file:
    return list(csv.DictReader(file))


def _assert_agrees(assessment, means):
  """Accuracies image by image, the cross entropy up to the rounding of another program."""
  assert assessment['images'] == means['count']
  assert assessment['accuracy'] == pytest.approx(means['top_1'], abs=1e-9)
  assert assessment['top_5'] == pytest.approx(means['top_5'], abs=1e-9)
  assert assessment['cross_entropy'] == pytest.approx(means['cross_entropy'], rel=1e-5)


@pytest.mark.parametrize(
  ('parameters', 'name'),
  [('averaged', 'ema'), pytest.param('last', 'raw', marks=pytest.mark.extended)],
)
def test_the_numbers_of_the_evaluation(parameters, name, tmp_path):
  """Of 64 digits in batches of 40, which end with padding, on eight devices."""
  workdir = str(predicted_runs.digits() / 'run')
  found = evaluate(workdir, batch_size=40, report_dir=str(tmp_path), parameters=parameters)
  assessment = json.loads((tmp_path / 'assessment.json').read_text())
  assert assessment == found['assessment']
  assert (assessment['parameters'], assessment['step']) == (parameters, found['step'])
  assert assessment['split'] == f'digits/test[:{toy_runs.TEST_IMAGES}]'
  _assert_agrees(assessment, found[name])
  rows = _rows(tmp_path)
  assert [row['image'] for row in rows] == [str(index) for index in range(64)]
  predictor = load_predictor(workdir, parameters=parameters)
  digits = Run.open(workdir).data.test
  for row, (best,), label in zip(rows, predictor(digits.images).top(1), digits.labels, strict=True):
    assert (row['true'], row['predicted']) == (str(label), best[0])
    assert float(row['probability_predicted']) == pytest.approx(best[1], rel=1e-4)
  assert not os.path.exists(assessing.folder_of(workdir))
  assert 'assessment' not in evaluate(workdir)


def test_photographs_have_their_paths_and_bad_ones_are_counted(tmp_path):
  """Each photograph once; the one that does not decode is in no table."""
  shutil.copytree(predicted_runs.photos(), tmp_path / 'copy')
  folder, run = tmp_path / 'copy' / 'files', tmp_path / 'copy' / 'run'
  (bad,) = (folder / 'test' / 'flower').glob('37.*')
  bad.write_bytes(bad.read_bytes()[:-30])
  config = records.read_json(str(run / 'config.json'))
  config |= {'dataset.on_bad_image': 'skip', 'dataset.data_dir': str(folder)}
  records.write_json(str(run / 'config.json'), config)
  report = tmp_path / 'report'
  found = evaluate(str(run), report_dir=str(report))
  assessment = found['assessment']
  _assert_agrees(assessment, found['ema'])
  assert assessment['skipped_images'] == 1
  source = folder_source(split='test', data_dir=str(folder))
  paths = [path.decode() for path in source.paths]
  rows = _rows(report)
  assert [row['image'] for row in rows] == [path for path in paths if '/37.' not in path]
  assert len(rows) == len(paths) - 1 == assessment['images']
  for row in rows:
    assert row['true'] == row['image'].split('/')[0]
  assert {one['image'] for one in assessment['worst']} <= set(paths)
  # With the policy of before, the image ends the evaluation.
  with pytest.raises(ValueError, match='does not decode'):
    assessing.assess(
      Run.open(str(predicted_runs.photos() / 'run'), data_dir=str(folder)),
      Run.open(str(run)).restore().params,
      str(tmp_path / 'none'),
      step=0,
    )
  assert not (tmp_path / 'none').exists()


def test_the_folder_of_the_run_is_for_its_test_images(tmp_path):
  """Its page shows what is there as such, and the end of the run is not written over."""
  shutil.copytree(predicted_runs.photos(), tmp_path, dirs_exist_ok=True)
  run, others = str(tmp_path / 'run'), str(tmp_path / 'others')
  own = assessing.folder_of(run)
  moved = shutil.copytree(tmp_path / 'files', tmp_path / 'moved')
  found = evaluate(run, report_dir=own, split='test', data_dir=str(moved))['assessment']
  (name,) = (path.name for path in (moved / 'test' / 'flower').glob('37.*'))
  (moved / 'test' / 'flower' / name).rename(moved / 'test' / 'flower' / f'a{name}')
  data = {'data_dir': str(tmp_path / 'files')}
  for options in (
    {'split': 'train', **data},
    {'checkpoint': 'best', **data},
    {'parameters': 'last', **data},
    {'data_dir': str(moved)},
  ):
    for folder in (own, f'{own}/'):
      with pytest.raises(ValueError, match=r'evaluation, which run.html shows, .*report_dir=DIR'):
        evaluate(run, report_dir=folder, **options)
  assert assessing.read(run) == found
  evaluate(run, report_dir=others, data_dir=str(moved))


def _finished(workdir):
  """A run that is not trained, in its work directory, as if it were at its end."""
  shutil.copytree(predicted_runs.digits() / 'run', workdir)
  run = Run.open(str(workdir))
  step = int(run.restore().step)
  return run, {'step': step}


def test_a_finished_run_gets_its_assessment_once(tmp_path, monkeypatch):
  """Also if it was killed before, or there is one of another step."""
  run, result = _finished(tmp_path / 'run')
  found = assessing.of_finished_run(run, **result)
  _assert_agrees(found, evaluate(run.workdir)['ema'])
  assert found['split'].startswith('digits/test')
  assert assessing.read(run.workdir) == found
  monkeypatch.setattr(Run, 'restore', None)  # what is there is only read
  assert assessing.of_finished_run(run, **result) == found
  monkeypatch.undo()
  path = os.path.join(assessing.folder_of(run.workdir), 'assessment.json')
  records.write_json(path, {**found, 'step': 100, 'accuracy': 0.0})
  assert assessing.of_finished_run(run, **result) == found


def test_train_prints_it(tmp_path, capsys, caplog):
  """With parameters at hand; a stop is obeyed; what goes wrong is a warning with the command."""
  run, result = _finished(tmp_path / 'run')
  params = jax.tree.map(np.zeros_like, run.restore().ema_params)
  with pytest.raises(StopRequested):
    train._assess(run, result, params, lambda: True)
  assert capsys.readouterr().out == f'  page: {run.workdir}/run.html\n'
  train._assess(run, result, params)
  lines = capsys.readouterr().out.splitlines()
  assert lines[0].startswith('  top confusions: ') and 'are taken for class' in lines[0]
  assert lines[-3].startswith('  calibration error: ') and 'temperature' in lines[-3]
  assert ' % (by chance of 64 images: ' in lines[-3]
  assert lines[-2].endswith(assessing.folder_of(run.workdir))
  assert lines[-1] == f'  page: {run.workdir}/run.html'
  assessed = (tmp_path / 'run' / 'run.html').read_bytes()
  assert b'id="test"' in assessed
  assert assessing.read(run.workdir)['cross_entropy'] == pytest.approx(np.log(10))
  path = os.path.join(assessing.folder_of(run.workdir), 'assessment.json')
  with open(path, 'w', encoding='utf-8') as file:
    file.write('{')
  train._assess(run, result)
  assert capsys.readouterr().out.splitlines() == lines[-1:]  # as it was
  assert (tmp_path / 'run' / 'run.html').read_bytes() == assessed
  assert 'is damaged' in caplog.text
  assert f'nfnets_augmult.evaluate --workdir={run.workdir} --report' in caplog.text


def test_the_page_is_drawn_once(tmp_path, monkeypatch, caplog):
  """After the assessment, with it; also if that fails; not if there is nothing new to show."""
  run, result = _finished(tmp_path / 'run')
  drawn, params = [], run.restore().ema_params
  monkeypatch.setattr(run_page, 'write_run_page', lambda path: drawn.append(assessing.read(path)))
  with pytest.raises(StopRequested):
    train._assess(run, result, params, lambda: True)
  assert drawn == [None]
  train._assess(run, result, params)
  train._assess(run, result)
  assert drawn[1:] == [assessing.read(run.workdir)]
  shutil.rmtree(assessing.folder_of(run.workdir))
  train._assess(run, result)
  assert len(drawn) == 3 and drawn[2]

  def fail(path):
    raise OSError('the disk is full')

  monkeypatch.setattr(run_page, 'write_run_page', fail)
  train._assess(run, result, params)
  assert 'run.html is not drawn: the disk is full' in caplog.text


def test_several_hosts_leave_it_to_one(tmp_path, capsys, caplog, monkeypatch):
  """Each has a part of the images only."""
  run, result = _finished(tmp_path / 'run')
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  with caplog.at_level('INFO', logger='absl'):
    train._assess(run, result)
  assert f'evaluate --workdir={run.workdir} --report' in caplog.text
  assert assessing.read(run.workdir) is None and not capsys.readouterr().out


def test_ties_and_nan_are_another_class(tmp_path):
  """As the evaluation counts them: a network whose logits are all equal is never right."""
  run = Run.open(str(predicted_runs.digits() / 'run'))
  state = run.restore()
  for value in (0.0, np.nan):
    params = jax.tree.map(lambda leaf, v=value: np.full_like(leaf, v), state.params)
    folder = str(tmp_path / str(value))
    found = assessing.assess(run, params, folder, step=0)
    assert found['accuracy'] == 0
    assert all(true != predicted for true, predicted, _ in found['confusion'])


def test_another_number_of_classes(tmp_path):
  """As of a run from before classes were recorded."""
  run = Run.open(str(predicted_runs.digits() / 'run'))
  params = run.restore().params
  other = run.data.test.__class__(
    run.data.test.images, run.data.test.labels, ('a', 'b'), 'two classes'
  )
  run.data = run.data.__class__(run.data.train, other, run.data.image_shape, run.data.normalization)
  with pytest.raises(ValueError, match='two classes has 2 classes, and the network is for 10'):
    assessing.assess(run, params, str(tmp_path / 'none'), step=0)
