"""What a class index means: a run remembers, exports say it, and other classes are refused."""

import json
import os
import shutil

import jax
import numpy as np
import pytest

from experiments import quickstart_digits
from nfnets_augmult.data import array_files, loading
from nfnets_augmult.data.sources import ArraySource
from nfnets_augmult.runs import network
from nfnets_augmult.runs.evaluating import evaluate
from nfnets_augmult.runs.exporting import export
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import records
from nfnets_augmult.training.checkpoints import Checkpoints
from nfnets_augmult.weights import param_files
from tests.toy_runs import train_run

_NAMES = tuple(f'digit {number}' for number in range(10))


def _write(folder, names=_NAMES, splits=('train', 'test')):
  """Digits as arrays, whose labels count in `names`, a list of some of the names in any order."""
  sources = []
  for split in splits:
    digits = loading.load_source('digits', split=split)
    known = [name in names for name in _NAMES]
    kept = np.array(known)[digits.labels]
    labels = [names.index(_NAMES[label]) for label in digits.labels[kept]]
    sources.append(
      ArraySource(digits.images[kept], np.array(labels, np.int32), tuple(names), split)
    )
  array_files.write_data_set(str(folder), name='digits', train=sources[0], test=sources[1])
  return str(folder)


def _config(data_dir, **changes):
  config = quickstart_digits.get_config()
  config.dataset.name = 'arrays'
  config.dataset.data_dir = data_dir
  config.input = 'device'
  config.model.name = 'wrn_10_1'
  config.total_epochs = 0.0
  config.total_steps = 40
  config.evaluation.train_images = 0
  config.evaluation.every_epochs = 100.0
  config.update(changes)
  return config


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """(work directory, result) of a run on the digits with names of their own."""
  root = tmp_path_factory.mktemp('classes')
  config = _config(_write(root / 'data'))
  workdir = str(root / 'run')
  _, result = train_run(config, workdir)
  return workdir, result


def test_names_are_in_records_checkpoints_and_exports(finished, tmp_path):
  workdir, _ = finished
  assert tuple(records.read_data_description(workdir)['class_names']) == _NAMES
  with Checkpoints(workdir, read_only=True) as checkpoints:
    assert checkpoints.read_class_names() == _NAMES
  file = str(tmp_path / 'params.npz')
  export(file, workdir=workdir)
  said = param_files.read_metadata(file)
  assert tuple(said['class_names']) == _NAMES
  assert (said['model'], said['image_shape']) == ('wrn_10_1', [8, 8, 1])


def test_other_classes_are_refused_and_equal_names_can_be_mapped(finished, tmp_path):
  """In another order: refused, or mapped to the very same accuracy."""
  workdir, result = finished
  moved = _write(tmp_path / 'moved', _NAMES[5:] + _NAMES[:5])
  with pytest.raises(ValueError, match=r'in another place: .*--map_classes_by_name'):
    evaluate(workdir, data_dir=moved)
  mapped = evaluate(workdir, data_dir=moved, map_classes_by_name=True)
  assert mapped['raw']['top_1'] == pytest.approx(result['test/raw/top_1'], abs=2 / 360)
  assert 0.2 < result['test/raw/top_1'] < 1
  # The report has the classes of the run, and of each the same images.
  reports = [
    evaluate(workdir, report_dir=str(tmp_path / 'report'), **options)['assessment']
    for options in ({}, {'data_dir': moved, 'map_classes_by_name': True})
  ]
  for key in ('classes', 'confusion', 'top_confusions'):
    assert reports[0][key] == reports[1][key]
  assert [one['name'] for one in reports[0]['classes']] == list(_NAMES)

  renamed = _write(tmp_path / 'renamed')
  path = os.path.join(renamed, 'data_set.json')
  with open(path, encoding='utf-8') as file:
    described = json.load(file)
  described['class_names'][3] = 'letter E'
  with open(path, 'w', encoding='utf-8') as file:
    json.dump(described, file)
  for map_by_name in (False, True):
    with pytest.raises(ValueError, match='new here: letter E'):
      evaluate(workdir, data_dir=renamed, map_classes_by_name=map_by_name)


def test_fewer_classes_are_found_by_name(finished, tmp_path):
  """Without --map_classes_by_name the error has the numbers of classes, not shapes of arrays."""
  workdir, _ = finished
  some = _write(tmp_path / 'some', ('digit 7', 'digit 2'))
  with pytest.raises(ValueError, match=r'2 classes here, 10 in the run.*missing here: digit 0'):
    evaluate(workdir, data_dir=some)
  means = evaluate(workdir, data_dir=some, map_classes_by_name=True)
  labels = loading.load_source('digits', split='test').labels
  assert means['raw']['count'] == np.isin(labels, (2, 7)).sum()


def test_a_run_does_not_go_on_with_other_data(finished, tmp_path):
  """With renamed classes or more images it is refused; a new run may use them."""
  workdir, _ = finished
  own = str(tmp_path / 'run')
  shutil.copytree(workdir, own)
  moved = _write(tmp_path / 'moved', _NAMES[::-1])
  with pytest.raises(ValueError, match=r'not the one that this run was trained on.*another place'):
    Run(_config(moved), own).prepare()
  more = _write(tmp_path / 'more', splits=('test', 'train'))
  with pytest.raises(ValueError, match=r'train: 360 images, was 1,437; digit 0 .*test: 1,437 imag'):
    Run(_config(more), own).prepare()
  Run(_config(more), str(tmp_path / 'new')).prepare()


def test_images_are_normalized_as_in_training(finished, tmp_path):
  """And not by the statistics of the evaluated images."""
  workdir, _ = finished
  dark = str(tmp_path / 'dark')
  split = loading.load_source('digits', split='test')
  same = ArraySource(split.images, split.labels, _NAMES, 'test')
  other = ArraySource(split.images // 4, split.labels, _NAMES, 'train')
  array_files.write_data_set(dark, name='digits', train=other, test=same)
  means = evaluate(workdir, data_dir=dark)
  assert means['raw'] == evaluate(workdir)['raw']


@pytest.mark.parametrize('source', ['run', 'file'])
def test_a_classifier_for_other_classes_starts_anew(finished, tmp_path, source):
  """With as many, but other classes, the features are loaded and the classifier is not."""
  workdir, _ = finished
  if source == 'file':
    export(str(tmp_path / 'params.npz'), workdir=workdir)
    workdir = str(tmp_path / 'params.npz')
  kept = []
  for names in (_NAMES, _NAMES[::-1]):
    data_dir = _write(tmp_path / str(len(kept)), names)
    run = Run(_config(data_dir, init_from=workdir), str(tmp_path / 'new')).prepare()
    state, report = network.first_state(run.network, run.parameters_key, run.initial_params)
    kept.append(report.kept_fresh)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
  assert kept[0] == ()
  assert kept[1] == ('wide_res_net/classifier/b', 'wide_res_net/classifier/w')
