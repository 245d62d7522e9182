"""Batches made on devices, slot by slot and pixel by pixel those of the tf.data input."""

import dataclasses
import functools

import chex
import jax
import numpy as np
import pytest

from nfnets_augmult.data import array_batches, device_input, pipeline, sources
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.data.multiplicity import PLACEMENTS, Multiplicity
from tests import real_images

_NUM_IMAGES = 13


def _source(height=12, width=10):
  labels = np.arange(_NUM_IMAGES, dtype=np.int32)[::-1].copy()
  photos = real_images.photos(_NUM_IMAGES, height, width)
  return sources.ArraySource(photos, labels, tuple(map(str, range(_NUM_IMAGES))), 'photos')


def _by_device(batch, device_count):
  """The batch of a host, each device with slots that follow each other."""
  return {key: array.reshape(device_count, -1, *array.shape[1:]) for key, array in batch.items()}


def _device_batches(source, multiplicity, crop, *, device_count, **hosts):
  """A function from a step to the batch of all devices of one host, `[D, B / D / hosts, ...]`."""
  slots = device_input.device_slots(multiplicity, device_count=device_count, **hosts)

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(None, None, 0, None))
  def make(image, label, slot, images):
    return device_input.make_batch(
      device_input.DeviceData(image, label, slot),
      images,
      copies_per_batch=multiplicity.copies_per_batch,
      crop=crop,
    )

  def batch(step):
    images = multiplicity.images(step)
    integers = jax.tree.map(np.int32, images._replace(key=None))
    made = make(source.images, source.labels, slots, integers._replace(key=images.key))
    return jax.device_get(made)

  return batch


@pytest.mark.parametrize('placement', PLACEMENTS)
@pytest.mark.parametrize(
  'crop',
  [
    CropFlip(pad=3),
    CropFlip(pad=9),  # as far as 10 pixels can be mirrored
    CropFlip(pad=12, pad_mode='constant'),  # crops that are black throughout
    CropFlip(pad=2, flip=False),
    CropFlip(pad=0),
    CropFlip(pad=0, flip=False),
  ],
  ids=str,
)
def test_batches_are_those_of_tf_data(crop, placement):
  """Every field of every batch over two epochs, across their border, on four devices."""
  source, multiplicity = _source(), Multiplicity(_NUM_IMAGES, 4, 3, 5, placement)
  expected = pipeline.train_batches(
    source,
    multiplicity,
    augmentation=Augmentation(crop=crop),
    start_step=0,
    stop_step=multiplicity.steps_for_epochs(2),
  )
  device_batch = _device_batches(source, multiplicity, crop, device_count=4)
  epochs = set()
  for step, batch in enumerate(expected):
    epochs.add(tuple(np.unique(batch['epoch'])))
    chex.assert_trees_all_equal(device_batch(step), _by_device(batch, 4))
  assert (0, 1) in epochs


def test_balanced_batches_are_those_of_tf_data():
  """Images that come several times in an epoch have other copies each time."""
  labels = np.minimum(np.arange(_NUM_IMAGES, dtype=np.int32), 2)
  source = dataclasses.replace(_source(), labels=labels)
  multiplicity, crop = Multiplicity(_NUM_IMAGES, 4, 2, 5, labels=labels), CropFlip(pad=3)
  expected = pipeline.train_batches(
    source, multiplicity, augmentation=Augmentation(crop=crop), start_step=2, stop_step=5
  )
  device_batch = _device_batches(source, multiplicity, crop, device_count=4)
  for step, batch in enumerate(expected, start=2):
    chex.assert_trees_all_equal(device_batch(step), _by_device(batch, 4))


def test_two_hosts_fill_the_global_batch():
  """Three devices of each of two hosts; the border of the hosts lies inside an image's copies."""
  source, multiplicity = _source(), Multiplicity(_NUM_IMAGES, 6, 3, 5)
  crop = CropFlip(pad=2)
  for host_index in range(2):
    hosts = {'host_index': host_index, 'host_count': 2}
    batch = next(
      pipeline.train_batches(
        source,
        multiplicity,
        augmentation=Augmentation(crop=crop),
        start_step=4,
        stop_step=5,
        **hosts,
      )
    )
    made = _device_batches(source, multiplicity, crop, device_count=3, **hosts)(4)
    chex.assert_trees_all_equal(made, _by_device(batch, 3))


def test_host_batches_without_tensorflow_are_those_of_tf_data():
  """Training batches of NumPy, of each of two hosts."""
  source, multiplicity, crop = _source(), Multiplicity(_NUM_IMAGES, 4, 3, 5), CropFlip(pad=2)
  for host_index in range(2):
    options = {'start_step': 2, 'stop_step': 6, 'host_index': host_index, 'host_count': 2}
    ours = array_batches.train_batches(source, multiplicity, crop=crop, **options)
    theirs = pipeline.train_batches(
      source, multiplicity, augmentation=Augmentation(crop=crop), **options
    )
    chex.assert_trees_all_equal(list(ours), list(theirs), strict=True)


def test_what_does_not_fit_is_refused():
  """More than half of the memory of a device."""
  source = _source()
  bytes_needed = source.images.nbytes + source.labels.nbytes
  device_input.check_source(source, device_bytes=2 * bytes_needed)
  with pytest.raises(
    ValueError, match=r"input='device': photos takes .* on every device.* such as split="
  ):
    device_input.check_source(source, device_bytes=2 * bytes_needed - 2)
