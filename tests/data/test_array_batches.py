"""Batches of arrays by NumPy alone, made in the background."""

import itertools
import threading
import time

import chex
import numpy as np
import pytest

from nfnets_augmult.data import array_batches, pipeline, sources
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.data.mixing import Mixing
from nfnets_augmult.data.multiplicity import PLACEMENTS, Multiplicity
from nfnets_augmult.data.randaugment import RandAugment
from tests import real_images

_NUM_IMAGES = 13


@pytest.fixture(scope='module', name='source')
def _source():
  photos = real_images.photos(_NUM_IMAGES, 10, 12)
  labels = np.arange(_NUM_IMAGES, dtype=np.int32)
  return sources.ArraySource(photos, labels, tuple(map(str, labels)), 'photos/train')


def _batches(source, multiplicity, start=0, stop=2**31, **hosts):
  return array_batches.train_batches(
    source, multiplicity, crop=CropFlip(pad=2), start_step=start, stop_step=stop, **hosts
  )


@pytest.mark.parametrize('placement', PLACEMENTS)
@pytest.mark.parametrize(('start', 'stop'), [(0, 9), (4, 6), (7, 7)])
def test_batches_come_in_order(source, placement, start, stop):
  """On each host, from any step to any step, each as if it were made alone."""
  multiplicity = Multiplicity(_NUM_IMAGES, 4, 2, 3, placement)
  for host in range(2):
    first, last = multiplicity.host_slots(host, 2)
    expected = [
      array_batches.train_batch(
        source, multiplicity, step, crop=CropFlip(pad=2), start=first, stop=last
      )
      for step in range(start, stop)
    ]
    made = _batches(source, multiplicity, start, stop, host_index=host, host_count=2)
    chex.assert_trees_all_equal(list(made), expected, strict=True)


def test_the_pipeline_uses_them(source, monkeypatch):
  """For crops; what mixes images or runs RandAugment on them is left to TensorFlow."""
  monkeypatch.setattr(array_batches, 'train_batches', lambda *_, **options: options['crop'])
  multiplicity = Multiplicity(_NUM_IMAGES, 4, 2, 3)

  def batches(**augmentation):
    return pipeline.train_batches(
      source,
      multiplicity,
      augmentation=Augmentation(crop=CropFlip(pad=2), **augmentation),
      start_step=0,
      stop_step=1,
    )

  assert batches() == CropFlip(pad=2)
  for augmentation in ({'mixing': Mixing(mixup=1.0)}, {'randaugment': RandAugment(layers=1)}):
    assert len(next(batches(**augmentation))['image']) == multiplicity.batch_size


def _threads():
  return {thread for thread in threading.enumerate() if 'ThreadPool' in thread.name}


def test_few_batches_are_made_ahead_and_threads_end(source, monkeypatch):
  """Of two billion steps no more than three beyond the one that was asked for."""
  made, make = [], array_batches.train_batch

  def note(source, multiplicity, step, **options):
    made.append(step)
    return make(source, multiplicity, step, **options)

  monkeypatch.setattr(array_batches, 'train_batch', note)
  before = _threads()
  batches = _batches(source, Multiplicity(_NUM_IMAGES, 4, 2, 3))
  assert not made and _threads() == before
  assert len(list(itertools.islice(batches, 5))) == 5
  deadline = time.monotonic() + 30
  while len(made) < 8 and time.monotonic() < deadline:
    time.sleep(0.01)
  assert sorted(made) == list(range(8))
  ours = _threads() - before
  assert ours
  batches.close()
  for thread in ours:
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_errors_reach_the_caller(source, monkeypatch):
  """What goes wrong in a thread is raised at the batch that lacks, and at no other."""
  make = array_batches.train_batch

  def fail(source, multiplicity, step, **options):
    if step == 2:
      raise MemoryError('step 2')
    return make(source, multiplicity, step, **options)

  monkeypatch.setattr(array_batches, 'train_batch', fail)
  batches = _batches(source, Multiplicity(_NUM_IMAGES, 4, 2, 3))
  next(batches), next(batches)
  with pytest.raises(MemoryError, match='step 2'):
    next(batches)


def test_a_crop_that_does_not_fit_is_refused_at_once(source):
  with pytest.raises(ValueError, match=r'^pad=10 needs images of more than 10 pixels'):
    array_batches.train_batches(
      source, Multiplicity(_NUM_IMAGES, 4, 2, 3), crop=CropFlip(pad=10), start_step=0, stop_step=1
    )
