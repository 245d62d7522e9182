"""Reading, decoding and scaling of the images at some addresses, in a tf.data pipeline.

A few images at a time:

    addresses  ->  read the files, find out how to decode them  (`ImageReader.fetch`, in Python)
      ->  decode, crop, scale and flip  (operations of TensorFlow, without Python)

What needs more than these operations is decoded by `ImageReader.decode`, in Python. It keeps
account of images that do not decode, so the images that TensorFlow fails to decode, and the few
beside them, are given to it, too. The pixels are the same.
"""

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from nfnets_augmult.data import decoding
from nfnets_augmult.data.decoding import ImageReader
from nfnets_augmult.data.resizing import resize_boxes

# Boxes that are made in one call. Each call costs some tenths of a millisecond besides its work;
# where one image fails, all of its call are decoded again.
_BOXES_PER_CALL = 16

_FETCHED_TYPES = {
  'encoded': tf.string,
  'label': tf.int32,
  'way': tf.int32,
  'window': tf.int32,
  'boxes': tf.int32,
}
_DECODED_TYPES = {'pixels': tf.uint8, 'boxes': tf.int32, 'mask': tf.float32}

Tensors = dict[str, tf.Tensor]


def numpy_call(
  function: Callable[..., Mapping[str, np.ndarray]],
  types: Mapping[str, tf.DType],
  *arguments: tf.Tensor,
) -> Tensors:
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


def read_boxes(
  addresses: tf.data.Dataset,
  reader: ImageReader,
  make_boxes: Callable[..., np.ndarray],
  *,
  size: int,
  num_boxes: int = 1,
  drawn: Mapping[str, Sequence[int]] | None = None,
  flips: str = '',
) -> tf.data.Dataset:
  """Returns parts of the images at some addresses, scaled, in batches of a few images.

  Args:
    addresses: batches of any size of the fields `image_index` int64 `[U]`, `drawn` and others.
    reader: of the images.
    make_boxes: from heights and widths of images, and the fields `drawn`, to M boxes of each, int32
      `[..., M, 4]`; both of one image, without the first axis, and of several.
    size: S, pixels that each box is scaled to.
    num_boxes: M.
    drawn: names of fields of the addresses, and their shapes for one image.
    flips: the one of them, bool `[U, M]`, that says which boxes are mirrored; '' if none are.

  Returns:
    The fields of the addresses, and `image` uint8 `[U, M, S, S, C]`, `label` int32 `[U]`, `mask`
    float32 `[U]`, which is 0 for images that do not decode under the policy `'skip'`.
  """
  drawn = drawn or {}
  images_per_call = max(1, _BOXES_PER_CALL // num_boxes)
  by_reader = functools.partial(
    decode_by_reader, reader=reader, make_boxes=make_boxes, size=size, drawn=list(drawn)
  )

  def fetch(found: Tensors) -> Tensors:
    def call(index: np.ndarray, *drawn: np.ndarray) -> dict[str, np.ndarray]:
      return reader.fetch(index, _of_draws(make_boxes, drawn), size)._asdict()

    arguments = (found[key] for key in ('image_index', *drawn))
    return found | numpy_call(call, _FETCHED_TYPES, *arguments)

  def scale(image: Tensors, decode: Callable[[Tensors], Tensors]) -> tuple[tf.Tensor, tf.Tensor]:
    decoded = decode(image)
    parts = resize_boxes(
      tf.ensure_shape(decoded['pixels'], [None, None, reader.image_shape[-1]]),
      tf.ensure_shape(decoded['boxes'], [num_boxes, 4]),
      tf.ensure_shape(image[flips], [num_boxes]) if flips else None,
      size=size,
      antialias=reader.antialias,
    )
    return parts, tf.ensure_shape(decoded['mask'], [])

  def make(fetched: Tensors, decode: Callable[[Tensors], Tensors]) -> Tensors:
    shape = [num_boxes, size, size, reader.image_shape[-1]]
    images = {key: fetched[key] for key in ('image_index', *_FETCHED_TYPES, *drawn)}
    if images_per_call == 1:  # a loop would copy the result
      alone = scale({key: array[0] for key, array in images.items()}, decode)
      image, mask = (array[tf.newaxis] for array in alone)
    else:
      image, mask = tf.map_fn(
        functools.partial(scale, decode=decode),
        images,
        fn_output_signature=(tf.TensorSpec(shape, tf.uint8), tf.TensorSpec([], tf.float32)),
      )
    kept = {key: fetched[key] for key in fetched if key not in _FETCHED_TYPES}
    return kept | {'image': image, 'label': fetched['label'], 'mask': mask}

  def make_or_else_by_reader(fetched: Tensors) -> tf.data.Dataset:
    once = tf.data.Dataset.from_tensors(fetched)
    first = functools.partial(decode_jpeg_or, by_reader=by_reader)
    tried = once.map(functools.partial(make, decode=first)).ignore_errors()
    return tried.concatenate(once.map(functools.partial(make, decode=by_reader))).take(1)

  images = _read_ahead(addresses, reader).unbatch()
  # Not with `rebatch`, whose results share memory, about which the next `rebatch` complains.
  some = images.batch(images_per_call)
  fetched = some.map(fetch, num_parallel_calls=tf.data.AUTOTUNE)
  return fetched.interleave(
    make_or_else_by_reader, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
  )


def decode_jpeg_or(image: Tensors, by_reader: Callable[[Tensors], Tensors]) -> Tensors:
  """Returns `pixels`, `boxes` and `mask` of an image, see `Decoded`, decoded as its `way` says.

  Args:
    image: the fields of `Fetched` for one image, and what `by_reader` needs.
    by_reader: decodes what is not left to TensorFlow.

  Raises:
    InvalidArgumentError: the JPEG does not decode, or has another size than its header states.
  """
  wholes = [functools.partial(_decode_whole, image, d) for d in decoding.DENOMINATORS]
  by_way = {
    decoding.BY_READER: functools.partial(by_reader, image),
    decoding.WINDOW: functools.partial(_decode_window, image),
    **dict(enumerate(wholes, start=decoding.WHOLE)),
  }
  return tf.switch_case(image['way'], by_way)


def decode_by_reader(
  image: Tensors,
  *,
  reader: ImageReader,
  make_boxes: Callable[..., np.ndarray],
  size: int,
  drawn: Sequence[str],
) -> Tensors:
  """Returns the same of any image, decoded in Python by the `reader`; see `read_boxes`."""

  def call(index: np.ndarray, encoded: bytes, *drawn: np.ndarray) -> dict[str, np.ndarray]:
    return reader.decode(int(index), encoded, _of_draws(make_boxes, drawn), size)._asdict()

  arguments = (image[key] for key in ('image_index', 'encoded', *drawn))
  return numpy_call(call, _DECODED_TYPES, *arguments)


def _of_draws(
  make_boxes: Callable[..., np.ndarray], drawn: Sequence[np.ndarray]
) -> Callable[..., np.ndarray]:
  return lambda height, width: make_boxes(height, width, *drawn)


def _decode_window(image: Tensors) -> Tensors:
  """The window of a JPEG; see `Fetched`."""
  pixels = tf.io.decode_and_crop_jpeg(image['encoded'], image['window'], channels=3)
  return {'pixels': pixels, 'boxes': image['boxes'], 'mask': tf.constant(1.0)}


def _decode_whole(image: Tensors, denominator: int) -> Tensors:
  """All of a JPEG; fails if its size is not the one that its header states."""
  pixels = tf.io.decode_jpeg(image['encoded'], channels=3, ratio=denominator)
  is_as_stated = tf.debugging.assert_equal(tf.shape(pixels)[:2], image['window'][2:])
  with tf.control_dependencies([is_as_stated]):
    return {'pixels': tf.identity(pixels), 'boxes': image['boxes'], 'mask': tf.constant(1.0)}


def _read_ahead(addresses: tf.data.Dataset, reader: ImageReader) -> tf.data.Dataset:
  """The batches of addresses, after reading of their images has started.

  Where the source is a bucket, that is two batches ahead of those in use; else nothing changes.
  """
  if not reader.reads_ahead:
    return addresses

  def start(index: np.ndarray) -> dict[str, np.ndarray]:
    reader.start_reading(index)
    return {'image_index': index}

  def start_reading(found: Tensors) -> Tensors:
    return found | numpy_call(start, {'image_index': tf.int64}, found['image_index'])

  return addresses.map(start_reading).prefetch(2)
