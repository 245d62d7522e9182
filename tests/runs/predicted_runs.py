"""Toy runs to predict with, not trained, and image files; each made once in a session."""

import pathlib

import jax
import ml_collections
import numpy as np
from PIL import Image

from nfnets_augmult import configs
from nfnets_augmult.data.sources import digits_source
from nfnets_augmult.runs import images
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import records
from nfnets_augmult.training.checkpoints import Checkpoints
from tests import real_images, session, toy_runs


def digits() -> pathlib.Path:
  """Returns a folder with a `run` on digits, without TensorFlow, and its test images `files`."""
  return session.once('predicted_digits', _make_digits)


def photos() -> pathlib.Path:
  """Returns a folder with a `run` on photographs of seven formats, and the `files`."""
  return session.once('predicted_photos', _make_photos)


def _make_digits(folder: pathlib.Path) -> None:
  (folder / 'files').mkdir()
  # Programs predict with it, too.
  _write_run(toy_runs.device_config(model__name=toy_runs.PACKAGE_MODEL), folder)
  for number, image in enumerate(digits_source(split=f'test[:{toy_runs.TEST_IMAGES}]').images):
    Image.fromarray(image[..., 0]).save(folder / 'files' / f'{number:03}.png')


def _make_photos(folder: pathlib.Path) -> None:
  suffixes = ['jpg', 'png', 'webp', 'bmp', 'tif', 'gif', 'ppm']
  for number, photo in enumerate(real_images.photos(60, 40, 52)):
    split = 'train' if number < 32 else 'test'
    path = folder / 'files' / split / ('china', 'flower')[number % 2]
    real_images.save(photo, path / f'{number}.{suffixes[number % 7]}')
  config = toy_runs.toy_config(
    dataset__name='folder',
    dataset__data_dir=str(folder / 'files'),
    dataset__test_split='test',
    dataset__image_size=16,
    dataset__test_image_size=20,
    evaluation__crop_padding=4,
    augmentation__crop='inception',
  )
  _write_run(config, folder)


def _write_run(config: ml_collections.ConfigDict, folder: pathlib.Path) -> None:
  """Writes a run with random parameters, without the compilation that training takes."""
  (folder / 'run').mkdir()
  run = Run(config, str(folder / 'run'))
  random = np.random.default_rng(0)
  shapes = run.network.abstract_state
  state = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
  states = [
    jax.tree.map(lambda leaf: random.normal(0, 0.1, leaf.shape).astype(leaf.dtype), values)
    for values in (state.params, state.ema_params)
  ]
  records.write_json(f'{run.workdir}/config.json', configs.flatten(run.config))
  records.write_json(f'{run.workdir}/run.json', {'data': images.describe_data(run.data)})
  with Checkpoints(run.workdir, class_names=run.data.train.class_names) as checkpoints:
    checkpoints.save(state._replace(params=states[0], ema_params=states[1]))
