"""The tf.data input: batches in which every unique image appears n times, each copy augmented anew.

An image is read and decoded once for all its copies, and whatever is drawn for a copy is looked up
by address, so that a batch is a pure function of the seed and the step. What fills which slot is
decided in `multiplicity.py`, what is mixed with what in `mixing.py`; this module fills the slots:

    addresses of some images  ->  read, decode, crop, scale and flip  ->  a batch of crops
      ->  addresses of its slots  ->  mix and RandAugment  ->  the batch

Images are uint8 throughout; what follows is for the accelerator.
"""

import functools
import os
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from nfnets_augmult.data import array_batches, mixing, randaugment
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.copies import CopyReader, read_centre
from nfnets_augmult.data.crops import Crop
from nfnets_augmult.data.decoding import ImageReader, ReadOptions
from nfnets_augmult.data.evaluation_crop import EvaluationCrop
from nfnets_augmult.data.mixing_ops import mix_pair
from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.data.numpy_calls import numpy_call
from nfnets_augmult.data.randaugment_ops import apply_layers
from nfnets_augmult.data.sources import ArraySource, Source

# The accelerators belong to JAX; TensorFlow would reserve their memory.
tf.config.set_visible_devices([], 'GPU')

# Name to array. Training and evaluation: 'image' uint8 [B, H, W, C], 'label' int32 [B], 'mask'
# float32 [B] (0 for padding and for images that do not decode), 'image_index' int64 [B].
# Training only: 'copy_index' int32 [B], 'epoch' int32 [B], 'seed' uint32 [B, 2].
# Where images are mixed, also 'partner_index' int64 [B], 'partner_label' int32 [B] and 'mix_weight'
# float32 [B], the share of the own image and label; where that is 1 the partner has no part.
Batch = dict[str, np.ndarray]

_READ_OPTIONS, _EVALUATION_CROP = ReadOptions(), EvaluationCrop()  # as default arguments

_EVALUATION_TYPES = {
  'image': tf.uint8,
  'label': tf.int32,
  'mask': tf.float32,
  'image_index': tf.int64,
}
_SLOT_TYPES = {
  'image_index': tf.int64,
  'copy_index': tf.int32,
  'epoch': tf.int32,
  'seed': tf.uint32,
}
_MIX_TYPES = {
  'partner': tf.int64,
  'partner_index': tf.int64,
  'kind': tf.int32,
  'weight': tf.float32,
  'box': tf.int32,
}
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
    start_step: first step, found in constant time.
    stop_step: one past the last step.
    host_index: which host this is.
    host_count: number of hosts.
    read_options: how images are read.

  Yields:
    A `Batch` of slots `multiplicity.host_slots(...)`, in their order.

  Raises:
    BadDataError: an image does not decode and the policy is to fail.
    ValueError: the augmentation does not fit the batch or the images.
  """
  own = multiplicity.host_slots(host_index, host_count)
  reader = ImageReader(source, read_options)
  shape = reader.image_shape
  augmentation.check(
    unique_images_per_batch=multiplicity.unique_images_per_batch, image_shape=shape
  )
  # A partner may be a slot of another host; this one then crops it, too.
  cropped = mixing.covering_slots(multiplicity, *own) if augmentation.mixing.is_on else own
  steps = tf.data.Dataset.range(start_step, stop_step)
  if isinstance(source, ArraySource) and augmentation.crop.cut is not None:
    crops = _crops_of_arrays(source, multiplicity, augmentation.crop, cropped)
    batches = steps.map(crops, num_parallel_calls=2)
  else:
    maker = CopyReader(reader, augmentation.crop, shape[0])
    batches = _crops_of_images(maker, multiplicity, cropped, start_step, stop_step)
  finish = _finish_function(multiplicity, augmentation, own, cropped, shape)
  return _iterate(tf.data.Dataset.zip(steps, batches).map(finish, num_parallel_calls=2), reader)


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

  Every host yields the same number of batches, all of the same size; `mask` is 0 in the slots
  that only fill up.

  Args:
    source: images to evaluate.
    batch_size: images per batch of this host.
    host_index: which host this is; it gets images `host_index, host_index + host_count, ...`
    host_count: number of hosts.
    crop: which part of an encoded image; those of an `ArraySource` are taken whole.
    read_options: how images are read.
    num_images: only the first so many images; None for all.
  """
  total = source.num_images if num_images is None else min(num_images, source.num_images)
  addresses = list(
    array_batches.evaluation_indices(
      total, batch_size=batch_size, host_index=host_index, host_count=host_count
    )
  )

  reader = ImageReader(source, read_options)
  if isinstance(source, ArraySource):

    def fill_from_memory(batch: np.ndarray) -> Batch:
      return array_batches.evaluation_batch(source, *addresses[int(batch)])

    fill = functools.partial(numpy_call, fill_from_memory, _EVALUATION_TYPES)
    batches = tf.data.Dataset.range(len(addresses)).map(fill, num_parallel_calls=2)
    return _iterate(batches, reader)

  def read(index: tf.Tensor, in_use: tf.Tensor) -> dict[str, tf.Tensor]:
    made = read_centre(reader, index, crop, reader.image_shape[0])
    return dict(made, mask=made['mask'] * in_use, image_index=index)

  flat = tuple(np.concatenate(column) for column in zip(*addresses, strict=True))
  images = tf.data.Dataset.from_tensor_slices(flat)
  images = images.map(read, num_parallel_calls=tf.data.AUTOTUNE)
  return _iterate(images.batch(batch_size, drop_remainder=True), reader)


def _crops_of_arrays(
  source: ArraySource, multiplicity: Multiplicity, crop: Crop, cropped: tuple[int, int]
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
  """Returns the function from a step to the crops of slots `cropped`, all in one operation."""

  def make_crops(step: np.ndarray) -> Batch:
    return array_batches.train_batch(
      source, multiplicity, int(step), crop=crop, start=cropped[0], stop=cropped[1]
    )

  types = {'image': tf.uint8, 'label': tf.int32, 'mask': tf.float32}
  return functools.partial(numpy_call, make_crops, types)


def _crops_of_images(
  maker: CopyReader,
  multiplicity: Multiplicity,
  cropped: tuple[int, int],
  start_step: int,
  stop_step: int,
) -> tf.data.Dataset:
  """Returns the crops of slots `cropped` of each step, of images that are read one by one.

  All crops of an image are made when it is read, also those for the n - 1 later batches of the
  placement `neighbouring`; these wait in memory.
  """
  per_batch = multiplicity.copies_per_batch
  turns = multiplicity.augmult // per_batch
  first, end = cropped[0] // per_batch, (cropped[1] - 1) // per_batch + 1
  skipped = cropped[0] - first * per_batch
  copy_index = np.arange(multiplicity.augmult)
  if turns == 1 and end == first + 1:  # several hosts share the copies of this image
    copy_index, skipped = copy_index[skipped:][: cropped[1] - cropped[0]], 0
  owner = np.arange(*cropped) // per_batch - first

  def addresses(group: np.ndarray) -> Batch:
    slots = multiplicity.slots(int(group) * turns, first * per_batch, end * per_batch)
    index, epoch = slots.image_index[::per_batch], slots.epoch[::per_batch]
    seeds = multiplicity.seeds(index[:, None], epoch[:, None], copy_index)
    return dict(maker.draw(seeds), index=index)

  def read(addresses: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    draws = {key: addresses[key] for key in maker.draw_types}
    for key, tensor in draws.items():
      # Known here: the number of copies, which single copies profit from.
      draws[key] = tf.ensure_shape(tensor, [len(copy_index), *maker.draw_shapes[key]])
    return maker.read(addresses['index'], draws)

  def crops(group: dict[str, tf.Tensor], turn: tf.Tensor) -> dict[str, tf.Tensor]:
    """Of copies `[images, M, ...]`: all in the only turn, or those of one turn."""
    copies = group['copies']
    if turns == 1:
      copies = tf.reshape(copies, tf.concat([[-1], tf.shape(copies)[2:]], 0))
      copies = copies[skipped : skipped + len(owner)]
    else:
      copies = copies[:, turn]
    return dict(
      image=copies, label=tf.gather(group['label'], owner), mask=tf.gather(group['mask'], owner)
    )

  groups = tf.data.Dataset.range(start_step // turns, -(-stop_step // turns))
  types = dict(maker.draw_types, index=tf.int64)
  images = groups.map(functools.partial(numpy_call, addresses, types)).unbatch()
  images = images.map(read, num_parallel_calls=tf.data.AUTOTUNE)
  groups = images.batch(end - first, drop_remainder=True)
  batches = groups.flat_map(
    lambda group: tf.data.Dataset.range(turns).map(functools.partial(crops, group))
  )
  return batches.skip(start_step % turns)


def _finish_function(
  multiplicity: Multiplicity,
  augmentation: Augmentation,
  own: tuple[int, int],
  cropped: tuple[int, int],
  shape: tuple[int, int, int],
) -> Callable[[tf.Tensor, dict[str, tf.Tensor]], dict[str, tf.Tensor]]:
  """Returns the function from a step and the crops of slots `cropped` to the batch of slots `own`.

  It mixes and applies RandAugment, in the order that the augmentation says.
  """
  is_mixed, layers = augmentation.mixing.is_on, augmentation.randaugment.layers
  own_part = slice(own[0] - cropped[0], own[1] - cropped[0])
  types = dict(_SLOT_TYPES)
  types |= _MIX_TYPES if is_mixed else {}
  types |= _RANDAUGMENT_TYPES if layers else {}

  def addresses(step: np.ndarray) -> Batch:
    all_slots = multiplicity.slots(int(step), *cropped)
    found = {key: array[own_part] for key, array in all_slots._asdict().items()}
    if is_mixed:
      mix = mixing.mix_slots(
        multiplicity, augmentation.mixing, int(step), *own, height=shape[0], width=shape[1]
      )
      partner = mix.partner_slot - cropped[0]
      found |= dict(mix._asdict(), partner=partner, partner_index=all_slots.image_index[partner])
    if layers:
      seeds = found['seed'] if augmentation.mix_first else all_slots.seed
      found |= randaugment.draw(seeds, augmentation.randaugment)._asdict()
    return found

  def change(images: tf.Tensor, found: dict[str, tf.Tensor]) -> tf.Tensor:
    drawn = [found[key] for key in _RANDAUGMENT_TYPES]
    return _map_images(
      lambda image, *drawn: apply_layers(image, *drawn, augmentation.randaugment), images, *drawn
    )

  def finish(step: tf.Tensor, crops: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    found = numpy_call(addresses, types, step)
    batch = {key: found[key] for key in _SLOT_TYPES}
    batch |= {key: crops[key][own_part] for key in ('label', 'mask')}
    images = tf.ensure_shape(crops['image'], [cropped[1] - cropped[0], *shape])
    if layers and not augmentation.mix_first:
      images = change(images, found)
    if is_mixed:
      # What does not decode cannot be a partner.
      usable = tf.gather(crops['mask'], found['partner']) > 0
      weight = tf.where(usable, found['weight'], 1.0)
      kind = tf.where(usable, found['kind'], mixing.NOT_MIXED)
      partners = tf.gather(images, found['partner'])
      images = _map_images(mix_pair, images[own_part], partners, kind, weight, found['box'])
      batch |= dict(
        partner_index=found['partner_index'],
        partner_label=tf.gather(crops['label'], found['partner']),
        mix_weight=weight,
      )
    else:
      images = images[own_part]
    if layers and augmentation.mix_first:
      images = change(images, found)
    return dict(batch, image=images)

  return finish


def _map_images(function: Callable[..., tf.Tensor], *arrays: tf.Tensor) -> tf.Tensor:
  """`function` of each entry of the arrays, uint8 images, several at the same time."""
  return tf.map_fn(
    lambda entries: function(*entries),
    arrays,
    fn_output_signature=tf.TensorSpec(arrays[0].shape[1:], tf.uint8),
    parallel_iterations=os.cpu_count(),
  )


def _iterate(batches: tf.data.Dataset, reader: ImageReader) -> Iterator[Batch]:
  """Yields the batches as arrays while the next ones are made in the background."""
  options = tf.data.Options()
  # Operations of one image stay on one thread; the images share the cores.
  options.threading.private_threadpool_size = os.cpu_count()
  options.threading.max_intra_op_parallelism = 1
  try:
    yield from batches.prefetch(2).with_options(options).as_numpy_iterator()
  except tf.errors.OpError as error:
    raise reader.explain(error) from error
