"""Encoded images to uint8 pixels of one size, with a policy for those that do not decode."""

import re
import threading

import numpy as np
import tensorflow as tf
from absl import logging

from nfnets_augmult.data.sources import (
  BadImageError,
  EncodedSource,
  check_bad_image_policy,
  check_image_size,
)


class ImageDecoder:
  """Reads and decodes images of a source, and keeps account of those that cannot be decoded.

  Attributes:
    bad_images: index to name of every image that did not decode so far.
  """

  def __init__(self, source: EncodedSource, *, image_size: int, on_bad_image: str):
    """Checks the policy.

    Args:
      source: where the encoded images come from.
      image_size: height and width of the result, in pixels.
      on_bad_image: `'fail'` ends the run at the first image that does not decode; `'skip'` reports
        it once and leaves its copies out of the loss, so that no other batch changes.

    Raises:
      ValueError: unknown policy, or no image size.
    """
    check_bad_image_policy(on_bad_image)
    check_image_size(source, image_size)
    self.bad_images: dict[int, str] = {}
    self._source = source
    self._image_size = image_size
    self._on_bad_image = on_bad_image
    self._lock = threading.Lock()

  def read(self, image_index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns image uint8 `[S, S, 3]`, label int32 and mask float32 of one image, in a graph.

    The shorter side is scaled to S (bilinear with antialiasing), then the centre is cut out. The
    mask is 0 for an image that did not decode under the policy `'skip'`, else 1.
    """
    pixels, label, mask = tf.numpy_function(
      self._read_pixels, [image_index], (tf.uint8, tf.int32, tf.float32), stateful=False
    )
    pixels.set_shape([None, None, 3])
    size = self._image_size
    shape = tf.cast(tf.shape(pixels)[:2], tf.float32)
    scaled = tf.cast(tf.math.ceil(shape * (size / tf.reduce_min(shape)) - 1e-3), tf.int32)
    image = tf.image.resize(pixels, scaled, antialias=True)
    image = tf.image.resize_with_crop_or_pad(image, size, size)
    image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
    return image, tf.ensure_shape(label, []), tf.ensure_shape(mask, [])

  def _read_pixels(self, image_index: np.ndarray) -> tuple[np.ndarray, np.int32, np.float32]:
    """Pixels of any size, label, mask."""
    index = int(image_index)
    encoded, label = self._source.read(index)
    try:
      with tf.device('cpu'):
        pixels = tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()
      return pixels, np.int32(label), np.float32(1)
    except tf.errors.InvalidArgumentError as error:
      reason = re.sub(r'\{\{.*?\}\}|\[Op:.*?\]', '', error.message).strip().split('\n')[0][:200]
    name = self._source.image_name(index)
    with self._lock:
      is_new = index not in self.bad_images
      self.bad_images[index] = name
    if self._on_bad_image == 'fail':
      raise ValueError(f'image {name} does not decode')
    if is_new:
      logging.warning(
        'image %s does not decode and is left out (%d so far): %s',
        name,
        len(self.bad_images),
        reason,
      )
    return np.zeros((1, 1, 3), np.uint8), np.int32(label), np.float32(0)

  def explain(self, error: tf.errors.OpError) -> Exception:
    """Returns the error to raise when reading from the pipeline failed with `error`."""
    if self.bad_images and self._on_bad_image == 'fail':
      names = ', '.join(self.bad_images.values())
      return BadImageError(
        f'an image does not decode: {names}. Repair or remove it, or leave such images out with '
        '--config.dataset.on_bad_image=skip'
      )
    return error
