"""An input pipeline as the field writes it, to compare the speed of `data/pipeline.py` with.

Records are shuffled, each is repeated n times, and every copy is read, decoded and augmented image
by image: parallel maps, prefetching, decoding of only the part of a JPEG that is wanted, and no
defect on purpose. What it lacks is any use of the copies being of the same image.
"""

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from benchmarks import plain_randaugment
from nfnets_augmult.data import crop_flip
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.decoding import ReadOptions
from nfnets_augmult.data.inception_crop import MAX_ATTEMPTS, InceptionCrop
from nfnets_augmult.data.randaugment import OPERATIONS, RandAugment
from nfnets_augmult.data.sources import ArraySource, Source


def plain_batches(
  source: Source,
  *,
  augmult: int,
  batch_size: int,
  augmentation: Augmentation,
  read_options: ReadOptions,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields batches with `image` and `label`, for mixed images `partner_label` and `mix_weight`.

  Mixing is of whole batches with themselves reversed, half by Mixup and half by CutMix where both
  are on, so with n > 1 it may mix two copies of one image.

  Args:
    source: training images; for an `InceptionCrop` JPEGs.
    augmult: n.
    batch_size: augmented images per batch.
    augmentation: of the copies; an encoded source with a `CropFlip` is scaled to squares first.
    read_options: of them the image size is used.
  """
  load = _load_function(source, augmentation, read_options.image_size)

  def distort(sample: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return dict(sample, image=_randaugment(sample['image'], augmentation.randaugment))

  records = tf.data.Dataset.range(source.num_images).shuffle(source.num_images).repeat()
  records = records.flat_map(lambda index: tf.data.Dataset.from_tensors(index).repeat(augmult))
  samples = records.map(load, num_parallel_calls=tf.data.AUTOTUNE)
  has_layers = augmentation.randaugment.layers > 0
  is_mixed = augmentation.mixing.is_on
  if has_layers and not (is_mixed and augmentation.mix_first):
    samples = samples.map(distort, num_parallel_calls=tf.data.AUTOTUNE)
  batches = samples.batch(batch_size, drop_remainder=True)
  if is_mixed:
    mix = _mix_function(augmentation, batch_size)
    batches = batches.map(mix, num_parallel_calls=tf.data.AUTOTUNE)
    if has_layers and augmentation.mix_first:
      samples = batches.unbatch().map(distort, num_parallel_calls=tf.data.AUTOTUNE)
      batches = samples.batch(batch_size)
  return iter(batches.prefetch(2).as_numpy_iterator())


def _load_function(
  source: Source, augmentation: Augmentation, size: int
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
  """From the index of an image to one cropped copy of it."""
  if isinstance(source, ArraySource):
    images, labels = tf.constant(source.images), tf.constant(source.labels)

    def load(index: tf.Tensor) -> dict[str, tf.Tensor]:
      image = _pad_crop_flip(tf.gather(images, index), augmentation.crop)
      return {'image': image, 'label': tf.gather(labels, index)}

    return load

  def read(index: np.ndarray) -> tuple[bytes, np.int32]:
    encoded, label = source.read(int(index))
    return encoded, np.int32(label)

  def load(index: tf.Tensor) -> dict[str, tf.Tensor]:
    encoded, label = tf.numpy_function(read, [index], (tf.string, tf.int32))
    if isinstance(augmentation.crop, InceptionCrop):
      image = _inception_crop(encoded, augmentation.crop, size)
    else:
      image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
      image = _pad_crop_flip(_largest_square(image, size), augmentation.crop)
    return {'image': tf.ensure_shape(image, [size, size, 3]), 'label': tf.ensure_shape(label, [])}

  return load


def _pad_crop_flip(image: tf.Tensor, crop: crop_flip.CropFlip) -> tf.Tensor:
  size = tf.shape(image)
  if pad := crop.pad:
    mode = crop_flip.PAD_MODES[crop.pad_mode]
    image = tf.image.random_crop(tf.pad(image, [[pad, pad], [pad, pad], [0, 0]], mode), size)
  return tf.image.random_flip_left_right(image) if crop.flip else image


def _largest_square(image: tf.Tensor, size: int) -> tf.Tensor:
  side = tf.reduce_min(tf.shape(image)[:2])
  return _resize(tf.image.resize_with_crop_or_pad(image, side, side), size)


def _inception_crop(encoded: tf.Tensor, crop: InceptionCrop, size: int) -> tf.Tensor:
  begin, extent, _ = tf.image.sample_distorted_bounding_box(
    tf.image.extract_jpeg_shape(encoded),
    tf.zeros([1, 0, 4]),
    min_object_covered=0.0,
    aspect_ratio_range=crop.aspect,
    area_range=crop.area,
    max_attempts=MAX_ATTEMPTS,
    use_image_if_no_bounding_boxes=True,
  )
  window = tf.concat([begin[:2], extent[:2]], axis=0)
  image = tf.image.decode_and_crop_jpeg(encoded, window, channels=3)
  image = tf.image.random_flip_left_right(image) if crop.flip else image
  return _resize(image, size)


def _resize(image: tf.Tensor, size: int) -> tf.Tensor:
  image = tf.image.resize(image, [size, size], 'bicubic')
  return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)


def _randaugment(image: tf.Tensor, options: RandAugment) -> tf.Tensor:
  layers = options.layers
  operation = tf.random.uniform([layers], 0, len(OPERATIONS), tf.int32)
  negate = tf.random.uniform([layers]) < 0.5
  return plain_randaugment.apply_layers(
    image, operation, negate, tf.random.uniform([layers, 2]), options
  )


def _mix_function(
  augmentation: Augmentation, batch_size: int
) -> Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]:
  """From a batch to its mixture with itself in reverse."""
  mixing = augmentation.mixing
  num_mixup = round(mixing.mixup * batch_size)
  num_mixed = round((mixing.mixup + mixing.cutmix) * batch_size)

  def mix(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    images = tf.cast(batch['image'], tf.float32)
    height, width = images.shape[1:3]
    one, other = (tf.random.gamma([batch_size], mixing.mixup_alpha) for _ in range(2))
    blend = one / (one + other)
    pasted = _random_boxes(batch_size, height, width)
    place = tf.range(batch_size)
    own = tf.where(place < num_mixup, blend, 1.0)[:, None, None]
    own = tf.where(((place >= num_mixup) & (place < num_mixed))[:, None, None], 1 - pasted, own)
    mixed = own[..., None] * images + (1 - own[..., None]) * images[::-1]
    return {
      'image': tf.cast(tf.round(mixed), tf.uint8),
      'label': batch['label'],
      'partner_label': batch['label'][::-1],
      'mix_weight': tf.reduce_mean(own, axis=[1, 2]),
    }

  return mix


def _random_boxes(count: int, height: int, width: int) -> tf.Tensor:
  """1 in a box of uniform area, 0 elsewhere, float32 `[count, H, W]`."""
  side = tf.sqrt(tf.random.uniform([count, 1]))
  inside = []
  for size in (height, width):
    centre, half = tf.random.uniform([count, 1]) * size, side * size / 2
    inside.append(tf.abs(tf.range(size, dtype=tf.float32) - centre) < half)
  return tf.cast(inside[0][:, :, None] & inside[1][:, None, :], tf.float32)
