"""Crops of images that are read one at a time, each once for all its copies."""

import functools

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from nfnets_augmult.data.augmentation import Crop
from nfnets_augmult.data.decoding import ImageReader
from nfnets_augmult.data.evaluation_crop import EvaluationCrop
from nfnets_augmult.data.host_part import HostPart
from nfnets_augmult.data.reading import Tensors, numpy_call, read_boxes

SLOT_TYPES = {
  'image_index': tf.int64,
  'copy_index': tf.int32,
  'epoch': tf.int32,
  'seed': tf.uint32,
}


def crops_of_images(
  reader: ImageReader, part: HostPart, crop: Crop, *, start_step: int, stop_step: int
) -> tf.data.Dataset:
  """Returns the content of the slots `part.cropped` of each step.

  All crops of an image are made when it is read; with the placement `neighbouring`, those for the
  n - 1 later batches stay in memory until then.

  Args:
    reader: of the images.
    part: which slots, and the images and copies in them.
    crop: what a copy shows of its image.
    start_step: first step.
    stop_step: one past the last step.

  Returns:
    `image` uint8 `[slots, S, S, C]`, `label` int32, `mask` float32, which is 0 for images that do
    not decode under the policy `'skip'`, and the fields of `Slots`.
  """
  draws = crop.draw(np.zeros((1, 2), np.uint32))  # for names, dtypes and shapes
  types = {key: tf.as_dtype(array.dtype) for key, array in draws._asdict().items()}
  num_copies = len(part.copies)
  of_images = ('image_index', 'epoch', 'label', 'mask')
  of_copies = {'image': reader.image_shape, 'copy_index': (), 'seed': (2,)}

  def addresses(group: np.ndarray) -> dict[str, np.ndarray]:
    slots = part.addresses(int(group))
    return slots._asdict() | crop.draw(slots.seed)._asdict()

  def boxes(height: ArrayLike, width: ArrayLike, *drawn: np.ndarray) -> np.ndarray:
    return crop.boxes(draws._make(drawn), height, width)

  def cut(read: Tensors) -> Tensors:
    def call(scaled: np.ndarray, *drawn: np.ndarray) -> dict[str, np.ndarray]:
      owner = np.repeat(np.arange(len(scaled)), num_copies)
      of_copies = draws._make(array.reshape(-1, *array.shape[2:]) for array in drawn)
      copies = crop.cut(scaled[:, 0], owner, of_copies)
      return {'image': copies.reshape(-1, num_copies, *copies.shape[1:])}

    return read | numpy_call(call, {'image': tf.uint8}, read['image'], *(read[k] for k in types))

  def take_turn(group: Tensors, turn: tf.Tensor) -> Tensors:
    of_slots = {
      key: part.of_slots(tf.ensure_shape(group[key], [None, num_copies, *shape]), turn, tf.reshape)
      for key, shape in of_copies.items()
    }
    return of_slots | {key: tf.gather(group[key], part.owner) for key in of_images}

  groups = part.groups(start_step, stop_step)
  found = tf.data.Dataset.range(groups.start, groups.stop).map(
    functools.partial(numpy_call, addresses, SLOT_TYPES | types)
  )
  images = read_boxes(
    found,
    reader,
    boxes,
    size=reader.image_shape[0],
    num_boxes=num_copies if crop.cut is None else 1,
    drawn={key: (num_copies, *array.shape[1:]) for key, array in draws._asdict().items()},
    flips='flip' if crop.cut is None else '',
  )
  if crop.cut is not None:
    images = images.map(cut, num_parallel_calls=tf.data.AUTOTUNE)
  batches = images.rebatch(part.num_images, drop_remainder=True).flat_map(
    lambda group: tf.data.Dataset.range(part.turns).map(functools.partial(take_turn, group))
  )
  return batches.skip(start_step % part.turns)


def centres_of_images(
  addresses: tf.data.Dataset, reader: ImageReader, crop: EvaluationCrop, size: int
) -> tf.data.Dataset:
  """Returns the centres of the images at some addresses, in batches of a few images.

  Args:
    addresses: batches of any size of the field `image_index` int64 `[U]` and others.
    reader: of the images.
    crop: how much of an image its centre is.
    size: S, pixels.

  Returns:
    The fields of the addresses, and `image` uint8 `[U, S, S, C]`, `label` int32 and `mask` float32.
  """
  scaled = crop.scaled_size(size)
  border = (scaled - size + 1) // 2

  def centre(read: Tensors) -> Tensors:
    whole = read['image'][:, 0]
    return read | {'image': whole[:, border : border + size, border : border + size]}

  images = read_boxes(
    addresses, reader, lambda height, width: crop.box(height, width, size), size=scaled
  )
  return images.map(centre)
