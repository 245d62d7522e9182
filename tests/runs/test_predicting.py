"""Predictions are those of the evaluation, whatever an image is given as; copies; files."""

import numpy as np
import pytest
from PIL import Image

from nfnets_augmult.data import crop_flip
from nfnets_augmult.data.folder_source import folder_source
from nfnets_augmult.data.sources import digits_source
from nfnets_augmult.runs import preprocessing
from nfnets_augmult.runs.evaluating import evaluate
from nfnets_augmult.runs.exporting import export
from nfnets_augmult.runs.predicting import load_predictor
from nfnets_augmult.runs.run import Run
from nfnets_augmult.weights.param_files import read_metadata, read_params, write_npz
from tests import toy_runs
from tests.runs import predicted_runs


@pytest.fixture(scope='module', name='predictor')
def _predictor():
  """Of digits."""
  return load_predictor(str(predicted_runs.digits() / 'run'))


@pytest.fixture(scope='module', name='digits')
def _digits():
  return digits_source(split=f'test[:{toy_runs.TEST_IMAGES}]')


def _assert_metrics_are(predictions, labels, expected):
  chosen = predictions.probabilities[np.arange(len(labels)), labels]
  top_1 = [predictions.class_names[label] for label in labels]
  hits = [best[0][0] == name for best, name in zip(predictions.top(), top_1, strict=True)]
  assert np.mean(hits) == pytest.approx(expected['top_1'])
  assert -np.log(chosen).mean() == pytest.approx(expected['cross_entropy'], rel=1e-5)


def test_image_files_are_predicted_as_evaluated():
  """Formats, crop and test resolution; the averaged and the last parameters."""
  folder = predicted_runs.photos()
  expected = evaluate(str(folder / 'run'), data_dir=str(folder / 'files'))
  source = folder_source(split='test', data_dir=str(folder / 'files'))
  paths = [f'{folder}/files/test/{path.decode()}' for path in source.paths]
  for parameters, name in (('averaged', 'ema'), ('last', 'raw')):
    predictor = load_predictor(str(folder / 'run'), parameters=parameters, batch_size=16)
    assert predictor.image_shape == (20, 20, 3)
    _assert_metrics_are(predictor(paths), source.labels, expected[name])
  assert predictor.shown(paths[0]).shape == (20, 20, 3)


def test_arrays_and_their_files_are_predicted_as_evaluated(predictor, digits):
  folder = predicted_runs.digits()
  predictions = predictor(digits.images)
  assert predictions.class_names == tuple('0123456789')
  _assert_metrics_are(predictions, digits.labels, evaluate(str(folder / 'run'))['ema'])
  paths = sorted((folder / 'files').iterdir())
  for same in (
    paths,
    [str(path) for path in paths],
    [Image.open(path) for path in paths],
    [Image.open(path).convert('RGB') for path in paths],
    digits.images[..., 0],
    list(np.repeat(digits.images, 3, axis=-1)),
  ):
    np.testing.assert_array_equal(predictor(same).probabilities, predictions.probabilities)
  assert predictor(paths[0]).top(3) == predictions.top(3)[:1]
  assert predictor([]).probabilities.shape == (0, 10)


def test_images_that_cannot_be_read(predictor, digits, tmp_path):
  """They have an error and no classes; the others in the batch are not touched."""
  (tmp_path / 'cut.png').write_bytes((predicted_runs.digits() / 'files/000.png').read_bytes()[:-9])
  (tmp_path / 'text.jpg').write_text('no image')
  bad = [tmp_path / 'cut.png', tmp_path / 'text.jpg', tmp_path / 'none.png', tmp_path]
  found = predictor([*bad, digits.images[0]])
  assert np.isnan(found.probabilities[:4]).all()
  assert [len(top) for top in found.top(2)] == [0, 0, 0, 0, 2]
  reasons = ('cut off', 'not an image', 'No such file', 'Is a directory', '')
  for error, words in zip(found.errors, reasons, strict=True):
    assert words in error and bool(words) == bool(error)
  np.testing.assert_array_equal(found.probabilities[4:], predictor(digits.images[:1]).probabilities)
  with pytest.raises(ValueError, match=r'float64 and the shape \(8, 8\) is no image'):
    predictor([digits.images[0, ..., 0] / 255])


def test_another_size_is_scaled_and_said_once(digits, monkeypatch):
  said = []
  monkeypatch.setattr(
    preprocessing.logging, 'warning', lambda text, *values: said.append(text % values)
  )
  predictor = load_predictor(str(predicted_runs.digits() / 'run'))
  large = [np.kron(image[..., 0], np.ones((9, 9), np.uint8)) for image in digits.images]
  wide = [np.pad(image, ((0, 0), (30, 30)), constant_values=99) for image in large]
  predictor(wide[:3])
  (text,) = [text for text in said if 'the network is for' in text]
  assert 'for images of 8 x 8 pixels' in text and 'of 132 x 72' in text
  for image, original in zip(wide, digits.images, strict=True):
    shown = predictor.shown(image)
    assert shown.shape == (8, 8, 1)
    assert np.corrcoef(shown.ravel(), original.ravel())[0, 1] > 0.98


def test_copies_are_augmented_and_averaged(predictor, digits, monkeypatch):
  """The mean over crops of the training, drawn from seed, content and number of the copy alone."""
  drawn = []
  draw = crop_flip.draw
  monkeypatch.setattr(crop_flip, 'draw', lambda s, crop: (drawn.append(s), draw(s, crop))[1])
  (found,) = predictor(digits.images[:1], copies=5, seed=3).probabilities
  (seeds,) = drawn
  assert len(np.unique(seeds, axis=0)) == 5
  drawn.clear()
  predictor(digits.images[[1, 0, 1]], copies=5, seed=3)
  # Images are read side by side: two of another content, equal ones alike, and the one above.
  by_image = sorted(np.stack(drawn).reshape(3, -1).tolist())
  assert seeds.reshape(-1).tolist() in by_image
  assert len({tuple(row) for row in by_image}) == 2
  crop = crop_flip.CropFlip(pad=2, pad_mode='constant', flip=False)
  copies = crop_flip.crop_and_flip(digits.images[:1], np.zeros(5, int), draw(seeds, crop), crop)
  assert len(np.unique(copies, axis=0)) > 1
  np.testing.assert_allclose(found, predictor(copies).probabilities.mean(axis=0), rtol=1e-5)

  other = load_predictor(str(predicted_runs.digits() / 'run'), batch_size=8)
  among = other(digits.images[::-1], copies=5, seed=3).probabilities[-1]
  np.testing.assert_allclose(among, found, rtol=1e-5)
  fewer = predictor(digits.images[:1], copies=4, seed=3).probabilities * 4
  (last,) = predictor(copies[4:]).probabilities
  np.testing.assert_allclose(found * 5 - fewer[0], last, atol=1e-5)
  assert not np.allclose(predictor(digits.images[:1], copies=5, seed=4).probabilities, found)
  for arguments in ({'copies': -1}, {'copies': 10**6}, {'copies': 1, 'seed': -1}):
    with pytest.raises(ValueError, match='must be'):
      predictor(digits.images[:1], **arguments)


def test_an_exported_file_predicts_the_same(predictor, digits, tmp_path):
  """It says all that is needed, and no path of the machine that it was made on."""
  path = str(tmp_path / 'digits.npz')
  export(path, workdir=str(predicted_runs.digits() / 'run'))
  said = read_metadata(path)
  assert not {'dataset.data_dir', 'init_from'} & said['config'].keys()
  expected = predictor(digits.images, copies=2).probabilities
  found = load_predictor(params=path)(digits.images, copies=2)
  np.testing.assert_array_equal(found.probabilities, expected)

  params, names = read_params(path), said['class_names']
  config = toy_runs.device_config(model__name=toy_runs.PACKAGE_MODEL)
  for without, options, words in (
    ({'config'}, {}, 'give config=CONFIG'),
    ({'class_names'}, {}, 'give class_names=NAMES'),
    ({'class_names'}, {'class_names': names[:4]}, 'is not of a network for 4 classes'),
    ({'normalization'}, {'config': config}, 'the size and the statistics of the images'),
    (set(), {'config': toy_runs.device_config(model__name='wrn_16_1')}, 'missing in the file'),
  ):
    write_npz(path, params, {key: value for key, value in said.items() if key not in without})
    with pytest.raises(ValueError, match=words):
      load_predictor(params=path, **options)
  bare = {key: said[key] for key in ('image_shape', 'normalization')}
  write_npz(path, params, bare)
  found = load_predictor(params=path, config=config, class_names=names)(digits.images, copies=2)
  np.testing.assert_array_equal(found.probabilities, expected)


def test_a_file_without_metadata_needs_config_and_names(tmp_path):
  """As a released one; images are read as the config says."""
  folder = predicted_runs.photos()
  config = Run.open(str(folder / 'run')).config
  path, exported = str(tmp_path / 'bare.npz'), str(tmp_path / 'exported.npz')
  export(exported, workdir=str(folder / 'run'))
  write_npz(path, read_params(exported))
  paths = sorted((folder / 'files' / 'test').rglob('*.*'))
  predictor = load_predictor(
    params=path, config=config, class_names=['china', 'flower'], batch_size=16
  )
  found = load_predictor(params=exported, batch_size=16)(paths)
  np.testing.assert_array_equal(predictor(paths).probabilities, found.probabilities)


@pytest.mark.parametrize(
  ('options', 'words'),
  [
    ({}, r'say what predicts'),
    ({'workdir': 'a', 'params': 'b'}, r'say what predicts'),
    ({'workdir': 'none'}, r"workdir='none' holds no run"),
    ({'workdir': 'none', 'class_names': ['a']}, r'go with params=FILE'),
    ({'params': 'none.npz'}, r'none.npz: No such file'),
    ({'workdir': 'none', 'parameters': 'best'}, r'parameters'),
    ({'params': 'none.npz', 'checkpoint': '3'}, r"checkpoint='3' .* are of a run"),
  ],
)
def test_what_cannot_predict(options, words):
  with pytest.raises(ValueError, match=words):
    load_predictor(**options)
