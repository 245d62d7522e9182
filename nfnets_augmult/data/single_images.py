"""One image at a time: its centre as in evaluation, or copies of it as in training.

The pixels are those of `pipeline.py`. Images need no place in a data set here.
"""

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from nfnets_augmult.data import decoding, randaugment
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.decoding import MakeBoxes
from nfnets_augmult.data.evaluation_crop import EvaluationCrop
from nfnets_augmult.data.randaugment import RandAugment
from nfnets_augmult.data.randaugment_ops import apply_layers
from nfnets_augmult.data.read_options import ReadOptions
from nfnets_augmult.data.resizing import resize_boxes

# The contents of a file, or pixels uint8 [H, W, C].
EncodedOrPixels = bytes | np.ndarray


def centre(image: EncodedOrPixels, crop: EvaluationCrop, options: ReadOptions) -> np.ndarray:
  """Returns the centre of an image, uint8 `[S, S, C]`, where S is `options.image_size`.

  Raises:
    DecodeError: it cannot be decoded.
  """
  size = options.image_size
  scaled = crop.scaled_size(size)
  whole = _scaled_boxes(image, lambda *shape: crop.box(*shape, size), None, scaled, options)[0]
  border = (scaled - size + 1) // 2
  return whole[border : border + size, border : border + size]


def augmented_copies(
  image: EncodedOrPixels,
  seeds: np.ndarray,
  augmentation: Augmentation,
  *,
  size: int,
  options: ReadOptions,
) -> np.ndarray:
  """Returns augmented copies of an image, not mixed with others, uint8 `[n, S, S, C]`.

  Args:
    image: encoded, or its pixels.
    seeds: of the copies, uint32 `[n, 2]`.
    augmentation: of which crop and RandAugment are applied.
    size: S, pixels.
    options: how images are read, but for `image_size`.

  Raises:
    DecodeError: it cannot be decoded.
  """
  crop, layers = augmentation.crop, augmentation.randaugment
  draws = crop.draw(seeds)
  flips = draws.flip if crop.cut is None else None
  copies = _scaled_boxes(image, functools.partial(crop.boxes, draws), flips, size, options)
  if crop.cut is not None:
    copies = crop.cut(copies, np.zeros(len(seeds), np.int64), draws)
  if layers.layers:
    drawn = randaugment.draw(seeds, layers)
    with tf.device('cpu'):
      apply = _randaugment_function(layers)
      rows = zip(copies, *drawn, strict=True)
      copies = np.stack([apply(*row).numpy() for row in rows])
  return copies


def _scaled_boxes(
  image: EncodedOrPixels,
  make_boxes: MakeBoxes,
  flips: np.ndarray | None,
  size: int,
  options: ReadOptions,
) -> np.ndarray:
  """Parts of an image, scaled, uint8 `[M, size, size, C]`."""
  if isinstance(image, bytes):
    pixels, boxes = decoding.decode_boxes(image, make_boxes, size, options)
  else:
    pixels, boxes = image, make_boxes(*image.shape[:2])
  with tf.device('cpu'):
    mirrored = None if flips is None else tf.constant(flips)
    scaled = resize_boxes(
      tf.constant(pixels), tf.constant(boxes), mirrored, size=size, antialias=options.antialias
    )
    return scaled.numpy()


@functools.cache
def _randaugment_function(layers: RandAugment) -> Callable[..., tf.Tensor]:
  # As a graph, in which only the drawn operation runs.
  return tf.function(lambda image, *drawn: apply_layers(image, *drawn, layers))
