"""Decoding of images to uint8 pixels, no more of them than needed, with a policy for bad ones."""

import struct
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import logging
from PIL import Image

from nfnets_augmult.data import image_formats, pillow_images
from nfnets_augmult.data.image_formats import DecodeError, DecodeRules, JpegHeader
from nfnets_augmult.data.read_options import ReadOptions
from nfnets_augmult.data.sources import ArraySource, BadDataError, Source, check_image_size

# Images of other formats than JPEG are scaled down only if they have more pixels: smaller ones stay
# exact, larger ones would take too much memory, 25 bytes a pixel.
_LARGE = 2**24

# From height and width of an image to the boxes that will be used, see `ImageReader.read`.
MakeBoxes = Callable[[int, int], np.ndarray]

_JPEG_START, _JPEG_END = b'\xff\xd8\xff', b'\xff\xd9'
_PNG_START = b'\x89PNG\r\n\x1a\n'


def scale_denominator(boxes: np.ndarray, image_size: int) -> int:
  """Returns 1, 2, 4 or 8: how far an image may shrink before its parts are scaled.

  Every side of every part must keep at least twice the pixels it is scaled to.

  Args:
    boxes: integers `[M, 4]`: top, left, height and width.
    image_size: pixels that each part is scaled to.
  """
  smallest = int(boxes[:, 2:].min())
  return max(d for d in (1, 2, 4, 8) if d == 1 or smallest >= 2 * d * image_size)


def decode(encoded: bytes, rules: DecodeRules, *, mode: str = 'RGB') -> np.ndarray:
  """Returns all of an image in any of the `READ_FORMATS`, uint8 `[H, W, C]`.

  Args:
    encoded: contents of the file.
    rules: orientation and limits.
    mode: see `pillow_images.decode`.

  Raises:
    DecodeError: it cannot be decoded.
  """
  header = _header(encoded, rules)
  if header is None or mode == 'RGBA':
    return pillow_images.decode(encoded, rules, mode=mode)
  return image_formats.orient(_decode_jpeg(encoded, header, channels=len(mode)), header.orientation)


def is_plain(encoded: bytes, rules: DecodeRules) -> bool:
  """Returns whether `tf.io.decode_image` gives the same pixels as `decode`.

  It does for a PNG or JPEG that is not rotated, not in the colours of print, and not too large.
  """
  try:
    if encoded.startswith(_JPEG_START):
      header = _header(encoded, rules)
      return header is not None and header.orientation == 1
    if not encoded.startswith(_PNG_START):
      return False
    rules.check_size(*struct.unpack_from('>II', encoded, 16)[::-1])
    # EXIF is in a chunk of its own or in a text; profiles and texts may be decompression bombs.
    return not any(chunk in encoded for chunk in (b'eXIf', b'tEXt', b'iTXt', b'zTXt', b'iCCP'))
  except (DecodeError, struct.error):
    return False


def check_some_image_decodes(source: Source, options: ReadOptions) -> None:
  """Checks, before a run begins, that the policy `'skip'` would not leave out all images.

  Decodes images until one succeeds. Under the policy `'fail'` nothing is to be done.

  Raises:
    BadDataError: no image decodes.
  """
  if isinstance(source, ArraySource) or options.on_bad_image != 'skip':
    return
  first_problem = ''
  for index in range(source.num_images):
    try:
      decode(source.read(index)[0], options.rules)
      return
    except DecodeError as error:
      first_problem = first_problem or f'{source.image_name(index)}: {error}'
  raise BadDataError(
    f'none of the {source.num_images:,} images of {source.description} decodes, so that '
    f"on_bad_image='skip' would leave out all; the first is {first_problem}"
  )


def _header(encoded: bytes, rules: DecodeRules) -> JpegHeader | None:
  """The header of a JPEG that TensorFlow decodes; None for what is left to Pillow.

  That is every other format, and CMYK JPEGs, where TensorFlow is up to 11 grey levels off.
  """
  if not encoded.startswith(_JPEG_START):
    return None
  header = image_formats.jpeg_header(encoded)
  rules.check_size(header.height, header.width)
  if header.components not in (1, 3):
    return None
  return header if rules.apply_orientation else header._replace(orientation=1)


def _decode_jpeg(
  encoded: bytes,
  header: JpegHeader,
  *,
  channels: int = 3,
  denominator: int = 1,
  window: np.ndarray | None = None,
) -> np.ndarray:
  """Pixels of a JPEG as stored, uint8 `[H, W, C]`: all, scaled by 1 / denominator, or a window."""
  try:
    with tf.device('cpu'):
      if window is not None:
        return tf.io.decode_and_crop_jpeg(encoded, window, channels=channels).numpy()
      pixels = tf.io.decode_jpeg(encoded, channels=channels, ratio=denominator).numpy()
  except tf.errors.InvalidArgumentError as error:
    is_whole = _JPEG_END in encoded[-1024:]
    raise DecodeError(
      'its JPEG data are damaged' if is_whole else 'it is cut off: the end of the JPEG is missing'
    ) from error
  stated = header.height, header.width
  if pixels.shape[:2] != tuple(-(-length // denominator) for length in stated):
    raise DecodeError(f'its header states {stated}, and it has {pixels.shape[:2]} pixels')
  return pixels


def decode_boxes(
  encoded: bytes, make_boxes: MakeBoxes, image_size: int, options: ReadOptions
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the part of an image that contains some boxes, perhaps scaled down, and they in it.

  Args:
    encoded: contents of the file.
    make_boxes: from height and width to boxes, int32 `[M, 4]`: top, left, height, width.
    image_size: pixels that each box will be scaled to.
    options: how images are read.

  Returns:
    uint8 `[H, W, C]`, and int32 `[M, 4]`.

  Raises:
    DecodeError: it cannot be decoded.
  """
  header = _header(encoded, options.rules)
  if header is None:
    return _decode_boxes_by_pillow(encoded, make_boxes, image_size, options)
  orientation = header.orientation
  # Boxes are in the image as displayed.
  height, width = (header.height, header.width)[:: -1 if orientation >= 5 else 1]
  boxes = make_boxes(height, width)
  denominator = scale_denominator(boxes, image_size) if options.jpeg_scaling else 1
  if denominator > 1:
    pixels = _decode_jpeg(encoded, header, denominator=denominator)
    pixels = np.ascontiguousarray(image_formats.orient(pixels, orientation))
    return pixels, image_formats.scale_boxes(boxes, (height, width), pixels.shape[:2])
  top, left = boxes[:, :2].min(axis=0)
  bottom, right = (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
  window = np.array([top, left, bottom - top, right - left], np.int32)
  # A window of a truncated file may decode, but such a file must fail whatever is drawn.
  is_whole = encoded.endswith(_JPEG_END)
  if is_whole and window[2] * window[3] < 0.9 * height * width:
    stored = image_formats.stored_box(window, orientation, height, width)
    pixels = _decode_jpeg(encoded, header, window=stored)
    boxes = boxes - np.array([top, left, 0, 0], np.int32)
  else:
    pixels = _decode_jpeg(encoded, header)
  return np.ascontiguousarray(image_formats.orient(pixels, orientation)), boxes


def _decode_boxes_by_pillow(
  encoded: bytes, make_boxes: MakeBoxes, image_size: int, options: ReadOptions
) -> tuple[np.ndarray, np.ndarray]:
  """See `decode_boxes`; all of the image is decoded, and large ones are averaged down."""
  full_size, boxes = (1, 1), np.empty((0, 4), np.int32)

  def shrink(height: int, width: int) -> int:
    nonlocal full_size, boxes
    full_size, boxes = (height, width), make_boxes(height, width)
    is_scaled = options.jpeg_scaling and height * width > _LARGE
    return scale_denominator(boxes, image_size) if is_scaled else 1

  pixels = pillow_images.decode(encoded, options.rules, shrink=shrink)
  if pixels.shape[:2] != full_size:
    boxes = image_formats.scale_boxes(boxes, full_size, pixels.shape[:2])
  return np.ascontiguousarray(pixels), boxes


def decode_to_fit(
  encoded: bytes, sides: tuple[int, int], options: ReadOptions
) -> tuple[np.ndarray, tuple[int, int]]:
  """Returns all of an image, scaled down if its sides are longer than `sides`.

  With `jpeg_scaling` a JPEG of at least twice that is decoded at a half, a quarter or an eighth,
  other images of more than 16.8 million pixels are averaged likewise, and what is left is scaled by
  Pillow's bicubic filter, which widens its kernel.

  Args:
    encoded: contents of the file.
    sides: the most pixels of the shorter and of the longer side.
    options: how images are read.

  Returns:
    uint8 `[H, W, C]`, and height and width of the original, as displayed.

  Raises:
    DecodeError: it cannot be decoded.
  """
  header = _header(encoded, options.rules)
  if header is None:
    full_size = (1, 1)

    def shrink(height: int, width: int) -> int:
      nonlocal full_size
      full_size = height, width
      return _fit_denominator(full_size, sides, options) if height * width > _LARGE else 1

    pixels = pillow_images.decode(encoded, options.rules, shrink=shrink)
  else:
    full_size = (header.height, header.width)[:: -1 if header.orientation >= 5 else 1]
    denominator = _fit_denominator(full_size, sides, options)
    pixels = _decode_jpeg(encoded, header, denominator=denominator)
    pixels = image_formats.orient(pixels, header.orientation)
  scale = _fit_scale(full_size, sides)
  height, width = (max(1, round(side * scale)) for side in full_size)
  if pixels.shape[:2] != (height, width):
    image = Image.fromarray(np.ascontiguousarray(pixels))
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
  return pixels, full_size


def _fit_scale(size: tuple[int, int], sides: tuple[int, int]) -> float:
  """The share of its height and width at which an image fits, at most 1."""
  return min(1.0, *(most / side for most, side in zip(sorted(sides), sorted(size), strict=True)))


def _fit_denominator(size: tuple[int, int], sides: tuple[int, int], options: ReadOptions) -> int:
  """1, 2, 4 or 8: how far an image may shrink before it is scaled to fit."""
  scale = _fit_scale(size, sides)
  return max(d for d in (1, 2, 4, 8) if d == 1 or (options.jpeg_scaling and d * scale <= 1))


class Read(NamedTuple):
  """The part of an image that contains some boxes.

  Attributes:
    pixels: uint8 `[H, W, C]`.
    boxes: int32 `[M, 4]`, boxes in `pixels`: top, left, height and width.
    label: int32.
    mask: float32, 0 for an image that did not decode under the policy `'skip'`, else 1.
  """

  pixels: np.ndarray
  boxes: np.ndarray
  label: np.int32
  mask: np.float32


class Whole(NamedTuple):
  """All of an image, perhaps scaled down.

  Attributes:
    pixels: uint8 `[H, W, C]`.
    full_size: height and width before.
    label: int32.
    mask: float32, 0 for an image that did not decode under the policy `'skip'`, else 1.
  """

  pixels: np.ndarray
  full_size: tuple[int, int]
  label: np.int32
  mask: np.float32


class ImageReader:
  """Reads and decodes images of a source, and records those that do not decode.

  Attributes:
    bad_images: from index to name and reason, for every image that did not decode so far.
    image_shape: height, width and channels of each image after cropping and scaling.
    antialias: see `ReadOptions`.
  """

  def __init__(self, source: Source, options: ReadOptions):
    """Raises ValueError if the images differ in size and `options` has no image size."""
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

  def start_reading(self, indices: np.ndarray) -> None:
    """Tells a source that reads ahead which images will be read soon; see `reads_ahead`."""
    self._source.start_reading(indices)

  @property
  def reads_ahead(self) -> bool:
    """Whether the source reads ahead what it is told of, as one in a bucket does."""
    return getattr(self._source, 'reads_ahead', False)

  def read(self, index: int, make_boxes: MakeBoxes, image_size: int) -> Read:
    """Returns the part of image `index` that contains some boxes, perhaps scaled down.

    Args:
      index: of the image.
      make_boxes: from height and width to boxes, int32 `[M, 4]`: top, left, height, width.
      image_size: pixels that each box will be scaled to.

    Raises:
      ValueError: the file cannot be read, or does not decode under the policy `'fail'`.
    """
    if isinstance(self._source, ArraySource):
      pixels, label = self._source.images[index], self._source.labels[index]
      return Read(pixels, make_boxes(*pixels.shape[:2]), np.int32(label), np.float32(1))
    decoded, label = self._decode(
      index, lambda encoded: decode_boxes(encoded, make_boxes, image_size, self._options)
    )
    if decoded is not None:
      return Read(*decoded, label, np.float32(1))
    # One black pixel, as often as there would be boxes.
    boxes = np.tile(np.array([0, 0, 1, 1], np.int32), (len(make_boxes(1, 1)), 1))
    return Read(np.zeros((1, 1, 3), np.uint8), boxes, label, np.float32(0))

  def read_whole(self, index: int, sides: tuple[int, int]) -> Whole:
    """Returns all of image `index` of an encoded source, see `decode_to_fit`.

    Args:
      index: of the image.
      sides: the most pixels of the shorter and of the longer side.

    Raises:
      ValueError: the file cannot be read, or does not decode under the policy `'fail'`.
    """
    decoded, label = self._decode(
      index, lambda encoded: decode_to_fit(encoded, sides, self._options)
    )
    if decoded is not None:
      return Whole(*decoded, label, np.float32(1))
    return Whole(np.zeros((1, 1, 3), np.uint8), (1, 1), label, np.float32(0))

  def _decode(self, index: int, decode: Callable[[bytes], Any]) -> tuple[Any, np.int32]:
    """What `decode` makes of an encoded image, None if it does not decode; and the label."""
    try:
      encoded, label = self._source.read(index)
    except (ValueError, OSError) as error:
      self._unreadable = str(error)
      raise
    try:
      return decode(encoded), np.int32(label)
    except DecodeError as error:
      self._record_bad_image(index, str(error))
      return None, np.int32(label)

  def _record_bad_image(self, index: int, reason: str) -> None:
    """Records that an image does not decode; raises ValueError under the policy `'fail'`."""
    name = f'{self._source.image_name(index)}: {reason}'
    with self._lock:
      is_new = index not in self.bad_images
      self.bad_images[index] = name
    if self._options.on_bad_image == 'fail':
      raise ValueError(f'an image does not decode: {name}')
    if is_new:
      logging.warning(
        'an image does not decode and is left out (%d so far): %s', len(self.bad_images), name
      )

  def explain(self, error: Exception) -> Exception:
    """Returns the error to raise when reading from the pipeline failed with `error`."""
    if self._unreadable:
      return BadDataError(f'the data set cannot be read: {self._unreadable}')
    if self.bad_images and self._options.on_bad_image == 'fail':
      # There are several if they were read at the same time; one is enough.
      name = self.bad_images[min(self.bad_images)]
      return BadDataError(
        f'an image does not decode: {name}. Repair it and go on, or start again in another '
        "--workdir, without it or with on_bad_image='skip', which leaves such images out"
      )
    return error
