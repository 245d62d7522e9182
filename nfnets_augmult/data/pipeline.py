"""The tf.data input: batches in which every unique image appears n times, each copy augmented anew.

An image is read and decoded once for all its copies. What fills which slot is decided in
`multiplicity.py` alone; this module fills it.
"""

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from nfnets_augmult.data import array_batches, crop_flip
from nfnets_augmult.data.decoding import ImageDecoder
from nfnets_augmult.data.multiplicity import Multiplicity, Slots
from nfnets_augmult.data.sources import ArraySource, Source

# The accelerators belong to JAX; TensorFlow would reserve their memory.
tf.config.set_visible_devices([], 'GPU')

# Name to array. Training and evaluation: 'image' uint8 [B, H, W, C], 'label' int32 [B], 'mask'
# float32 [B] (0 for padding and for images that do not decode), 'image_index' int64 [B].
# Training only: 'copy_index' int32 [B], 'epoch' int32 [B], 'seed' uint32 [B, 2].
Batch = dict[str, np.ndarray]

_DTYPES = {
  'image': tf.uint8,
  'label': tf.int32,
  'mask': tf.float32,
  'image_index': tf.int64,
  'copy_index': tf.int32,
  'epoch': tf.int32,
  'seed': tf.uint32,
}
_EVALUATION_KEYS = ('image', 'label', 'mask', 'image_index')


def train_batches(
  source: Source,
  multiplicity: Multiplicity,
  *,
  augmentation: crop_flip.CropFlip,
  start_step: int,
  stop_step: int,
  host_index: int = 0,
  host_count: int = 1,
  image_size: int = 0,
  on_bad_image: str = 'fail',
) -> Iterator[Batch]:
  """Yields this host's part of the batch of each step from `start_step` to `stop_step`.

  Every batch is a pure function of the seed and the step: it does not depend on where the
  iteration starts, nor, over all hosts together, on the number of hosts.

  Args:
    source: training images.
    multiplicity: which image and copy fills each slot.
    augmentation: pad, crop and flip.
    start_step: first step, found in constant time.
    stop_step: one past the last step.
    host_index: which host this is.
    host_count: number of hosts.
    image_size: pixels, for encoded sources; ignored for arrays.
    on_bad_image: see `ImageDecoder`.

  Yields:
    A `Batch` of slots `multiplicity.host_slots(...)`, in their order.

  Raises:
    BadImageError: an image does not decode and the policy is to fail.
  """
  start, stop = multiplicity.host_slots(host_index, host_count)
  if isinstance(source, ArraySource):
    augmentation.check_image_size(*source.images.shape[1:3])

    def fill_from_memory(step: int) -> Batch:
      return array_batches.train_batch(
        source, multiplicity, step, augmentation=augmentation, start=start, stop=stop
      )

    return _iterate(_map_numbers(fill_from_memory, start_step, stop_step, tuple(_DTYPES)))

  decoder = ImageDecoder(source, image_size=image_size, on_bad_image=on_bad_image)
  augmentation.check_image_size(image_size, image_size)
  # Images of this host's slots, held while the n successive batches of `neighbouring` use them.
  copies = multiplicity.copies_per_batch
  images_per_group = (stop - 1) // copies - start // copies + 1
  turns = multiplicity.augmult // copies
  owner = np.arange(start, stop) // copies - start // copies

  def image_of(number: np.ndarray) -> np.ndarray:
    group, place = divmod(int(number), images_per_group)
    slot = (start // copies + place) * copies
    return multiplicity.slots(group * turns, slot, slot + 1).image_index[0]

  def augment(step: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, ...]:
    slots = multiplicity.slots(int(step), start, stop)
    draws = crop_flip.draw(slots.seed, augmentation)
    return (crop_flip.crop_and_flip(images, owner, draws, augmentation), *slots)

  def fill(step: tf.Tensor, decoded: tuple[tf.Tensor, ...]) -> dict[str, tf.Tensor]:
    images, labels, masks = decoded
    keys = ('image', *Slots._fields)
    types = [_DTYPES[key] for key in keys]
    made = tf.numpy_function(augment, [step, images], types, stateful=False)
    batch = dict(zip(keys, made, strict=True))
    return dict(batch, label=tf.gather(labels, owner), mask=tf.gather(masks, owner))

  first_group, last_group = start_step // turns, -(-stop_step // turns)
  images = tf.data.Dataset.range(first_group * images_per_group, last_group * images_per_group)
  images = images.map(
    lambda number: decoder.read(tf.numpy_function(image_of, [number], tf.int64, stateful=False)),
    num_parallel_calls=tf.data.AUTOTUNE,
  )
  groups = images.batch(images_per_group, drop_remainder=True)
  if turns > 1:
    groups = groups.flat_map(lambda *group: tf.data.Dataset.from_tensors(group).repeat(turns))
    groups = groups.skip(start_step % turns)
  else:
    groups = groups.map(lambda *group: group)
  steps = tf.data.Dataset.range(start_step, stop_step)
  batches = tf.data.Dataset.zip(steps, groups).map(fill, num_parallel_calls=2)
  return _iterate(batches, decoder)


def evaluation_batches(
  source: Source,
  *,
  batch_size: int,
  host_index: int = 0,
  host_count: int = 1,
  image_size: int = 0,
  on_bad_image: str = 'fail',
  num_images: int | None = None,
) -> Iterator[Batch]:
  """Yields every image of `source` exactly once over all hosts, un-augmented.

  Every host yields the same number of batches, all of the same size; `mask` is 0 in the slots
  that only fill up.

  Args:
    source: images to evaluate.
    batch_size: images per batch of this host.
    host_index: which host this is; it gets images `host_index, host_index + host_count, ...`
    host_count: number of hosts.
    image_size: pixels, for encoded sources; ignored for arrays.
    on_bad_image: see `ImageDecoder`.
    num_images: only the first so many images; None for all.
  """
  total = source.num_images if num_images is None else min(num_images, source.num_images)
  addresses = array_batches.evaluation_indices(
    total, batch_size=batch_size, host_index=host_index, host_count=host_count
  )

  if isinstance(source, ArraySource):
    addresses = list(addresses)

    def fill_from_memory(batch: int) -> Batch:
      return array_batches.evaluation_batch(source, *addresses[batch])

    return _iterate(_map_numbers(fill_from_memory, 0, len(addresses), _EVALUATION_KEYS))

  decoder = ImageDecoder(source, image_size=image_size, on_bad_image=on_bad_image)
  flat = tuple(np.concatenate(column) for column in zip(*addresses, strict=True))

  def read(index: tf.Tensor, in_use: tf.Tensor) -> dict[str, tf.Tensor]:
    image, label, mask = decoder.read(index)
    return dict(image=image, label=label, mask=mask * in_use, image_index=index)

  images = tf.data.Dataset.from_tensor_slices(flat)
  images = images.map(read, num_parallel_calls=tf.data.AUTOTUNE)
  return _iterate(images.batch(batch_size, drop_remainder=True), decoder)


def _map_numbers(
  make_batch: Callable[[int], Batch], start: int, stop: int, keys: tuple[str, ...]
) -> tf.data.Dataset:
  """The batches `make_batch(start)` to `make_batch(stop - 1)`, in order."""

  def make(number: np.ndarray) -> list[np.ndarray]:
    batch = make_batch(int(number))
    return [batch[key] for key in keys]

  def make_tensors(number: tf.Tensor) -> dict[str, tf.Tensor]:
    types = [_DTYPES[key] for key in keys]
    return dict(zip(keys, tf.numpy_function(make, [number], types, stateful=False), strict=True))

  return tf.data.Dataset.range(start, stop).map(make_tensors, num_parallel_calls=2)


def _iterate(batches: tf.data.Dataset, decoder: ImageDecoder | None = None) -> Iterator[Batch]:
  """Yields the batches as arrays while the next ones are made in the background."""
  try:
    yield from batches.prefetch(2).as_numpy_iterator()
  except tf.errors.OpError as error:
    raise (decoder.explain(error) if decoder else error) from error
