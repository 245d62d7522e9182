"""From one image of a source to crops of it, read and decoded once."""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from nfnets_augmult.data.crops import Crop
from nfnets_augmult.data.decoding import ImageReader
from nfnets_augmult.data.evaluation_crop import EvaluationCrop
from nfnets_augmult.data.numpy_calls import numpy_call
from nfnets_augmult.data.resizing import resize_boxes

_READ_TYPES = {'pixels': tf.uint8, 'boxes': tf.int32, 'label': tf.int32, 'mask': tf.float32}


class CopyReader:
  """Makes copies of single images: crop, scale, flip.

  Attributes:
    draw_types: name to dtype of what `draw` returns.
    draw_shapes: name to shape of it for one copy.
  """

  def __init__(self, reader: ImageReader, crop: Crop, size: int):
    """Keeps the arguments.

    Args:
      reader: of the images.
      crop: what a copy shows.
      size: height and width of the copies, S, in pixels.
    """
    self._reader = reader
    self._crop = crop
    self._size = size
    example = crop.draw(np.zeros((1, 2), np.uint32))
    self._make_draws = type(example)._make
    self.draw_types = {key: tf.as_dtype(array.dtype) for key, array in example._asdict().items()}
    self.draw_shapes = {key: array.shape[1:] for key, array in example._asdict().items()}

  def draw(self, seeds: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the draws of copies with these `seeds` `[..., 2]`, by name, each `[..., *]`."""
    return self._crop.draw(seeds)._asdict()

  def read(self, index: tf.Tensor, draws: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Returns `copies` uint8 `[M, S, S, C]`, `label` int32 and `mask` float32 of one image.

    The mask is 0 for an image that did not decode under the policy `'skip'`, else 1.

    Args:
      index: of the image.
      draws: of its M copies.
    """
    crop, ordered = self._crop, [draws[key] for key in self.draw_types]

    def boxes(height: int, width: int, *drawn: np.ndarray) -> np.ndarray:
      return crop.boxes(self._make_draws(drawn), height, width)

    if crop.cut is None:
      return _read_boxes(self._reader, index, boxes, *ordered, flips=draws['flip'], size=self._size)
    square = _read_boxes(self._reader, index, boxes, *ordered, flips=None, size=self._size)

    def cut(scaled: np.ndarray, *drawn: np.ndarray) -> dict[str, np.ndarray]:
      owner = np.zeros(len(drawn[0]), np.int64)
      return {'copies': crop.cut(scaled, owner, self._make_draws(drawn))}

    return square | numpy_call(cut, {'copies': tf.uint8}, square['copies'], *ordered)


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
  image = made['copies'][0, border : border + size, border : border + size]
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
    copies=resize_boxes(made['pixels'], parts, flips, size=size, antialias=reader.antialias),
    label=tf.ensure_shape(made['label'], []),
    mask=tf.ensure_shape(made['mask'], []),
  )
