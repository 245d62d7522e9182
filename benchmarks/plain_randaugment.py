"""RandAugment as the field writes it, to compare the speed of `data/randaugment.py` with.

For every layer and each of the sixteen operations there is a `tf.cond` that applies it if it was
drawn, and each operation is written in the ordinary way: with TensorFlow's image functions, channel
by channel, `tf.where` for masks and one projective transform for all that is geometric. The pixels
are those of the behaviour `'reference'`, see there; it has no defect on purpose.
"""

import functools
import math
from collections.abc import Callable

import tensorflow as tf

from nfnets_augmult.data.randaugment import OPERATIONS, RandAugment

_FILL = 128


def apply_layers(
  image: tf.Tensor,
  operation: tf.Tensor,
  negate: tf.Tensor,
  centre: tf.Tensor,
  randaugment: RandAugment,
) -> tf.Tensor:
  """Returns one image after all layers; arguments and result as in `data/randaugment.py`."""
  for layer in range(randaugment.layers):
    functions = _functions(randaugment.magnitude, negate[layer], centre[layer])
    for place, name in enumerate(OPERATIONS):
      image = tf.cond(
        tf.equal(operation[layer], place),
        functools.partial(functions[name], image),
        functools.partial(tf.identity, image),
      )
  return image


def _functions(
  magnitude: float, negate: tf.Tensor, centre: tf.Tensor
) -> dict[str, Callable[[tf.Tensor], tf.Tensor]]:
  """What each operation does to an image at this magnitude."""
  level = magnitude / 10
  factor = level * 1.8 + 0.1
  sign = tf.where(negate, -1.0, 1.0)
  shear = sign * (level * 0.3)
  shift = sign * (level * 100)
  bits = min(int(level * 4), 8)
  return {
    'AutoContrast': _auto_contrast,
    'Equalize': _equalize,
    'Invert': lambda image: 255 - image,
    'Rotate': lambda image: _rotate(image, sign * (level * 30)),
    'Posterize': lambda image: _posterize(image, bits),
    'Solarize': lambda image: tf.where(image < int(level * 256) % 256, image, 255 - image),
    'Color': lambda image: _color(image, factor),
    'Contrast': lambda image: _contrast(image, factor),
    'Brightness': lambda image: _blend(tf.zeros_like(image), image, factor),
    'Sharpness': lambda image: _sharpness(image, factor),
    'ShearX': lambda image: _transform(image, [1, shear, 0, 0, 1, 0]),
    'ShearY': lambda image: _transform(image, [1, 0, 0, shear, 1, 0]),
    'TranslateX': lambda image: _transform(image, [1, 0, shift, 0, 1, 0]),
    'TranslateY': lambda image: _transform(image, [1, 0, 0, 0, 1, shift]),
    'Cutout': lambda image: _cutout(image, int(level * 40), centre),
    'SolarizeAdd': lambda image: _solarize_add(image, int(level * 110)),
  }


def _blend(first: tf.Tensor, second: tf.Tensor, factor: float) -> tf.Tensor:
  if factor == 1:
    return second
  first, second = tf.cast(first, tf.float32), tf.cast(second, tf.float32)
  mixed = first + factor * (second - first)
  return tf.cast(tf.clip_by_value(mixed, 0, 255), tf.uint8)


def _by_channel(function: Callable[[tf.Tensor], tf.Tensor], image: tf.Tensor) -> tf.Tensor:
  return tf.stack([function(channel) for channel in tf.unstack(image, axis=-1)], axis=-1)


def _auto_contrast(image: tf.Tensor) -> tf.Tensor:
  def stretch(channel: tf.Tensor) -> tf.Tensor:
    values = tf.cast(channel, tf.float32)
    low, high = tf.reduce_min(values), tf.reduce_max(values)

    def stretched() -> tf.Tensor:
      scale = 255 / (high - low)
      return tf.cast(tf.clip_by_value(values * scale + -low * scale, 0, 255), tf.uint8)

    return tf.cond(high > low, stretched, lambda: channel)

  return _by_channel(stretch, image)


def _equalize(image: tf.Tensor) -> tf.Tensor:
  def spread(channel: tf.Tensor) -> tf.Tensor:
    values = tf.cast(channel, tf.int32)
    counts = tf.histogram_fixed_width(values, [0, 255], nbins=256)
    occupied = tf.boolean_mask(counts, counts > 0)
    step = (tf.reduce_sum(occupied) - occupied[-1]) // 255

    def looked_up() -> tf.Tensor:
      below = tf.cumsum(counts, exclusive=True)
      table = tf.clip_by_value((below + step // 2) // step, 0, 255)
      return tf.cast(tf.gather(table, values), tf.uint8)

    return tf.cond(step > 0, looked_up, lambda: channel)

  return _by_channel(spread, image)


def _posterize(image: tf.Tensor, bits: int) -> tf.Tensor:
  # TensorFlow shifts 8-bit numbers by 7 places at most, so one bit always stays.
  shift = tf.constant(8 - bits, tf.uint8)
  return tf.bitwise.left_shift(tf.bitwise.right_shift(image, shift), shift)


def _solarize_add(image: tf.Tensor, addition: int) -> tf.Tensor:
  added = tf.clip_by_value(tf.cast(image, tf.int32) + addition, 0, 255)
  return tf.where(image < 128, tf.cast(added, tf.uint8), image)


def _color(image: tf.Tensor, factor: float) -> tf.Tensor:
  grey = tf.image.grayscale_to_rgb(tf.image.rgb_to_grayscale(image))
  return _blend(grey, image, factor)


def _contrast(image: tf.Tensor, factor: float) -> tf.Tensor:
  # A mean over the bins of the histogram, so in effect the number of pixels divided by 256.
  grey = tf.cast(tf.image.rgb_to_grayscale(image), tf.int32)
  counts = tf.histogram_fixed_width(grey, [0, 255], nbins=256)
  mean = tf.reduce_sum(tf.cast(counts, tf.float32)) / 256
  mean = tf.cast(tf.clip_by_value(mean, 0, 255), tf.uint8)
  return _blend(tf.fill(tf.shape(image), mean), image, factor)


def _sharpness(image: tf.Tensor, factor: float) -> tf.Tensor:
  kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32) / 13
  kernel = tf.tile(kernel[:, :, tf.newaxis, tf.newaxis], [1, 1, 3, 1])
  values = tf.cast(image, tf.float32)[tf.newaxis]
  smooth = tf.nn.depthwise_conv2d(values, kernel, [1, 1, 1, 1], 'VALID')[0]
  smooth = tf.cast(tf.clip_by_value(smooth, 0, 255), tf.uint8)
  inside = tf.pad(tf.ones_like(smooth), [[1, 1], [1, 1], [0, 0]])
  smooth = tf.pad(smooth, [[1, 1], [1, 1], [0, 0]])
  return _blend(tf.where(inside == 1, smooth, image), image, factor)


def _rotate(image: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
  radians = degrees * (math.pi / 180)
  cosine, sine = tf.cos(radians), tf.sin(radians)
  last = tf.cast(tf.shape(image)[:2] - 1, tf.float32)
  x_0 = (last[1] - (cosine * last[1] - sine * last[0])) / 2
  y_0 = (last[0] - (sine * last[1] + cosine * last[0])) / 2
  return _transform(image, [cosine, -sine, x_0, sine, cosine, y_0])


def _transform(image: tf.Tensor, coefficients: list) -> tf.Tensor:
  """Output pixel (x, y) takes (a x + b y + c, d x + e y + f)."""
  numbers = [tf.cast(number, tf.float32) for number in [*coefficients, 0, 0]]
  return tf.raw_ops.ImageProjectiveTransformV3(
    images=image[tf.newaxis],
    transforms=tf.stack(numbers)[tf.newaxis],
    output_shape=tf.shape(image)[:2],
    fill_value=float(_FILL),
    interpolation='NEAREST',
    fill_mode='CONSTANT',
  )[0]


def _cutout(image: tf.Tensor, half_side: int, centre: tf.Tensor) -> tf.Tensor:
  size = tf.shape(image)
  middle = tf.cast(centre * tf.cast(size[:2], tf.float32), tf.int32)

  def near(axis: int) -> tf.Tensor:
    distance = tf.range(size[axis]) - middle[axis]
    return (distance >= -half_side) & (distance < half_side)

  painted = near(0)[:, tf.newaxis, tf.newaxis] & near(1)[tf.newaxis, :, tf.newaxis]
  return tf.where(painted, tf.constant(_FILL, image.dtype), image)
