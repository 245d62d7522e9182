"""Runs on random images: their images, and what is said of them."""

import jax
import numpy as np

from benchmarks.random_images import as_batch, describe, random_run, random_source
from experiments import nfnet


def test_random_source():
  """The images are uint8 of the size asked for, and not all the same."""
  source = random_source(20, 8, 100)
  assert source.images.shape == (20, 8, 8, 3) and source.images.dtype == np.uint8
  assert source.labels.shape == (20,) and source.labels.dtype == np.int32
  assert len(np.unique(source.images)) > 200
  batch = as_batch(source)
  assert {key: len(values) for key, values in batch.items()} == {
    'image': 20,
    'label': 20,
    'mask': 20,
  }


def test_a_run_has_a_batch_of_images_of_its_size():
  """Where the config names no size, that of the model: 192 pixels for NFNet-F0."""
  config = nfnet.get_config('f0,n=4,sam')
  config.batch_size = 32
  config.dataset.image_size = 24
  config.model.remat = True
  run = random_run(config, num_classes=7)
  assert run.data.train.images.shape == (32, 24, 24, 3)
  assert run.data.image_shape == (24, 24, 3)
  assert len(run.data.train.class_names) == 7
  assert describe(run) == (
    'nfnet_f0, 24 pixels, batch 32, n = 4, bfloat16, SAM of 20%, remat, '
    f'stochastic_depth_rate=0.25; {jax.local_device_count()} x cpu'
  )
  config.dataset.image_size = 0
  assert random_run(config, num_classes=7, num_images=8).data.image_shape == (192, 192, 3)
