"""Crops of images that are read one at a time, each once for all its copies."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from nfnets_augmult.data.augmentation import Crop
from nfnets_augmult.data.decoding import ImageReader
from nfnets_augmult.data.evaluation_crop import EvaluationCrop
from nfnets_augmult.data.host_part import HostPart
from nfnets_augmult.data.resizing import resize_boxes

SLOT_TYPES = {
  'image_index': tf.int64,
  'copy_index': tf.int32,
  'epoch': tf.int32,
  'seed': tf.uint32,
}
_READ_TYPES = {'pixels': tf.uint8, 'boxes': tf.int32, 'label': tf.int32, 'mask': tf.float32}


def numpy_call(
  function: Callable[..., Mapping[str, np.ndarray]],
  types: Mapping[str, tf.DType],
  *arguments: tf.Tensor,
) -> dict[str, tf.Tensor]:
  """Returns what a NumPy function makes of the arguments, by name, in a TensorFlow graph.

  Args:
    function: pure; from arrays to a dict with at least the keys of `types`.
    types: name to dtype of the results to return.
    *arguments: tensors.
  """

  def call(*arrays: np.ndarray) -> list[np.ndarray]:
    results = function(*arrays)
    return [results[key] for key in types]

  tensors = tf.numpy_function(call, arguments, list(types.values()), stateful=False)
  return dict(zip(types, tensors, strict=True))


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
  # Of what each copy has; images, epochs, labels and masks are the same for all copies.
  shapes = {'copy_index': (), 'seed': (2,), 'image': reader.image_shape}
  shapes |= {key: array.shape[1:] for key, array in draws._asdict().items()}

  def with_shapes(tensors: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    # With a static number of copies, `resize_boxes` is faster for a single one.
    return {
      key: tf.ensure_shape(array, [len(part.copies), *shapes[key]] if key in shapes else [])
      for key, array in tensors.items()
    }

  def addresses(group: np.ndarray) -> dict[str, np.ndarray]:
    slots = part.addresses(int(group))
    return slots._asdict() | crop.draw(slots.seed)._asdict()

  def read(slots: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    slots = with_shapes(slots)
    drawn = draws._make(slots[key] for key in types)
    copies = _read_copies(reader, crop, slots['image_index'], drawn)
    return with_shapes(copies) | {key: slots[key] for key in SLOT_TYPES}

  def take_turn(group: dict[str, tf.Tensor], turn: tf.Tensor) -> dict[str, tf.Tensor]:
    return {
      key: part.of_slots(array, turn, tf.reshape) if key in shapes else tf.gather(array, part.owner)
      for key, array in group.items()
    }

  groups = part.groups(start_step, stop_step)
  found = tf.data.Dataset.range(groups.start, groups.stop).map(
    functools.partial(numpy_call, addresses, SLOT_TYPES | types)
  )
  images = read_ahead(found, reader).unbatch().map(read, num_parallel_calls=tf.data.AUTOTUNE)
  batches = images.batch(part.num_images, drop_remainder=True).flat_map(
    lambda group: tf.data.Dataset.range(part.turns).map(functools.partial(take_turn, group))
  )
  return batches.skip(start_step % part.turns)


def read_ahead(addresses: tf.data.Dataset, reader: ImageReader) -> tf.data.Dataset:
  """Returns the batches of addresses, with an `image_index`, after reading of them has started.

  Where the source is a bucket, that is two batches ahead of those in use; else nothing changes.
  """
  if not reader.reads_ahead:
    return addresses

  def start(index: np.ndarray) -> dict[str, np.ndarray]:
    reader.start_reading(index)
    return {'image_index': index}

  def start_reading(found: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return found | numpy_call(start, {'image_index': tf.int64}, found['image_index'])

  return addresses.map(start_reading).prefetch(2)


def _read_copies(
  reader: ImageReader, crop: Crop, index: tf.Tensor, draws: Any
) -> dict[str, tf.Tensor]:
  """All copies of one image, and its label and mask."""
  size = reader.image_shape[0]

  def boxes(height: int, width: int, *drawn: np.ndarray) -> np.ndarray:
    return crop.boxes(draws._make(drawn), height, width)

  if crop.cut is None:
    return _read_boxes(reader, index, boxes, *draws, flips=draws.flip, size=size)
  square = _read_boxes(reader, index, boxes, *draws, flips=None, size=size)

  def cut(scaled: np.ndarray, *drawn: np.ndarray) -> dict[str, np.ndarray]:
    owner = np.zeros(len(drawn[0]), np.int64)
    return {'image': crop.cut(scaled, owner, draws._make(drawn))}

  return square | numpy_call(cut, {'image': tf.uint8}, square['image'], *draws)


def read_centre(
  reader: ImageReader, index: tf.Tensor, crop: EvaluationCrop, size: int
) -> dict[str, tf.Tensor]:
  """Returns the centre of an image: `image` uint8 `[S, S, C]`, `label` int32, `mask` float32.

  Args:
    reader: of the images.
    index: of the image.
    crop: how much of the image the centre is.
    size: S, pixels.
  """
  scaled = crop.scaled_size(size)
  read = _read_boxes(
    reader, index, lambda height, width: crop.box(height, width, size), flips=None, size=scaled
  )
  border = (scaled - size + 1) // 2
  image = read['image'][0, border : border + size, border : border + size]
  return dict(read, image=tf.ensure_shape(image, [size, size, None]))


def _read_boxes(
  reader: ImageReader,
  index: tf.Tensor,
  boxes: Callable[..., np.ndarray],
  *drawn: tf.Tensor,
  flips: tf.Tensor | None,
  size: int,
) -> dict[str, tf.Tensor]:
  """Parts of an image, scaled: the `boxes` of its height, its width and what is drawn."""

  def read(index: np.ndarray, *drawn: np.ndarray) -> dict[str, np.ndarray]:
    image = reader.read(int(index), lambda height, width: boxes(height, width, *drawn), size)
    return image._asdict()

  made = numpy_call(read, _READ_TYPES, index, *drawn)
  count = 1 if flips is None else flips.shape[0]
  parts = tf.ensure_shape(made['boxes'], [count, 4])
  return dict(
    image=resize_boxes(made['pixels'], parts, flips, size=size, antialias=reader.antialias),
    label=tf.ensure_shape(made['label'], []),
    mask=tf.ensure_shape(made['mask'], []),
  )
