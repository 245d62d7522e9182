"""Every key of a config with every kind of wrong value: one line that names the key, or it fits.

The cases are made from the config itself, so that a new key is tried from its first day on.
"""

import sys

import numpy as np
import pytest
from absl import flags

from nfnets_augmult import command_line, configs, recipes
from nfnets_augmult.data.sources import ArraySource
from nfnets_augmult.runs.images import Data
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training.step import Normalization

# None of these is a value of any key, except those in `_FITS`.
_NEVER = ('None', '', 'nan', 'inf', '-inf', '-1', 'text', 'True', '(1, 2)', '1e308', '(nan, inf)')
# Some keys take some of these.
_PERHAPS = ('-0.5', '0', '1', '1.5', '1e-50', f'{2**31}', f'{2**63}', f'{2**100}', '"1"')
_OF_PATHS = ('$NO_SUCH_VARIABLE/x', '${NO_SUCH_VARIABLE}', '~no_such_user/x')
_PATHS = ('dataset.data_dir', 'dataset.csv.image_dir', 'init_from')
_FITS = {
  ('evaluation.train_images', '-1'),  # all of them
  ('model.dropout_rate', 'None'),  # the model's default
  ('evaluation.crop_padding', 'None'),  # follows the resolution
  ('augmentation.inception.aspect', '(1, 2)'),
  ('dataset.canvas', '(1, 2)'),
  ('freeze', ''),  # nothing
  *((key, '') for key in _PATHS),  # the digits need none, and a run need not start from another
  *((f'dataset.csv.{what}_column', '') for what in ('path', 'label', 'split', 'group')),
}

_CONFIG = """
from nfnets_augmult import recipes
def get_config(which):
  config = recipes.tiny_digits_recipe() if which == 'digits' else recipes.nf_resnet_recipe()
  config.batch_size = 16
  config.total_steps, config.total_epochs = 10, 0.0
  config.input = 'device'
  config.augmentation.crop = 'pad'
  return config
"""


def _cases():
  """Yields the config, key and text of each case."""
  defaults = configs.flatten(configs.default_config())
  of_models = set(configs.flatten(recipes.nf_resnet_recipe())) - set(defaults)
  assert len(of_models) >= 3
  for key in (*defaults, *sorted(of_models)):
    if isinstance(defaults.get(key), str):
      texts = ('', *(_OF_PATHS if key in _PATHS else ()))
    elif isinstance(defaults.get(key, key != 'model.stochastic_depth_rate'), bool):
      texts = [text for text in _NEVER if text != 'True']
    else:
      texts = (*_NEVER, *_PERHAPS)
    for text in texts:
      yield 'digits' if key in defaults else 'imagenet', key, text


@pytest.fixture(scope='module', name='data')
def _data():
  """Of each config; tiny images in colour stand for ImageNet."""
  images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
  source = ArraySource(images, np.arange(64, dtype=np.int32) % 2, ('a', 'b'), 'random')
  normalization = Normalization((127.0,) * 3, (64.0,) * 3)
  config = recipes.tiny_digits_recipe()
  config.update(batch_size=16, augmult=1, total_steps=1)
  return {
    'digits': Run(config).data,
    'imagenet': Data(source, source, (32, 32, 3), normalization),
  }


class _Refused(Exception):
  pass


def _refuse(message):
  raise _Refused(message)


def _message(which, key, text, data, file, workdir, monkeypatch):
  """The error of the command line for a value; None if it would train."""
  monkeypatch.setattr(sys, 'argv', [])  # which the library of the flags reads
  values = flags.FlagValues()
  command_line.define_config_flag(flag_values=values)
  try:
    command_line.parse(['train', f'--config={file}:{which}', f'--config.{key}={text}'], values)
    # What another data set would be is for the loading to say.
    Run(values.config, workdir, data=None if key.startswith('dataset') else data[which]).prepare()
  except (_Refused, ValueError) as error:
    return str(error)
  return None


def _cached_by_network(function):
  """Caches a method of `Run` that traces the network, by network."""
  results = {}

  def cached(run):
    config = run.config
    key = (config.model.to_json(), config.compute_dtype, run.data.image_shape, config.batch_size)
    if key not in results:
      results[key] = function(run)
    return results[key]

  return cached


def test_every_value_of_every_key(data, tmp_path, monkeypatch):
  """At least three hundred of them: all in one line, before anything is written."""
  monkeypatch.setattr(command_line, 'fail', _refuse)
  monkeypatch.setattr(Run, 'network', property(_cached_by_network(Run.network.func)))
  monkeypatch.setattr(Run, '_check_memory', _cached_by_network(Run._check_memory))
  file = tmp_path / 'config.py'
  file.write_text(_CONFIG)
  workdir = tmp_path / 'run'
  cases, wrong = list(_cases()), []
  for which, key, text in cases:
    message = _message(which, key, text, data, file, str(workdir), monkeypatch)
    if message is None:
      if text in (*_NEVER, *_OF_PATHS) and (key, text) not in _FITS:
        wrong.append(f'{key}={text!r} is accepted')
    elif '\n' in message or not (
      message.startswith((f'{key}=', f'--config.{key}='))
      # A value that is none by itself may yet not go with others; the message names them all.
      or (text in _PERHAPS and key in message)
    ):
      wrong.append(f'{key}={text!r}: {message}')
    elif (key, text) in _FITS:
      wrong.append(f'{key}={text!r} fits, but: {message}')
  assert not wrong, '\n'.join(wrong)
  assert not workdir.exists()
  assert len(cases) > 300
