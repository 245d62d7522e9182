"""Decoding of images to uint8 pixels, no more of them than needed, with a policy for bad ones."""

import struct
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

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

# From height and width of an image to the boxes that will be used, see `ImageReader.decode`.
MakeBoxes = Callable[[int, int], np.ndarray]

DENOMINATORS = (1, 2, 4, 8)  # of the sizes at which a JPEG can be decoded

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
  return max(d for d in DENOMINATORS if d == 1 or smallest >= 2 * d * image_size)


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
  plan = _JpegPlan(1, None, (header.height, header.width), np.empty((0, 4), np.int32))
  return _decode_jpeg(encoded, plan, header, channels=len(mode))


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


class _JpegPlan(NamedTuple):
  """What is decoded of a JPEG.

  Attributes:
    denominator: 1, 2, 4 or 8; all of the image is decoded, at this fraction of its size, unless
      there is a window.
    window: int32 `[4]`, the part of the image as stored, at its full size, to decode: top, left,
      height and width; None for all.
    size: height and width of the pixels, as stored.
    boxes: int32 `[M, 4]`, boxes in the pixels as displayed.
  """

  denominator: int
  window: np.ndarray | None
  size: tuple[int, int]
  boxes: np.ndarray


def _plan_jpeg(
  encoded: bytes, header: JpegHeader, boxes: np.ndarray, image_size: int, options: ReadOptions
) -> _JpegPlan:
  """Plans to decode no more than `boxes` of an image as displayed, which are scaled afterwards."""
  height, width = header.displayed_size
  denominator = scale_denominator(boxes, image_size) if options.jpeg_scaling else 1
  if denominator > 1:
    size = _stored_size(header, denominator)
    scaled = size[:: -1 if header.is_turned else 1]
    return _JpegPlan(
      denominator, None, size, image_formats.scale_boxes(boxes, (height, width), scaled)
    )
  top, left = boxes[:, :2].min(axis=0)
  bottom, right = (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
  window = np.array([top, left, bottom - top, right - left], np.int32)
  # A window of a truncated file may decode, but such a file must fail whatever is drawn.
  if not encoded.endswith(_JPEG_END) or window[2] * window[3] >= 0.9 * height * width:
    return _JpegPlan(1, None, (header.height, header.width), boxes)
  stored = image_formats.stored_box(window, header.orientation, height, width)
  boxes = boxes - np.array([top, left, 0, 0], np.int32)
  return _JpegPlan(1, stored, (int(stored[2]), int(stored[3])), boxes)


def _stored_size(header: JpegHeader, denominator: int) -> tuple[int, int]:
  """Height and width, as stored, of an image that is decoded at a fraction of its size."""
  return -(-header.height // denominator), -(-header.width // denominator)


def _decode_jpeg(
  encoded: bytes, plan: _JpegPlan, header: JpegHeader, *, channels: int = 3
) -> np.ndarray:
  """Pixels of a JPEG as displayed, uint8 `[H, W, C]`."""
  try:
    with tf.device('cpu'):
      if plan.window is not None:
        pixels = tf.io.decode_and_crop_jpeg(encoded, plan.window, channels=channels).numpy()
      else:
        pixels = tf.io.decode_jpeg(encoded, channels=channels, ratio=plan.denominator).numpy()
  except tf.errors.InvalidArgumentError as error:
    is_whole = _JPEG_END in encoded[-1024:]
    raise DecodeError(
      'its JPEG data are damaged' if is_whole else 'it is cut off: the end of the JPEG is missing'
    ) from error
  if pixels.shape[:2] != plan.size:
    stated = header.height, header.width
    raise DecodeError(f'its header states {stated}, and it has {pixels.shape[:2]} pixels')
  return np.ascontiguousarray(image_formats.orient(pixels, header.orientation))


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
  # Boxes are in the image as displayed.
  plan = _plan_jpeg(encoded, header, make_boxes(*header.displayed_size), image_size, options)
  return _decode_jpeg(encoded, plan, header), plan.boxes


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
    full_size = header.displayed_size
    denominator = _fit_denominator(full_size, sides, options)
    plan = _JpegPlan(
      denominator, None, _stored_size(header, denominator), np.empty((0, 4), np.int32)
    )
    pixels = _decode_jpeg(encoded, plan, header)
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
  return max(d for d in DENOMINATORS if d == 1 or (options.jpeg_scaling and d * scale <= 1))


class Fetched(NamedTuple):
  """Encoded images, and how each of them is decoded.

  Attributes:
    encoded: bytes `[k]`; empty for images that are held in memory.
    label: int32 `[k]`.
    way: int32 `[k]`; `BY_READER`: `ImageReader.decode` does it; `WINDOW`: a JPEG, of which the
      window is decoded; `WHOLE` and the next: a JPEG, decoded at 1, 1/2, 1/4 or 1/8 of its size.
    window: int32 `[k, 4]`; of that part: top, left, height and width, in decoded pixels.
    boxes: int32 `[k, M, 4]`, boxes in the decoded pixels, unless the way is `BY_READER`.
  """

  encoded: np.ndarray
  label: np.ndarray
  way: np.ndarray
  window: np.ndarray
  boxes: np.ndarray


BY_READER, WINDOW, WHOLE = range(3)


class Decoded(NamedTuple):
  """The part of an image that contains some boxes.

  Attributes:
    pixels: uint8 `[H, W, C]`.
    boxes: int32 `[M, 4]`, boxes in `pixels`: top, left, height and width.
    mask: float32, 0 for an image that did not decode under the policy `'skip'`, else 1.
  """

  pixels: np.ndarray
  boxes: np.ndarray
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

  def fetch(self, indices: Iterable[int], make_boxes: MakeBoxes, image_size: int) -> Fetched:
    """Reads images, and finds out how to decode them.

    A JPEG that is neither turned nor in the colours of print, and ends where it should, can be
    decoded without Python. What fails then is given to `decode`.

    Args:
      indices: of k images.
      make_boxes: from heights and widths, `[k]`, to boxes, int32 `[k, M, 4]`.
      image_size: pixels that each box will be scaled to.

    Raises:
      ValueError, OSError: a file cannot be read.
    """
    read = [self._read(int(index)) for index in indices]
    headers = [self._plain_header(encoded) for encoded, _ in read]
    sizes = [(1, 1) if header is None else header.displayed_size for header in headers]
    fetched = Fetched(
      encoded=np.array([encoded for encoded, _ in read], object),
      label=np.array([label for _, label in read], np.int32),
      way=np.full(len(read), BY_READER, np.int32),
      window=np.zeros((len(read), 4), np.int32),
      boxes=make_boxes(*np.array(sizes).T),
    )
    for place, header in enumerate(headers):
      if header is not None:
        encoded, boxes = fetched.encoded[place], fetched.boxes[place]
        plan = _plan_jpeg(encoded, header, boxes, image_size, self._options)
        is_whole = plan.window is None
        fetched.way[place] = WHOLE + DENOMINATORS.index(plan.denominator) if is_whole else WINDOW
        fetched.window[place] = (0, 0, *plan.size) if is_whole else plan.window
        fetched.boxes[place] = plan.boxes
    return fetched

  def decode(self, index: int, encoded: bytes, make_boxes: MakeBoxes, image_size: int) -> Decoded:
    """Returns the part of an image that contains some boxes, perhaps scaled down.

    Args:
      index: of the image.
      encoded: as fetched.
      make_boxes: from height and width to boxes, int32 `[M, 4]`: top, left, height, width.
      image_size: pixels that each box will be scaled to.

    Raises:
      ValueError: it does not decode under the policy `'fail'`.
    """
    if isinstance(self._source, ArraySource):
      pixels = self._source.images[index]
      return Decoded(pixels, make_boxes(*pixels.shape[:2]), np.float32(1))
    try:
      return Decoded(*decode_boxes(encoded, make_boxes, image_size, self._options), np.float32(1))
    except DecodeError as error:
      self._record_bad_image(index, str(error))
    # One black pixel, as often as there would be boxes.
    boxes = np.tile(np.array([0, 0, 1, 1], np.int32), (len(make_boxes(1, 1)), 1))
    return Decoded(np.zeros((1, 1, 3), np.uint8), boxes, np.float32(0))

  def read_whole(self, index: int, sides: tuple[int, int]) -> Whole:
    """Returns all of image `index` of an encoded source, see `decode_to_fit`.

    Args:
      index: of the image.
      sides: the most pixels of the shorter and of the longer side.

    Raises:
      ValueError, OSError: the file cannot be read, or does not decode under the policy `'fail'`.
    """
    encoded, label = self._read(index)
    try:
      decoded = decode_to_fit(encoded, sides, self._options)
    except DecodeError as error:
      self._record_bad_image(index, str(error))
      return Whole(np.zeros((1, 1, 3), np.uint8), (1, 1), np.int32(label), np.float32(0))
    return Whole(*decoded, np.int32(label), np.float32(1))

  def _read(self, index: int) -> tuple[bytes, int]:
    """The encoded image, empty if it is held in memory, and its label."""
    if isinstance(self._source, ArraySource):
      return b'', self._source.labels[index]
    try:
      return self._source.read(index)
    except (ValueError, OSError) as error:
      self._unreadable = str(error)
      raise

  def _plain_header(self, encoded: bytes) -> JpegHeader | None:
    """The header of a JPEG that needs no more than decoding; None for all else."""
    try:
      header = _header(encoded, self._options.rules)
    except DecodeError:
      return None
    is_plain = header and header.orientation == 1 and encoded.endswith(_JPEG_END)
    return header if is_plain else None

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

  def explain(self, error: tf.errors.OpError) -> Exception:
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
