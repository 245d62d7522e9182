"""Encoded images to uint8 pixels, no more of them than needed, with a policy for bad ones."""

import dataclasses
import re
import struct
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging

from nfnets_augmult.data.sources import (
  ArraySource,
  BadDataError,
  Source,
  check_bad_image_policy,
  check_image_size,
)

# From the height and width of an image to the parts that will be used, see `ImageReader.read`.
MakeBoxes = Callable[[int, int], np.ndarray]

_JPEG_START, _JPEG_END = b'\xff\xd8\xff', b'\xff\xd9'


@dataclasses.dataclass(frozen=True)
class ReadOptions:
  """How images are read.

  Attributes:
    image_size: height and width of the result in pixels, for encoded sources; ignored for arrays.
    on_bad_image: `'fail'` ends the run at the first image that does not decode; `'skip'` reports
      it once and leaves its copies out of the loss, so that no other batch changes.
    jpeg_scaling: whether a JPEG that is needed at less than half its resolution is decoded at a
      half, a quarter or an eighth of it, see `scale_denominator`.
    antialias: see `resizing.resize_boxes`.
  """

  image_size: int = 0
  on_bad_image: str = 'fail'
  jpeg_scaling: bool = True
  antialias: bool = False

  def __post_init__(self):
    check_bad_image_policy(self.on_bad_image)


def scale_denominator(boxes: np.ndarray, image_size: int) -> int:
  """Returns 1, 2, 4 or 8: how far an image may shrink before its parts are scaled.

  Every side of every part must keep at least twice the pixels it is scaled to.

  Args:
    boxes: integers `[M, 4]`: top, left, height and width.
    image_size: pixels that each part is scaled to.
  """
  smallest = int(boxes[:, 2:].min())
  return max(d for d in (1, 2, 4, 8) if d == 1 or smallest >= 2 * d * image_size)


def jpeg_size(encoded: bytes) -> tuple[int, int] | None:
  """Returns height and width as the header of a JPEG states them, or None if none is found.

  A tenth of a millisecond cheaper than `tf.io.extract_jpeg_shape`, which matters with n = 1.
  Segments begin with 0xff, a marker and their length; the size stands in the start of frame.
  Source: ITU-T T.81, Annex B.
  """
  place = 2
  while place + 9 <= len(encoded) and encoded[place] == 0xFF:
    marker = encoded[place + 1]
    if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
      height, width = struct.unpack_from('>HH', encoded, place + 5)
      return (height, width) if height and width else None
    place += 2 + struct.unpack_from('>H', encoded, place + 2)[0]
  return None


class Read(NamedTuple):
  """An image, or the part of it that matters.

  Attributes:
    pixels: uint8 `[H, W, C]`.
    boxes: int32 `[M, 4]`, parts of `pixels`: top, left, height and width.
    label: int32.
    mask: float32, 0 for an image that did not decode under the policy `'skip'`, else 1.
  """

  pixels: np.ndarray
  boxes: np.ndarray
  label: np.int32
  mask: np.float32


class ImageReader:
  """Reads and decodes images of a source, and keeps account of those that cannot be decoded.

  Attributes:
    bad_images: index to name of every image that did not decode so far.
    image_shape: height, width and channels of what is made of every image.
    antialias: see `ReadOptions`.
  """

  def __init__(self, source: Source, options: ReadOptions):
    """Checks the options.

    Args:
      source: where the images come from.
      options: see there.

    Raises:
      ValueError: no image size where the images differ in theirs.
    """
    check_image_size(source, options.image_size)
    self.bad_images: dict[int, str] = {}
    self.antialias = options.antialias
    self.image_shape = (options.image_size, options.image_size, 3)
    if isinstance(source, ArraySource):
      self.image_shape = source.images.shape[1:]
    self._source = source
    self._options = options
    self._lock = threading.Lock()
    self._unreadable = ''

  def read(self, index: int, make_boxes: MakeBoxes, image_size: int) -> Read:
    """Returns as much of image `index` as covers some parts of it.

    Args:
      index: of the image.
      make_boxes: from height and width to the parts, int32 `[M, 4]`: top, left, height, width.
      image_size: pixels that each part will be scaled to.
    """
    if isinstance(self._source, ArraySource):
      pixels, label = self._source.images[index], self._source.labels[index]
      return Read(pixels, make_boxes(*pixels.shape[:2]), np.int32(label), np.float32(1))
    try:
      encoded, label = self._source.read(index)
    except (ValueError, OSError) as error:
      self._unreadable = str(error)
      raise
    try:
      with tf.device('cpu'):
        pixels, boxes = self._decode(encoded, make_boxes, image_size)
      return Read(pixels, boxes, np.int32(label), np.float32(1))
    except tf.errors.InvalidArgumentError as error:
      self._take_account(index, error.message)
    # One black pixel, scaled to as many parts as of any other image.
    boxes = np.tile(np.array([0, 0, 1, 1], np.int32), (len(make_boxes(1, 1)), 1))
    return Read(np.zeros((1, 1, 3), np.uint8), boxes, np.int32(label), np.float32(0))

  def _decode(
    self, encoded: bytes, make_boxes: MakeBoxes, image_size: int
  ) -> tuple[np.ndarray, np.ndarray]:
    if not encoded.startswith(_JPEG_START):
      pixels = tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()
      return pixels, make_boxes(*pixels.shape[:2])
    height, width = jpeg_size(encoded) or tf.io.extract_jpeg_shape(encoded).numpy()[:2].tolist()
    boxes = make_boxes(height, width)
    denominator = scale_denominator(boxes, image_size) if self._options.jpeg_scaling else 1
    if denominator > 1:
      pixels = tf.io.decode_jpeg(encoded, channels=3, ratio=denominator).numpy()
      return pixels, _scale_boxes(boxes, (height, width), pixels.shape[:2])
    top, left = boxes[:, :2].min(axis=0)
    bottom, right = (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    window = np.array([top, left, bottom - top, right - left], np.int32)
    # Of a file cut short a window may decode; such a file is to fail whatever is drawn.
    is_whole = encoded.endswith(_JPEG_END)
    if is_whole and window[2] * window[3] < 0.9 * height * width:
      pixels = tf.io.decode_and_crop_jpeg(encoded, window, channels=3).numpy()
      return pixels, boxes - np.array([top, left, 0, 0], np.int32)
    return tf.io.decode_jpeg(encoded, channels=3).numpy(), boxes

  def _take_account(self, index: int, message: str) -> None:
    """Records that an image does not decode; raises under the policy `'fail'`."""
    name = self._source.image_name(index)
    with self._lock:
      is_new = index not in self.bad_images
      self.bad_images[index] = name
    if self._options.on_bad_image == 'fail':
      raise ValueError(f'image {name} does not decode')
    if is_new:
      reason = re.sub(r'\{\{.*?\}\}|\[Op:.*?\]', '', message).strip().split('\n')[0][:200]
      logging.warning(
        'image %s does not decode and is left out (%d so far): %s',
        name,
        len(self.bad_images),
        reason,
      )

  def explain(self, error: tf.errors.OpError) -> Exception:
    """Returns the error to raise when reading from the pipeline failed with `error`."""
    if self._unreadable:
      return BadDataError(f'the data set cannot be read: {self._unreadable}')
    if self.bad_images and self._options.on_bad_image == 'fail':
      names = ', '.join(self.bad_images.values())
      return BadDataError(
        f'an image does not decode: {names}. Repair or remove it, or leave such images out with '
        '--config.dataset.on_bad_image=skip'
      )
    return error


def _scale_boxes(
  boxes: np.ndarray, size: tuple[int, int], scaled_size: tuple[int, ...]
) -> np.ndarray:
  """Boxes `[M, 4]` of an image of `size` in the same image at `scaled_size`, to whole pixels."""
  scale = np.array(scaled_size) / np.array(size)
  corners = np.stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
  begin, end = np.minimum(np.rint(corners * scale), scaled_size).astype(np.int32)
  return np.concatenate([begin, end - begin], axis=1)
