"""Where the pixels of RandAugment's geometric operations come from; used by host and device.

Output pixel (x, y) is the input pixel nearest to (a x + b y + c, d x + e y + f), which depends on
the size and the sign only.
"""

import math
from typing import Any

import numpy as np

GEOMETRIC = ('Rotate', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY')


def source_pixels(
  operation: str, magnitude: float, behaviour: str, height: int, width: int
) -> np.ndarray:
  """Returns numbers of the input pixels, int32 `[2, H, W]`, for the positive and negative sign.

  Pixels are numbered row by row; the number after the last stands for all outside.

  Args:
    operation: one of `GEOMETRIC`.
    magnitude: M, at least 0.
    behaviour: one of `randaugment.BEHAVIOURS`.
    height: of the images, in pixels.
    width: of the images, in pixels.
  """
  find = _pixels_of_pillow if behaviour == 'pil' else _pixels_of_reference
  return np.stack([find(operation, magnitude / 10 * sign, height, width) for sign in (1, -1)])


def _coefficients(operation: str, level: float, rotation: tuple[Any, ...]) -> tuple[Any, ...]:
  """From a to f, where those of a rotation are given."""
  return {
    'Rotate': rotation,
    'ShearX': (1, level * 0.3, 0, 0, 1, 0),
    'ShearY': (1, 0, 0, level * 0.3, 1, 0),
    'TranslateX': (1, 0, level * 100, 0, 1, 0),
    'TranslateY': (1, 0, 0, 0, 1, level * 100),
  }[operation]


def _pixels_of_reference(operation: str, level: float, height: int, width: int) -> np.ndarray:
  """In float32, with every product and sum rounded, as in `ImageProjectiveTransformV3`."""
  number = np.float32
  radians = number(level * 30) * number(math.pi / 180)
  sine, cosine = _sine_and_cosine(radians)
  right, bottom = number(width - 1), number(height - 1)
  x_0 = (right - (cosine * right - sine * bottom)) / number(2)
  y_0 = (bottom - (sine * right + cosine * bottom)) / number(2)
  coefficients = _coefficients(operation, level, (cosine, -sine, x_0, sine, cosine, y_0))
  a, b, c, d, e, f = np.array(coefficients, number)
  x, y = np.arange(width, dtype=number), np.arange(height, dtype=number)[:, np.newaxis]
  columns, rows = ((p * x + q * y) + r for p, q, r in ((a, b, c), (d, e, f)))
  # Halves are rounded away from 0, so that -0.5 is outside. In float64 the sum is exact.
  columns, rows = (
    np.where(places > -0.5, np.floor(places.astype(np.float64) + 0.5), -1).astype(np.int64)
    for places in (columns, rows)
  )
  return _numbers(columns, rows, height, width)


def _pixels_of_pillow(operation: str, level: float, height: int, width: int) -> np.ndarray:
  """In 16.16 fixed point, from the corner of the image to the centre of each pixel."""
  radians = math.radians(level * 30)
  sine, cosine = math.sin(radians), math.cos(radians)
  x_0 = width / 2 - (cosine * width - sine * height) / 2
  y_0 = height / 2 - (sine * width + cosine * height) / 2
  coefficients = _coefficients(operation, level, (cosine, -sine, x_0, sine, cosine, y_0))
  a, b, c, d, e, f = np.array(coefficients, np.float64)
  # At the centre of the first pixel.
  c, f = c + (a + b) / 2, f + (d + e) / 2
  a, b, c, d, e, f = np.floor(np.array([a, b, c, d, e, f]) * 2**16 + 0.5).astype(np.int64)
  x, y = np.arange(width), np.arange(height)[:, np.newaxis]
  columns, rows = ((p * x + q * y + r) >> 16 for p, q, r in ((a, b, c), (d, e, f)))
  return _numbers(columns, rows, height, width)


def _numbers(columns: np.ndarray, rows: np.ndarray, height: int, width: int) -> np.ndarray:
  """The numbers of the pixels at these columns and rows, int32 `[H, W]`."""
  inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
  return np.where(inside, rows * width + columns, height * width).astype(np.int32)


def _sine_and_cosine(radians: np.float32) -> tuple[np.float32, np.float32]:
  """TensorFlow's, of which NumPy's differ in the last bit."""
  import tensorflow as tf

  with tf.init_scope(), tf.device('cpu'):  # eagerly
    return tf.sin(radians).numpy(), tf.cos(radians).numpy()
