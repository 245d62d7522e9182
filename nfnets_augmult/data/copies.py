"""Crops of images that are read one by one, each once for all its copies."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from nfnets_augmult.data.crops import Crop
from nfnets_augmult.data.decoding import ImageReader
from nfnets_augmult.data.evaluation_crop import EvaluationCrop
from nfnets_augmult.data.host_part import HostPart
from nfnets_augmult.data.numpy_calls import numpy_call
from nfnets_augmult.data.resizing import resize_boxes

SLOT_TYPES = {
  'image_index': tf.int64,
  'copy_index': tf.int32,
  'epoch': tf.int32,
  'seed': tf.uint32,
}
_READ_TYPES = {'pixels': tf.uint8, 'boxes': tf.int32, 'label': tf.int32, 'mask': tf.float32}


def crops_of_images(
  reader: ImageReader, part: HostPart, crop: Crop, *, start_step: int, stop_step: int
) -> tf.data.Dataset:
  """Returns what fills the slots `part.cropped` of each step.

  All crops of an image are made when it is read, also those for the n - 1 later batches of the
  placement `neighbouring`; these wait in memory.

  Args:
    reader: of the images.
    part: which slots, of which copies of which images.
    crop: what a copy shows.
    start_step: first step.
    stop_step: one past the last step.

  Returns:
    `image` uint8 `[slots, S, S, C]`, `label` int32, `mask` float32, which is 0 for images that do
    not decode under the policy `'skip'`, and the fields of `Slots`.
  """
  draws = crop.draw(np.zeros((1, 2), np.uint32))  # for names, dtypes and shapes
  types = {key: tf.as_dtype(array.dtype) for key, array in draws._asdict().items()}
  # Of one copy. Their number is known here, too, which single copies profit from.
  shapes = {'copy_index': (), 'seed': (2,), 'image': reader.image_shape}
  shapes |= {key: array.shape[1:] for key, array in draws._asdict().items()}

  def with_shapes(of_image: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {
      key: tf.ensure_shape(array, [len(part.copies), *shapes[key]] if key in shapes else [])
      for key, array in of_image.items()
    }

  def addresses(group: np.ndarray) -> dict[str, np.ndarray]:
    found = part.addresses(int(group))
    return found._asdict() | crop.draw(found.seed)._asdict()

  def read(found: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    found = with_shapes(found)
    made = _read_copies(
      reader, crop, found['image_index'], draws._make(found[key] for key in types)
    )
    return with_shapes(made) | {key: found[key] for key in SLOT_TYPES}

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
  """Returns `image` uint8 `[S, S, C]`, `label` int32 and `mask` float32 of one image, uncut.

  Args:
    reader: of the images.
    index: of the image.
    crop: which centre.
    size: S, pixels.
  """
  scaled = crop.scaled_size(size)
  made = _read_boxes(
    reader, index, lambda height, width: crop.box(height, width, size), flips=None, size=scaled
  )
  border = (scaled - size + 1) // 2
  image = made['image'][0, border : border + size, border : border + size]
  return dict(
    image=tf.ensure_shape(image, [size, size, None]), label=made['label'], mask=made['mask']
  )


def _read_boxes(
  reader: ImageReader,
  index: tf.Tensor,
  boxes: Callable[..., np.ndarray],
  *drawn: tf.Tensor,
  flips: tf.Tensor | None,
  size: int,
) -> dict[str, tf.Tensor]:
  """Parts of an image, scaled; `boxes` of height, width and what is drawn: as many as `flips`."""

  def read(index: np.ndarray, *drawn: np.ndarray) -> dict[str, np.ndarray]:
    return reader.read(
      int(index), lambda height, width: boxes(height, width, *drawn), size
    )._asdict()

  made = numpy_call(read, _READ_TYPES, index, *drawn)
  count = 1 if flips is None else flips.shape[0]
  parts = tf.ensure_shape(made['boxes'], [count, 4])
  return dict(
    image=resize_boxes(made['pixels'], parts, flips, size=size, antialias=reader.antialias),
    label=tf.ensure_shape(made['label'], []),
    mask=tf.ensure_shape(made['mask'], []),
  )
