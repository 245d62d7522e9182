"""The operations of RandAugment on uint8 images, in TensorFlow; `randaugment.py` describes them."""

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from nfnets_augmult.data import randaugment_geometry
from nfnets_augmult.data.randaugment import FILL, OPERATIONS, RandAugment
from nfnets_augmult.data.randaugment_geometry import GEOMETRIC


def apply_layers(
  image: tf.Tensor,
  operation: tf.Tensor,
  negate: tf.Tensor,
  centre: tf.Tensor,
  randaugment: RandAugment,
) -> tf.Tensor:
  """Returns one image after all layers, each of which is one `Case` in the graph.

  Args:
    image: uint8 `[H, W, 3]`. A static size is faster, see `_source_pixels`.
    operation: int32 `[L]`.
    negate: bool `[L]`.
    centre: float32 `[L, 2]`. Operation, negate and centre are a row of `Draws`.
    randaugment: number of layers, magnitude and behaviour.

  Returns:
    uint8 `[H, W, 3]`.

  Raises:
    ValueError: the image does not have three channels.

  Example:
    >>> import numpy as np
    >>> import tensorflow as tf
    >>> from nfnets_augmult import RandAugment, apply_randaugment, draw_randaugment
    >>> randaugment = RandAugment(layers=1)
    >>> draws = draw_randaugment(np.array([[0, 1]], np.uint32), randaugment)
    >>> operation, negate, centre = (tf.constant(rows[0]) for rows in draws)
    >>> image = tf.zeros([8, 8, 3], tf.uint8)
    >>> apply_randaugment(image, operation, negate, centre, randaugment).numpy().shape
    (8, 8, 3)
  """
  if not randaugment.layers:
    return image
  functions = [
    make_operation(name, image, randaugment.magnitude, randaugment.behaviour) for name in OPERATIONS
  ]
  for layer in range(randaugment.layers):
    branches = [
      functools.partial(function, image, negate[layer], centre[layer]) for function in functions
    ]
    image = tf.ensure_shape(tf.switch_case(operation[layer], branches), image.shape)
  return image


def make_operation(
  operation: str, image: tf.Tensor, magnitude: float, behaviour: str
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]:
  """Returns an operation as a function of image, negate and centre, for images of one size.

  Args:
    operation: one of `OPERATIONS`.
    image: uint8 `[H, W, 3]` of that size, at least 3x3 pixels.
    magnitude: M, at least 0.
    behaviour: one of `BEHAVIOURS`.

  Raises:
    ValueError: the image does not have three channels.
  """
  RandAugment(1).check_channels(image.shape[-1])
  pil = behaviour == 'pil'
  if operation in GEOMETRIC:
    sources = _source_pixels(operation, image, magnitude, behaviour)
    return lambda image, negate, centre: _sample(image, sources[tf.cast(negate, tf.int32)])
  level = magnitude / 10
  if operation == 'Cutout':
    return lambda image, negate, centre: _cutout(image, int(level * 40), centre)
  factor = level * 1.8 + 0.1
  function = {
    'AutoContrast': lambda image: _auto_contrast(image, pil),
    'Equalize': _equalize,
    'Invert': lambda image: 255 - image,
    'Posterize': lambda image: _posterize(image, int(level * 4)),
    'Solarize': lambda image: _solarize(image, int(level * 256), pil),
    'Color': lambda image: _color(image, factor, pil),
    'Contrast': lambda image: _contrast(image, factor, pil),
    'Brightness': lambda image: _blend(0.0, _float32(image), factor),
    'Sharpness': lambda image: _sharpness(image, factor, pil),
    'SolarizeAdd': lambda image: _solarize_add(image, int(level * 110)),
  }[operation]
  return lambda image, negate, centre: function(image)


# Pointwise operations. They compute on whole rows [H, 3 W]: `tf.where`, tables (`gather`) and
# broadcasts along the three channels are all several times slower.


def _auto_contrast(image: tf.Tensor, pil: bool) -> tf.Tensor:
  """Stretches each channel to 0 ... 255; a constant channel stays as it is."""
  dtype = tf.float64 if pil else tf.float32
  pixels = tf.reshape(image, [-1, 3])
  low = tf.cast(tf.reduce_min(pixels, axis=0), dtype)
  high = tf.cast(tf.reduce_max(pixels, axis=0), dtype)
  scale = tf.where(high > low, 255 / tf.maximum(high - low, 1), 1)
  offset = tf.where(high > low, -low * scale, 0)
  _, width, _ = _size(image)
  values = tf.cast(_rows(image), dtype) * tf.tile(scale, [width]) + tf.tile(offset, [width])
  return tf.reshape(_to_uint8(values), tf.shape(image))


def _equalize(image: tf.Tensor) -> tf.Tensor:
  """Spreads the values of each channel evenly, by the integer arithmetic of Pillow."""
  _, width, _ = _size(image)
  # 256 bins for each channel, one channel after another.
  bins = tf.cast(_rows(image), tf.int32) + tf.tile([0, 256, 512], [width])
  counts = tf.reshape(tf.math.bincount(bins, minlength=768, maxlength=768), [3, 256])
  below = tf.cumsum(counts, axis=1, exclusive=True)
  step = tf.reduce_max(tf.where(counts > 0, below, 0), axis=1, keepdims=True) // 255
  table = tf.minimum((below + step // 2) // tf.maximum(step, 1), 255)
  table = tf.where(step > 0, table, tf.range(256))
  flat_table = tf.cast(tf.reshape(table, [-1]), tf.uint8)
  # `gather_nd` is faster than `gather`.
  return tf.reshape(tf.gather_nd(flat_table, bins[..., tf.newaxis]), tf.shape(image))


def _posterize(image: tf.Tensor, bits: int) -> tf.Tensor:
  bits = min(max(bits, 1), 8)
  return tf.bitwise.bitwise_and(image, tf.constant(256 - 2 ** (8 - bits), tf.uint8))


def _solarize(image: tf.Tensor, threshold: int, pil: bool) -> tf.Tensor:
  """Inverts the values from `threshold` on."""
  if pil and threshold > 255:
    return image
  # 0 - 1 is 255, all bits.
  inverted = tf.cast(image < threshold % 256, tf.uint8) - 1
  return tf.bitwise.bitwise_xor(image, inverted)


def _solarize_add(image: tf.Tensor, addition: int) -> tf.Tensor:
  """Adds to the values below 128, up to 255."""
  added = tf.cast(image < 128, tf.uint8) * tf.constant(min(addition, 255), tf.uint8)
  return image + tf.minimum(added, 255 - image)


def _contrast(image: tf.Tensor, factor: float, pil: bool) -> tf.Tensor:
  if pil:
    grey = tf.floor(tf.reduce_mean(tf.cast(_grey(image, pil), tf.float64)) + 0.5)
  else:
    height, width, _ = _size(image)
    grey = tf.minimum(height * width // 256, 255)
  return _blend(_float32(grey), _float32(image), factor)


# Operations on several channels or neighbouring pixels.


def _color(image: tf.Tensor, factor: float, pil: bool) -> tf.Tensor:
  # A matrix product with ones is faster than broadcasting.
  grey = tf.matmul(_grey(image, pil), tf.ones([1, 3]))
  return _blend(tf.reshape(grey, tf.shape(image)), _float32(image), factor)


def _sharpness(image: tf.Tensor, factor: float, pil: bool) -> tf.Tensor:
  weights = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32)
  if not pil:
    weights = weights / np.float32(13)
  kernel = np.tile(weights[..., np.newaxis, np.newaxis], [1, 1, 3, 1])
  values = _float32(image)
  smooth = tf.nn.depthwise_conv2d(values[tf.newaxis], kernel, [1, 1, 1, 1], 'VALID')[0]
  smooth = tf.floor(smooth / 13 + 0.5) if pil else tf.floor(smooth)
  return _paste(image, _blend(smooth, values[1:-1, 1:-1], factor), 1, 1)


def _cutout(image: tf.Tensor, half_side: int, centre: tf.Tensor) -> tf.Tensor:
  """Paints the part of a square that is in the image; its centre always is."""
  size = tf.shape(image)[:2]
  # Less than the size, since the centre is a multiple of 2**-24.
  middle = tf.cast(centre * tf.cast(size, tf.float32), tf.int32)
  start = tf.maximum(middle - half_side, 0)
  stop = tf.minimum(middle + half_side, size)
  square = tf.fill(tf.concat([stop - start, [3]], axis=0), tf.constant(FILL, tf.uint8))
  return _paste(image, square, start[0], start[1])


def _paste(image: tf.Tensor, patch: tf.Tensor, top: int, left: int) -> tf.Tensor:
  """The image with `patch` pasted in, its upper left corner at row `top` and column `left`."""
  bottom, right = top + tf.shape(patch)[0], left + tf.shape(patch)[1]
  middle = tf.concat([image[top:bottom, :left], patch, image[top:bottom, right:]], axis=1)
  return tf.concat([image[:top], middle, image[bottom:]], axis=0)


def _grey(image: tf.Tensor, pil: bool) -> tf.Tensor:
  """Grey levels of the image, whole numbers in float32 `[H W, 1]`."""
  pixels = tf.reshape(_float32(image), [-1, 3])
  if pil:
    # 16 fractional bits; the sums are below 2**24 and thus exact in float32.
    weighted = tf.matmul(pixels, [[19595.0], [38470.0], [7471.0]])
    return tf.floor((weighted + 2**15) / 2**16)
  return tf.floor(tf.matmul(pixels * (1 / 255), [[0.2989], [0.5870], [0.1140]]) * 255.5)


def _blend(other: tf.Tensor | float, values: tf.Tensor, factor: float) -> tf.Tensor:
  """From `other` at factor 0 to `values` at 1 and beyond; whole float32 numbers to uint8."""
  if factor == 1:
    return tf.cast(values, tf.uint8)
  return _to_uint8(other + factor * (values - other))


# Geometric operations.


def _source_pixels(operation: str, image: tf.Tensor, magnitude: float, behaviour: str) -> tf.Tensor:
  """See `randaugment_geometry.source_pixels`; int32 `[2, H, W]`.

  For a static size this is computed once, in NumPy; the rest takes a fifth of the time of
  `tf.raw_ops.ImageProjectiveTransformV3`, for the same pixels.
  """

  def make(height: int, width: int) -> np.ndarray:
    return randaugment_geometry.source_pixels(
      operation, magnitude, behaviour, int(height), int(width)
    )

  height, width, _ = _size(image)
  if image.shape.is_fully_defined():
    return tf.constant(make(height, width))
  return tf.numpy_function(make, [height, width], tf.int32, stateful=False)


def _sample(image: tf.Tensor, source: tf.Tensor) -> tf.Tensor:
  """The image's pixels with the numbers `source`, int32 `[H, W]`; the one after the last is 128."""
  filling = tf.constant([[FILL] * 3], tf.uint8)
  pixels = tf.concat([tf.reshape(image, [-1, 3]), filling], axis=0)
  return tf.reshape(tf.gather_nd(pixels, source[..., tf.newaxis]), tf.shape(image))


def _size(image: tf.Tensor) -> tuple:
  """Height, width and channels: numbers if they are static, else scalar tensors."""
  static, dynamic = image.shape, tf.shape(image)
  return tuple(dynamic[i] if static[i] is None else static[i] for i in range(3))


def _rows(image: tf.Tensor) -> tf.Tensor:
  """`[H, W, 3]` as `[H, 3 W]`."""
  height, width, channels = _size(image)
  return tf.reshape(image, [height, width * channels])


def _float32(values: tf.Tensor) -> tf.Tensor:
  return tf.cast(values, tf.float32)


def _to_uint8(values: tf.Tensor) -> tf.Tensor:
  """Clips to 0 ... 255 and rounds towards zero."""
  return tf.cast(tf.clip_by_value(values, 0, 255), tf.uint8)
