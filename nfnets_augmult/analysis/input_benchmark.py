"""How fast the input is, beside a plain pipeline that treats every copy as a record of its own."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from nfnets_augmult.data import crop_flip, decoding, pipeline
from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.data.sources import ArraySource, Source

_ROUNDS = 5
# More steps than any measurement reaches.
_STOP_STEP = 2**31


def random_images(num_images: int = 50_000, image_size: int = 32) -> ArraySource:
  """Returns images of CIFAR's size; for speed alone, what they show does not matter."""
  generator = np.random.default_rng(0)
  shape = (num_images, image_size, image_size, 3)
  return ArraySource(
    images=generator.integers(0, 256, shape, dtype=np.uint8),
    labels=generator.integers(0, 100, num_images, dtype=np.int32),
    class_names=tuple(map(str, range(100))),
    description=f'{num_images:,} random images of {image_size} pixels',
  )


def plain_batches(
  source: Source,
  *,
  augmult: int,
  batch_size: int,
  augmentation: crop_flip.CropFlip,
  image_size: int,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields batches of the usual kind: shuffle, repeat each record n times, map image by image.

  It has parallel maps and prefetching, and no defect on purpose; what it lacks is any use of the
  copies being of the same image.
  """

  def load(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    if isinstance(source, ArraySource):
      return tf.gather(images, index), tf.gather(labels, index)
    image, label, _ = decoder.read(index)
    return image, label

  def augment(image: tf.Tensor, label: tf.Tensor) -> dict[str, tf.Tensor]:
    size = tf.shape(image)
    if pad := augmentation.pad:
      mode = crop_flip.PAD_MODES[augmentation.pad_mode]
      image = tf.image.random_crop(tf.pad(image, [[pad, pad], [pad, pad], [0, 0]], mode), size)
    if augmentation.flip:
      image = tf.image.random_flip_left_right(image)
    return {'image': image, 'label': label}

  if isinstance(source, ArraySource):
    images, labels = tf.constant(source.images), tf.constant(source.labels)
  else:
    decoder = decoding.ImageDecoder(source, image_size=image_size, on_bad_image='fail')
  records = tf.data.Dataset.range(source.num_images).shuffle(source.num_images).repeat()
  records = records.flat_map(lambda index: tf.data.Dataset.from_tensors(index).repeat(augmult))
  samples = records.map(load, num_parallel_calls=tf.data.AUTOTUNE)
  samples = samples.map(augment, num_parallel_calls=tf.data.AUTOTUNE)
  return iter(samples.batch(batch_size).prefetch(2).as_numpy_iterator())


def images_per_second(
  make_batches: Callable[[], Iterator[dict[str, np.ndarray]]], *, seconds: float
) -> float:
  """Returns how many images a second an iterator yields, once it has yielded a few batches."""
  batches = make_batches()
  for _ in range(3):
    next(batches)
  num_images = 0
  start = time.perf_counter()
  while (elapsed := time.perf_counter() - start) < seconds:
    num_images += len(next(batches)['image'])
  return num_images / elapsed


def compare(
  source: Source,
  *,
  augmults: Sequence[int],
  batch_size: int,
  augmentation: crop_flip.CropFlip,
  image_size: int = 0,
  seconds: float = 1.0,
) -> list[dict[str, float]]:
  """Measures this pipeline and the plain one in turn, several rounds of each.

  Args:
    source: training images.
    augmults: the values of n.
    batch_size: augmented images per batch, the same for every n.
    augmentation: pad, crop and flip.
    image_size: pixels, for encoded sources.
    seconds: of each measurement.

  Returns:
    For each n: `augmult`, the medians `images_per_second` and `plain_images_per_second`, and
    `ratio`, `ratio_min`, `ratio_max`: median and range of the ratios of the rounds.
  """
  rows = []
  for augmult in augmults:
    multiplicity = Multiplicity(source.num_images, batch_size // augmult, augmult, seed=0)
    shared = {'augmentation': augmentation, 'image_size': image_size}

    def ours(multiplicity: Multiplicity = multiplicity, shared: dict = shared) -> Iterator:
      return pipeline.train_batches(
        source, multiplicity, start_step=0, stop_step=_STOP_STEP, **shared
      )

    def plain(augmult: int = augmult, shared: dict = shared) -> Iterator:
      return plain_batches(source, augmult=augmult, batch_size=batch_size, **shared)

    rounds = [
      (images_per_second(ours, seconds=seconds), images_per_second(plain, seconds=seconds))
      for _ in range(_ROUNDS)
    ]
    ratios = [a / b for a, b in rounds]
    rows.append(
      {
        'augmult': augmult,
        'images_per_second': statistics.median(a for a, _ in rounds),
        'plain_images_per_second': statistics.median(b for _, b in rounds),
        'ratio': statistics.median(ratios),
        'ratio_min': min(ratios),
        'ratio_max': max(ratios),
      }
    )
  return rows
