"""Runs whose devices make the copies of encoded photographs, which the host sends at each step."""

import functools
import os

import jax
import numpy as np
import pytest

from nfnets_augmult.data import canvases
from nfnets_augmult.runs import batches, pictures, settings, training
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import devices, records
from nfnets_augmult.training.checkpoints import Checkpoints
from nfnets_augmult.training.watch import StopRequested
from tests import shared_data
from tests.toy_runs import stop_after, toy_config, train_run


def _config(**changes):
  """Six steps of 16 copies, four of each photograph, with all that NFNets are trained with."""
  config = toy_config(
    **{
      'input': 'device',
      'total_steps': 6,
      'dataset__name': 'imagenet2012',
      'dataset__data_dir': shared_data.tfds_dir(),
      'dataset__test_split': 'validation',
      'dataset__image_size': 16,
      'dataset__on_bad_image': 'skip',
      'dataset__jpeg_scaling': False,
      'dataset__canvas': (512, 512),
      'augmentation__crop': 'inception',
      'augmentation__mixup__share': 0.5,
      'augmentation__cutmix__share': 0.5,
      'augmentation__randaugment__layers': 1,
      'augmentation__randaugment__behaviour': 'pil',
      'augmentation__flip': True,
      'optimizer__learning_rate': 0.01,
      'optimizer__warmup_steps': 0,
      'evaluation__every_epochs': 1.0,
      'evaluation__train_images': 0,
      'checkpoint__every_steps': 4,
      'log_every_steps': 1,
      **changes,
    }
  )
  return config


_PLACEMENTS = {
  'within': {'placement': 'within', 'unique_images_per_batch': 4},
  'neighbouring': {'placement': 'neighbouring', 'unique_images_per_batch': 16},
}


@pytest.fixture(name='without_contact_sheet')
def _without_contact_sheet(monkeypatch):
  """A contact sheet takes two more programs; another test looks at one."""
  monkeypatch.setattr(pictures, 'draw_contact_sheet', lambda run: None)


@pytest.fixture(scope='module', name='run')
def _run(tmp_path_factory):
  """Runs a placement once: (state, result, losses of all steps)."""

  @functools.cache
  def run(placement, place='device'):
    workdir = tmp_path_factory.mktemp('run')
    state, result = train_run(_config(input=place, **_PLACEMENTS[placement]), str(workdir))
    found = records.read_metrics(str(workdir / 'metrics.jsonl'))
    return state, result, [record['train/loss'] for record in found if 'train/loss' in record]

  return run


@pytest.mark.extended
@pytest.mark.long
@pytest.mark.usefixtures('without_contact_sheet')
@pytest.mark.parametrize('placement', ['within', 'neighbouring'])
def test_trains_as_with_tf_data(run, placement):
  """The loss of every step, on eight devices."""
  ours, theirs = (run(placement, place)[2] for place in ('device', 'tf.data'))
  assert len(ours) == 6
  np.testing.assert_allclose(ours, theirs, rtol=2e-3)


@pytest.mark.extended
@pytest.mark.usefixtures('without_contact_sheet')
def test_a_stopped_run_goes_on_bit_for_bit(run, tmp_path):
  """With successive batches, of which a group of four is left after two."""
  config = _config(**_PLACEMENTS['neighbouring'])
  with pytest.raises(StopRequested):
    train_run(config, str(tmp_path), stop_requested=stop_after(2))
  with Checkpoints(str(tmp_path), read_only=True) as checkpoints:
    assert 0 < checkpoints.latest_step < 6
  resumed, again = train_run(config, str(tmp_path))
  state, result, _ = run('neighbouring')
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(resumed), strict=True):
    np.testing.assert_array_equal(a, b)
  assert result == again


def test_the_contact_sheet_shows_what_the_device_makes(monkeypatch):
  run = Run(_config())
  (batch,) = run.train_batches(2, 3, hosts=(0, 1))
  (by_host,) = Run(_config(input='tf.data')).train_batches(2, 3, hosts=(0, 1))
  for key in by_host.keys() - {'image'}:
    np.testing.assert_array_equal(batch[key], by_host[key], err_msg=key)
  assert np.mean(np.abs(batch['image'].astype(int) - by_host['image']) > 8) < 0.05
  seen, make = [], canvases.device_copies.make_images
  monkeypatch.setattr(
    canvases.device_copies,
    'make_images',
    lambda *arrays, **options: seen.append(options['augmentation']) or make(*arrays, **options),
  )
  sheet = pictures.contact_sheet_of(run)
  assert sheet.height > 4 * 64
  assert run.settings.augmentation in seen


def test_what_cannot_be_is_refused(monkeypatch):
  """Several steps at once, groups of runs, canvases that do not fit; the message names a key."""
  with pytest.raises(ValueError, match='steps_per_dispatch=2 must be 1 for imagenet2012'):
    Run(_config(steps_per_dispatch=2)).prepare()
  with pytest.raises(ValueError, match='held in memory'):
    training.check_group([Run(_config()), Run(_config(seed=1))])
  with pytest.raises(ValueError, match=r"dataset\.cache='host' needs input='device'"):
    settings.read(_config(dataset__cache='host', input='tf.data'))
  Run(_config(dataset__cache='host')).prepare()
  with monkeypatch.context() as context:
    # 256 canvases of 768 KiB are 192 MiB.
    pages = {'SC_PAGE_SIZE': 2**12, 'SC_PHYS_PAGES': 2**16}
    context.setattr(batches.os, 'sysconf', pages.get)
    with pytest.raises(ValueError, match=r"dataset\.cache='host': 256 images .* up to 0 GiB, m"):
      Run(_config(dataset__cache='host')).prepare()
    pages['SC_PHYS_PAGES'] = 2**9
    with pytest.raises(ValueError, match=r'dataset\.canvas=\(512, 512\): the images of the steps'):
      Run(_config()).prepare()
  with pytest.raises(ValueError, match=r'off with augmentation\.randaugment\.layers=0'):
    Run(_config(dataset__image_size=2049)).prepare()
  monkeypatch.setattr(devices, 'memory_limit', lambda: 10_000_000)
  with pytest.raises(ValueError, match=r'dataset\.canvas=\(512, 512\): the images of a step take'):
    Run(_config()).prepare()
  Run(_config(dataset__canvas=(64, 64))).prepare()


@pytest.mark.parametrize('canvas', [(10,), (0, 10), (10, 10.5)])
def test_bad_canvases_are_refused(canvas):
  with pytest.raises(ValueError, match=r'dataset\.canvas='):
    settings.read(_config(dataset__canvas=canvas))


def test_images_held_in_memory_may_be_mixed_on_the_device(tmp_path):
  """The digits with Mixup: the host sends the images of each step, and no TensorFlow is needed."""
  changes = {'augmentation__mixup__share': 1.0, 'total_steps': 2, 'log_every_steps': 1}
  changes |= {'optimizer__warmup_steps': 0}
  losses = []
  for place in ('device', 'tf.data'):
    config = toy_config(input=place, **changes)
    train_run(config, str(tmp_path / place))
    found = records.read_metrics(os.path.join(tmp_path, place, 'metrics.jsonl'))
    losses.append([record['train/loss'] for record in found if 'train/loss' in record])
  np.testing.assert_allclose(*losses, rtol=1e-4)
  assert not settings.read(toy_config(input='device', **changes)).needs_tensorflow
