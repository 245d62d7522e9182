"""The tf.data input: batches in which every unique image appears n times, each copy augmented anew.

An image is read and decoded once for all its copies. No random draw depends on earlier ones, so a
batch is a pure function of the seed and the step. `multiplicity.py` assigns images and copies to
slots, `host_part.py` slots to hosts, and `mixing.py` partners to slots; this module makes the
images:

    addresses of some images  ->  read, decode, crop, scale and flip (`reading.py`)
      ->  a batch of crops
      ->  mix and RandAugment  ->  the batch

Images are uint8 throughout; they are normalised on the accelerator.
"""

import functools
import os
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from nfnets_augmult.data import array_batches, mixing, randaugment
from nfnets_augmult.data.array_batches import Batch
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.copies import SLOT_TYPES, centres_of_images, crops_of_images
from nfnets_augmult.data.decoding import ImageReader, ReadOptions
from nfnets_augmult.data.evaluation_crop import EvaluationCrop
from nfnets_augmult.data.host_part import HostPart
from nfnets_augmult.data.mixing_ops import mix_pair
from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.data.randaugment_ops import apply_layers
from nfnets_augmult.data.reading import Tensors, numpy_call
from nfnets_augmult.data.sources import ArraySource, Source

# The accelerators belong to JAX; TensorFlow would reserve their memory.
tf.config.set_visible_devices([], 'GPU')

_READ_OPTIONS, _EVALUATION_CROP = ReadOptions(), EvaluationCrop()  # as default arguments

_CROP_TYPES = {'image': tf.uint8, 'label': tf.int32, 'mask': tf.float32, **SLOT_TYPES}
_MIX_TYPES = {'partner': tf.int64, 'kind': tf.int32, 'weight': tf.float32, 'box': tf.int32}
_RANDAUGMENT_TYPES = {'operation': tf.int32, 'negate': tf.bool, 'centre': tf.float32}


def train_batches(
  source: Source,
  multiplicity: Multiplicity,
  *,
  augmentation: Augmentation,
  start_step: int,
  stop_step: int,
  host_index: int = 0,
  host_count: int = 1,
  read_options: ReadOptions = _READ_OPTIONS,
) -> Iterator[Batch]:
  """Yields this host's part of the batch of each step from `start_step` to `stop_step`.

  Every batch is a pure function of the seed and the step: it does not depend on where the
  iteration starts, nor, over all hosts together, on the number of hosts.

  Args:
    source: training images.
    multiplicity: which image and copy fills each slot.
    augmentation: what happens to each copy.
    start_step: first step; the time to the first batch does not depend on it.
    stop_step: one past the last step.
    host_index: which host this is.
    host_count: number of hosts.
    read_options: how images are read.

  Yields:
    A `Batch` of slots `multiplicity.host_slots(...)`, in their order.

  Raises:
    BadDataError: an image does not decode under the policy `'fail'`.
    ValueError: the augmentation does not fit the batch or the images.
  """
  part = HostPart(multiplicity, host_index, host_count, is_mixed=augmentation.mixing.is_on)
  reader = ImageReader(source, read_options)
  augmentation.check(
    unique_images_per_batch=multiplicity.unique_images_per_batch, image_shape=reader.image_shape
  )
  steps, crop = tf.data.Dataset.range(start_step, stop_step), augmentation.crop
  if isinstance(source, ArraySource) and array_batches.can_make(augmentation):
    return array_batches.train_batches(
      source,
      multiplicity,
      crop=crop,
      start_step=start_step,
      stop_step=stop_step,
      host_index=host_index,
      host_count=host_count,
    )
  if isinstance(source, ArraySource) and crop.cut is not None:

    def crop_slots(step: np.ndarray) -> Batch:
      start, stop = part.cropped
      return array_batches.train_batch(
        source, multiplicity, int(step), crop=crop, start=start, stop=stop
      )

    # All in one operation, which is faster than one per image.
    crops = steps.map(functools.partial(numpy_call, crop_slots, _CROP_TYPES), num_parallel_calls=2)
  else:
    crops = crops_of_images(reader, part, crop, start_step=start_step, stop_step=stop_step)
  finish = _finish_function(part, augmentation, reader.image_shape)
  return _iterate(tf.data.Dataset.zip(steps, crops).map(finish, num_parallel_calls=2), reader)


def evaluation_batches(
  source: Source,
  *,
  batch_size: int,
  host_index: int = 0,
  host_count: int = 1,
  crop: EvaluationCrop = _EVALUATION_CROP,
  read_options: ReadOptions = _READ_OPTIONS,
  num_images: int | None = None,
) -> Iterator[Batch]:
  """Yields every image of `source` exactly once over all hosts, un-augmented.

  Every host yields the same number of batches, all of the same size; `mask` is 0 for padding.

  Args:
    source: images to evaluate.
    batch_size: images per batch of this host.
    host_index: which host this is; it gets images `host_index, host_index + host_count, ...`
    host_count: number of hosts.
    crop: which part of an encoded image; the images of an `ArraySource` are not cropped.
    read_options: how images are read.
    num_images: the number of images to evaluate, from the first; None for all.
  """
  hosts = {'host_index': host_index, 'host_count': host_count}
  if isinstance(source, ArraySource):
    # Copying arrays is so fast that it needs no background threads.
    return array_batches.evaluation_batches(
      source, batch_size=batch_size, num_images=num_images, **hosts
    )
  reader = ImageReader(source, read_options)
  total = source.num_images if num_images is None else min(num_images, source.num_images)
  indices = array_batches.evaluation_indices(total, batch_size=batch_size, **hosts)

  def mask_padding(read: Tensors) -> Tensors:
    is_used = read.pop('is_used')
    return dict(read, mask=read['mask'] * is_used)

  indices, is_used = (np.concatenate(column) for column in zip(*indices, strict=True))
  addresses = tf.data.Dataset.from_tensor_slices({'image_index': indices, 'is_used': is_used})
  centres = centres_of_images(addresses.batch(batch_size), reader, crop, reader.image_shape[0])
  batches = centres.rebatch(batch_size, drop_remainder=True).map(mask_padding)
  return _iterate(batches, reader)


def _finish_function(
  part: HostPart, augmentation: Augmentation, shape: tuple[int, int, int]
) -> Callable[[tf.Tensor, Tensors], Tensors]:
  """Returns the function from a step and its crops to the batch, mixed and with RandAugment."""
  is_mixed, layers = augmentation.mixing.is_on, augmentation.randaugment.layers
  own = part.own_of_cropped
  types = (_MIX_TYPES if is_mixed else {}) | (_RANDAUGMENT_TYPES if layers else {})

  def draw(step: np.ndarray, seeds: np.ndarray) -> Batch:
    drawn = {}
    if is_mixed:
      mix = mixing.mix_slots(
        part.multiplicity,
        augmentation.mixing,
        int(step),
        *part.own,
        height=shape[0],
        width=shape[1],
        seeds=seeds[own],
      )
      drawn |= dict(mix._asdict(), partner=mix.partner_slot - part.cropped[0])
    if layers:
      of_images = seeds[own] if augmentation.mix_first else seeds
      drawn |= randaugment.draw(of_images, augmentation.randaugment)._asdict()
    return drawn

  def distort(images: tf.Tensor, drawn: Tensors) -> tf.Tensor:
    return _map_images(
      lambda image, *drawn: apply_layers(image, *drawn, augmentation.randaugment),
      images,
      *(drawn[key] for key in _RANDAUGMENT_TYPES),
    )

  def finish(step: tf.Tensor, crops: Tensors) -> Tensors:
    drawn = numpy_call(draw, types, step, crops['seed']) if types else {}
    images = tf.ensure_shape(crops['image'], [part.num_cropped, *shape])
    batch = {key: crops[key][own] for key in _CROP_TYPES if key != 'image'}
    if layers and not augmentation.mix_first:
      images = distort(images, drawn)
    if is_mixed:
      partner = drawn['partner']
      # An image that does not decode cannot be a partner.
      usable = tf.gather(crops['mask'], partner) > 0
      weight = tf.where(usable, drawn['weight'], 1.0)
      kind = tf.where(usable, drawn['kind'], mixing.NOT_MIXED)
      images = _map_images(
        mix_pair, images[own], tf.gather(images, partner), kind, weight, drawn['box']
      )
      batch |= dict(
        partner_index=tf.gather(crops['image_index'], partner),
        partner_label=tf.gather(crops['label'], partner),
        mix_weight=weight,
      )
    else:
      images = images[own]
    if layers and augmentation.mix_first:
      images = distort(images, drawn)
    return dict(batch, image=images)

  return finish


def _map_images(function: Callable[..., tf.Tensor], *arrays: tf.Tensor) -> tf.Tensor:
  """`function`, which returns a uint8 image, of each entry of the arrays, several at a time."""
  return tf.map_fn(
    lambda entries: function(*entries),
    arrays,
    fn_output_signature=tf.TensorSpec(arrays[0].shape[1:], tf.uint8),
    parallel_iterations=os.cpu_count(),
  )


def _iterate(batches: tf.data.Dataset, reader: ImageReader) -> Iterator[Batch]:
  """Yields the batches as arrays while the next ones are made in the background."""
  options = tf.data.Options()
  # The operations of an image run on one thread; the images share the cores.
  options.threading.private_threadpool_size = os.cpu_count()
  options.threading.max_intra_op_parallelism = 1
  try:
    yield from batches.prefetch(2).with_options(options).as_numpy_iterator()
  except tf.errors.OpError as error:
    raise reader.explain(error) from error
