"""From one image of a source to crops of it, read and decoded once."""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from nfnets_augmult.data import crop_flip, inception_crop
from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.data.decoding import ImageReader
from nfnets_augmult.data.evaluation_crop import EvaluationCrop
from nfnets_augmult.data.inception_crop import InceptionCrop
from nfnets_augmult.data.numpy_calls import numpy_call
from nfnets_augmult.data.resizing import resize_boxes

_READ_TYPES = {'pixels': tf.uint8, 'boxes': tf.int32, 'label': tf.int32, 'mask': tf.float32}
_LARGEST_SQUARE = EvaluationCrop(padding=0)


class CopyReader:
  """Makes copies of single images: crop, scale, flip.

  Attributes:
    draw_types: name to dtype of what `draw` returns.
    draw_shapes: name to shape of it for one copy.
  """

  def __init__(self, reader: ImageReader, crop: CropFlip | InceptionCrop, size: int):
    """Keeps the arguments.

    Args:
      reader: of the images.
      crop: what a copy shows. A `CropFlip` is of the largest centred square, scaled to `size`.
      size: height and width of the copies, in pixels.
    """
    self._reader = reader
    self._crop = crop
    self._size = size
    if isinstance(crop, InceptionCrop):
      self.draw_types = {'uniform': tf.float32, 'flip': tf.bool}
    else:
      self.draw_types = {'top': tf.int32, 'left': tf.int32, 'flip': tf.bool}
    self.draw_shapes = {key: () for key in self.draw_types}
    if isinstance(crop, InceptionCrop):
      self.draw_shapes['uniform'] = (inception_crop.MAX_ATTEMPTS, 4)

  def draw(self, seeds: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the draws of copies with these `seeds` `[..., 2]`, by name, each `[..., *]`."""
    kind = inception_crop if isinstance(self._crop, InceptionCrop) else crop_flip
    return kind.draw(seeds, self._crop)._asdict()

  def read(self, index: tf.Tensor, draws: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns `copies` uint8 `[M, S, S, C]`, `label` int32 and `mask` float32 of one image.

    The mask is 0 for an image that did not decode under the policy `'skip'`, else 1.

    Args:
      index: of the image.
      draws: of its M copies.
    """
    if isinstance(self._crop, InceptionCrop):
      return self._read_parts(index, draws['uniform'], draws['flip'])
    square = read_centre(self._reader, index, _LARGEST_SQUARE, self._size)

    def crop_and_flip(image: np.ndarray, *drawn: np.ndarray) -> dict[str, np.ndarray]:
      owner = np.zeros(len(drawn[0]), np.int64)
      copies = crop_flip.crop_and_flip(image[None], owner, crop_flip.Draws(*drawn), self._crop)
      return {'copies': copies}

    ordered = [draws[key] for key in self.draw_types]
    made = numpy_call(crop_and_flip, {'copies': tf.uint8}, square['image'], *ordered)
    return dict(made, label=square['label'], mask=square['mask'])

  def _read_parts(
    self, index: tf.Tensor, uniform: tf.Tensor, flips: tf.Tensor
  ) -> dict[str, tf.Tensor]:
    def read(index: np.ndarray, uniform: np.ndarray) -> dict[str, np.ndarray]:
      return self._reader.read(
        int(index),
        lambda height, width: inception_crop.boxes(uniform, height, width, self._crop),
        self._size,
      )._asdict()

    made = numpy_call(read, _READ_TYPES, index, uniform)
    boxes = tf.ensure_shape(made['boxes'], [uniform.shape[0], 4])
    copies = resize_boxes(
      made['pixels'], boxes, flips, size=self._size, antialias=self._reader.antialias
    )
    return dict(copies=copies, label=made['label'], mask=made['mask'])


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

  def read(index: np.ndarray) -> dict[str, np.ndarray]:
    return reader.read(
      int(index), lambda height, width: crop.box(height, width, size), scaled
    )._asdict()

  made = numpy_call(read, _READ_TYPES, index)
  boxes = tf.ensure_shape(made['boxes'], [1, 4])
  image = resize_boxes(made['pixels'], boxes, None, size=scaled, antialias=reader.antialias)[0]
  border = (scaled - size + 1) // 2
  image = image[border : border + size, border : border + size]
  return dict(
    image=tf.ensure_shape(image, [size, size, None]),
    label=tf.ensure_shape(made['label'], []),
    mask=tf.ensure_shape(made['mask'], []),
  )
