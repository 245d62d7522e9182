"""Runs on random images: for speed alone, what images show does not matter."""

import jax
import ml_collections
import numpy as np

from nfnets_augmult import configs
from nfnets_augmult.data.sources import ArraySource
from nfnets_augmult.models import model_spec
from nfnets_augmult.runs import settings
from nfnets_augmult.runs.images import Data
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training.step import Normalization

# As CIFAR-100.
NUM_IMAGES = 50_000
NUM_CLASSES = 100


def random_source(num_images: int, image_size: int, num_classes: int) -> ArraySource:
  """Returns noise: uint8 images `[num_images, image_size, image_size, 3]` and labels."""
  generator = np.random.default_rng(0)
  shape = (num_images, image_size, image_size, 3)
  return ArraySource(
    images=generator.integers(0, 256, shape, dtype=np.uint8),
    labels=generator.integers(0, num_classes, num_images, dtype=np.int32),
    class_names=tuple(map(str, range(num_classes))),
    description=f'{num_images:,} random images of {image_size} pixels',
  )


def random_run(
  config: ml_collections.ConfigDict, *, num_classes: int, num_images: int | None = None
) -> Run:
  """Returns the run of `config` on random images in place of its data set.

  Args:
    config: of the run. The images are of `dataset.image_size` pixels, or of the model's own size.
    num_classes: K.
    num_images: None for as many as fill one batch.

  Raises:
    ValueError: see `Run`.
  """
  asked = settings.read(config)
  source = random_source(
    asked.batch_size if num_images is None else num_images,
    asked.dataset.train_options.image_size or model_spec(asked.model_name).train_image_size,
    num_classes,
  )
  normalization = Normalization(mean=(127.5,) * 3, std=(64.0,) * 3)
  return Run(config, data=Data(source, source, source.images.shape[1:], normalization))


def as_batch(source: ArraySource) -> dict[str, np.ndarray]:
  """Returns all images of `source` as one batch of a training step."""
  mask = np.ones(source.num_images, np.float32)
  return {'image': source.images, 'label': source.labels, 'mask': mask}


def describe(run: Run) -> str:
  """Returns what is measured: the model with its options, the batch, the devices."""
  asked = run.settings
  options = {
    key.removeprefix('model.'): value
    for key, value in configs.flatten(run.config).items()
    if key.startswith('model.') and key != 'model.name' and value
  }
  words = [
    asked.model_name,
    f'{run.data.image_shape[0]} pixels',
    f'batch {asked.batch_size}',
    f'n = {asked.augmult}',
    asked.compute_dtype,
    *([f'SAM of {asked.sam.ascent_fraction:.0%}'] if asked.sam.rho else []),
    *(key if value is True else f'{key}={value}' for key, value in options.items()),
  ]
  return f'{", ".join(words)}; {jax.local_device_count()} x {jax.local_devices()[0].device_kind}'
