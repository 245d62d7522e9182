"""Exported programs run in their own runtimes, without Haiku, and compute what predict computes."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as export_lib

from nfnets_augmult.models import make_model, table
from nfnets_augmult.runs import programs
from nfnets_augmult.runs.exporting import export
from nfnets_augmult.runs.predicting import load_predictor
from nfnets_augmult.weights.param_files import read_metadata, read_params, write_npz
from tests import session
from tests.runs import predicted_runs

ROOT = pathlib.Path(__file__).parent.parent.parent


def _photos(folder):
  return sorted(path for path in (folder / 'files' / 'test').rglob('*.*'))


def _expected(folder, paths):
  """What the network gets of the images, and the probabilities."""
  predictor = load_predictor(str(folder / 'run'), batch_size=8)
  probabilities = predictor(paths).probabilities
  assert np.ptp(probabilities, axis=0).min() > 1e-3  # far more than the tolerance
  return np.stack([predictor.shown(path) for path in paths]), probabilities


def test_a_stablehlo_predicts_photographs_as_the_run_does(tmp_path):
  folder = predicted_runs.photos()
  path = str(tmp_path / 'photos.stablehlo')
  export(path, workdir=str(folder / 'run'))
  images = _photos(folder)
  of_run = load_predictor(str(folder / 'run'), batch_size=8)
  predictor = load_predictor(params=path, batch_size=8)
  found = predictor(images)
  assert found.class_names == of_run.class_names
  expected = of_run(images).probabilities
  np.testing.assert_allclose(found.probabilities, expected, rtol=1e-5, atol=1e-6)
  assert predictor.facts(copies=0, seed=0) == of_run.facts(copies=0, seed=0)
  for ask in (
    lambda: predictor(images, copies=2),
    lambda: predictor.facts(copies=2, seed=0),
  ):
    with pytest.raises(ValueError, match=r'copies=2: .* neither the augmentation'):
      ask()
  with pytest.raises(ValueError, match=r'photos.stablehlo has its own'):
    load_predictor(params=path, class_names=['a', 'b'])


def test_a_stablehlo_predicts_without_haiku(tmp_path):
  """The program, in a process in which neither Haiku nor the models can be imported."""
  folder = predicted_runs.digits()
  export(str(tmp_path / 'digits.stablehlo'), workdir=str(folder / 'run'))
  (tmp_path / 'haiku.py').write_text('raise ImportError("Haiku was imported")')
  (tmp_path / 'jmp.py').write_text('raise ImportError("jmp was imported")')
  files = sorted((folder / 'files').iterdir())[:3]
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'nfnets_augmult.predict', '--params=digits.stablehlo', '--top=10'),
      *('--output=p.csv', '--batch_size=4', *map(str, files)),
    ],
    cwd=tmp_path,
    env=session.one_device() | {'PYTHONPATH': f'{tmp_path}:{ROOT}'},
    capture_output=True,
    text=True,
    check=True,
  )
  assert 'p.csv: 3 images, predicted with digits.stablehlo' in done.stdout
  rows = (tmp_path / 'p.csv').read_text(encoding='utf-8').splitlines()[1:]
  for row, top in zip(rows, load_predictor(str(folder / 'run'))(files).top(10), strict=True):
    cells = row.split(',')
    assert cells[1:-1:2] == [name for name, _ in top]
    np.testing.assert_allclose([float(c) for c in cells[2:-1:2]], [p for _, p in top], rtol=1e-4)


def test_what_a_stablehlo_says_and_holds(tmp_path):
  """Its metadata; it is a parameter file, too, from which it can be written again."""
  run = str(predicted_runs.digits() / 'run')
  paths = [str(tmp_path / name) for name in ('a.stablehlo', 'b.npz', 'c.stablehlo')]
  count = export(paths[0], workdir=run)
  export(paths[1], params=paths[0])
  export(paths[2], params=paths[1])
  said = read_metadata(paths[0])
  assert said['class_names'] == list('0123456789') and said['step'] == 1
  program = said['program']
  assert program['preprocessing']['image_shape'] == [8, 8, 1]
  assert program['preprocessing']['is_of_arrays'] is True
  assert program['num_parameters'] == count
  assert {'cpu', 'cuda', 'tpu'} <= set(program['platforms'])
  assert {'compute_dtype', 'normalization', 'jax', 'nfnets_augmult'} <= program.keys()
  assert 'program' not in read_metadata(paths[1])
  assert read_metadata(paths[2]) == said
  for path in paths[1:]:
    for module, values in read_params(path).items():
      for name, value in values.items():
        np.testing.assert_array_equal(value, read_params(paths[0])[module][name])


def test_parameters_alone_do_not_make_a_program(tmp_path):
  """One line says what they lack, and no file is left."""
  path = str(tmp_path / 'a.npz')
  write_npz(path, {'net': {'w': np.ones(2, np.float32)}}, {'class_names': ['a', 'b']})
  for name, kind in (('b.stablehlo', ''), ('b.onnx', 'onnx'), ('b', 'saved_model')):
    with pytest.raises(ValueError, match='export from the directory of its run') as caught:
      export(str(tmp_path / name), params=path, format=kind)
    assert len(str(caught.value).splitlines()) == 1
  assert os.listdir(tmp_path) == ['a.npz']


@pytest.mark.extended
def test_a_saved_model_runs_in_tensorflow_alone(tmp_path):
  """Without JAX; its asset has the metadata; for batches of any size."""
  folder = predicted_runs.photos()
  images, expected = _expected(folder, _photos(folder)[:8])
  np.savez(tmp_path / 'expected.npz', images=images, probabilities=expected)
  export(str(tmp_path / 'model'), workdir=str(folder / 'run'), format='saved_model')
  code = """
import sys
sys.modules |= {'jax': None, 'haiku': None, 'nfnets_augmult': None}
import numpy as np
import tensorflow as tf
given = np.load('expected.npz')
predict = tf.saved_model.load('model').signatures['serving_default']
for size in (1, 8):
  found = predict(images=tf.constant(given['images'][:size]))['probabilities'].numpy()
  np.testing.assert_allclose(found, given['probabilities'][:size], rtol=1e-5, atol=1e-6)
"""
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  said = json.loads((tmp_path / 'model/assets/metadata.json').read_text(encoding='utf-8'))
  assert said['class_names'] == ['china', 'flower']
  assert said['program']['preprocessing']['crop'] == {'kind': 'crop_then_resize', 'padding': 4}
  with pytest.raises(ValueError, match='is there: name a new folder'):
    export(str(tmp_path / 'model'), workdir=str(folder / 'run'), format='saved_model')
  assert sorted(os.listdir(tmp_path)) == ['expected.npz', 'model']


@pytest.mark.extended
def test_an_onnx_file_runs_in_its_runtime(tmp_path):
  """For batches of any size; the metadata are among its properties."""
  onnxruntime = pytest.importorskip('onnxruntime', reason="needs pip install -e '.[onnx]'")
  pytest.importorskip('jax2onnx', reason="needs pip install -e '.[onnx]'")
  folder = predicted_runs.photos()
  images, expected = _expected(folder, _photos(folder)[:8])
  path = str(tmp_path / 'photos.onnx')
  export(path, workdir=str(folder / 'run'))
  running = onnxruntime.InferenceSession(path)
  for size in (1, 3, 8):
    (found,) = running.run(['probabilities'], {'images': images[:size]})
    np.testing.assert_allclose(found, expected[:size], rtol=1e-5, atol=1e-6)
  said = json.loads(running.get_modelmeta().custom_metadata_map['nfnets_augmult'])
  assert said['class_names'] == ['china', 'flower']
  assert said['program']['compute_dtype'] == 'float32'


@pytest.mark.parametrize(
  ('output', 'format', 'words'),
  [
    ('a', '', r"'a' must end in one of .npz, .*, or be a folder for --format=saved_model"),
    ('a.npz', 'stablehlo', r"'a.npz' must end in .stablehlo for --format=stablehlo"),
    ('a.npz', 'saved_model', r"'a.npz' must end in"),
    ('a', 'onnx', r"'a' must end in .onnx"),
    ('a', 'caffe', r'--format=caffe must be one of npz'),
    ('gs://b/a', 'saved_model', r'write the folder on this machine'),
  ],
)
def test_formats_and_suffixes_agree(output, format, words):
  with pytest.raises(ValueError, match=words):
    export(output, params='p.npz', format=format)


def test_an_nfnet_is_exported_with_one_algorithm_for_all_backends(monkeypatch):
  """Its convolutions do not depend on what is fastest on the machine that exports."""
  configs_read = []

  def stop(values, said, **unused):
    configs_read.append(said['config'])
    raise ValueError('enough')

  monkeypatch.setattr(programs.trained, 'from_values', stop)
  for model in ('nfnet_f0', 'wrn_16_4'):
    metadata = {'config': {'model.name': model}, 'class_names': ['a'], 'normalization': {}}
    with pytest.raises(ValueError, match='enough'):
      programs.write_stablehlo('a.stablehlo', {}, metadata)
  of_nfnet, of_wrn = configs_read
  assert of_nfnet == {'model.name': 'nfnet_f0', 'model.conv_algorithm': 'native'}
  assert of_wrn == {'model.name': 'wrn_16_4'}


def test_an_nfnet_is_traced_for_batches_of_any_size():
  model = make_model('nfnet_f0', num_classes=5)
  (batch,) = export_lib.symbolic_shape('b')
  images = jax.ShapeDtypeStruct((batch, 32, 32, 3), jnp.float32)
  params = table.abstract_params(model, 32)
  logits = jax.eval_shape(lambda p, x: model.apply(p, None, x, is_training=False), params, images)
  assert logits.shape == (batch, 5)
