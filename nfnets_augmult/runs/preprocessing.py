"""From an image of any kind to the pixels that a network gets of it, as in its evaluation."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging
from PIL import Image, ImageOps

from nfnets_augmult.data import pillow_images
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.evaluation_crop import EvaluationCrop
from nfnets_augmult.data.image_formats import DecodeError, DecodeRules
from nfnets_augmult.data.read_options import ReadOptions
from nfnets_augmult.ops.checks import check_int

# A file, an image that Pillow has opened, or pixels uint8 [H, W, 3]; of grey ones also [H, W].
ImageLike = str | bytes | os.PathLike | Image.Image | np.ndarray

_LARGEST_SIDE = 2**14


@dataclasses.dataclass
class Preprocessing:
  """How images are decoded, cropped and scaled for a network; it normalizes them itself.

  Attributes:
    image_shape: height, width and channels that the network gets in evaluation.
    is_of_arrays: whether it was trained on arrays of one size, as `digits` and CIFAR. Then the
      largest centred part of that shape is scaled by Pillow's bicubic filter; else `crop` applies.
    options: how images are read.
    crop: of encoded images.
    augmentation: of the training; None if it is not known.
    train_shape: as `image_shape`, in training.
  """

  image_shape: tuple[int, int, int]
  is_of_arrays: bool
  options: ReadOptions
  crop: EvaluationCrop
  augmentation: Augmentation | None = None
  train_shape: tuple[int, int, int] | None = None
  _has_said_scaled: bool = dataclasses.field(default=False, init=False, repr=False, compare=False)

  def describe(self) -> dict[str, Any]:
    """Returns all but the training's part as JSON values."""
    return {
      'image_shape': list(self.image_shape),
      'is_of_arrays': self.is_of_arrays,
      'options': dataclasses.asdict(self.options),
      'crop': dataclasses.asdict(self.crop),
    }

  @classmethod
  def from_description(cls, described: Mapping[str, Any]) -> 'Preprocessing':
    """Inverts `describe`.

    Raises:
      ValueError: it is no such description.
    """
    try:
      shape, options = tuple(described['image_shape']), dict(described['options'])
      for name, value in zip(('height', 'width', 'channels'), shape, strict=True):
        check_int(name, value, least=1, most=_LARGEST_SIDE)
      options['rules'] = DecodeRules(**options['rules'])
      return cls(
        image_shape=shape,
        is_of_arrays=bool(described['is_of_arrays']),
        options=ReadOptions(**options),
        crop=EvaluationCrop(**described['crop']),
      )
    except (TypeError, KeyError) as error:
      raise ValueError(f'its preprocessing is not described as it should be: {error}') from error

  @property
  def needs_tensorflow(self) -> bool:
    """Whether the centre of an image is cut with TensorFlow."""
    return not self.is_of_arrays

  @property
  def copies_need_tensorflow(self) -> bool:
    """Whether augmented copies of an image are made with TensorFlow."""
    is_plain = self.augmentation.crop.cut is not None and not self.augmentation.randaugment.layers
    return not (self.is_of_arrays and is_plain)

  def centre(self, content: bytes | np.ndarray) -> np.ndarray:
    """Returns what the network gets of an image in evaluation, uint8 `[H, W, C]`.

    Args:
      content: see `content`.

    Raises:
      DecodeError: it cannot be read.
    """
    if self.is_of_arrays:
      return self._fitted(content)
    from nfnets_augmult.data import single_images

    return single_images.centre(content, self.crop, self.options)

  def copies(self, content: bytes | np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Returns copies augmented as in training, but for Mixup and CutMix, uint8 `[n, H, W, C]`.

    Args:
      content: see `content`.
      seeds: of the copies, uint32 `[n, 2]`.

    Raises:
      DecodeError: it cannot be read.
    """
    if self.is_of_arrays:
      content = self._fitted(content)
    if not self.copies_need_tensorflow:
      crop = self.augmentation.crop
      return crop.cut(content[np.newaxis], np.zeros(len(seeds), np.int64), crop.draw(seeds))
    from nfnets_augmult.data import single_images

    return single_images.augmented_copies(
      content, seeds, self.augmentation, size=self.train_shape[0], options=self.options
    )

  @property
  def _mode(self) -> str:
    """Pillow's name for the kind of images that the network gets."""
    return 'L' if self.image_shape[-1] == 1 else 'RGB'

  def content(self, image: ImageLike) -> bytes | np.ndarray:
    """Returns the contents of a file, or pixels uint8 `[H, W, C]`.

    Raises:
      DecodeError: it cannot be read.
      ValueError: an array is no image.
    """
    if isinstance(image, Image.Image):
      return pillow_images.to_array(image, self.options.rules, mode=self._mode)
    if isinstance(image, np.ndarray):
      return self._checked(image)
    try:
      with open(image, 'rb') as file:
        return file.read()
    except OSError as error:
      raise DecodeError(f'it cannot be read: {error.strerror}') from error

  def _checked(self, image: np.ndarray) -> np.ndarray:
    """An array that is an image, with as many channels as the network gets."""
    pixels = image if image.ndim == 3 else image[..., np.newaxis]
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or pixels.shape[-1] not in (1, 3):
      raise ValueError(
        f'an array of the type {image.dtype} and the shape {image.shape} is no image: give uint8 '
        '[height, width, 3], or [height, width] if it is grey'
      )
    if not pixels.size:
      raise DecodeError('it has no pixels')
    if pixels.shape[-1] == self.image_shape[-1]:
      return pixels
    plain = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return np.asarray(plain.convert(self._mode)).reshape(*pixels.shape[:2], -1)

  def _fitted(self, image: bytes | np.ndarray) -> np.ndarray:
    """An image in the shape of the arrays that the network was trained with."""
    if isinstance(image, bytes):
      image = pillow_images.decode(image, self.options.rules, mode=self._mode)
    height, width, channels = self.image_shape
    if image.shape[:2] == (height, width):
      return np.ascontiguousarray(image)
    if not self._has_said_scaled:
      self._has_said_scaled = True
      logging.warning(
        'the network is for images of %d x %d pixels; of those of another size, as of %d x %d, the '
        'largest centred part of that shape is scaled to it',
        *(width, height, *image.shape[1::-1]),
      )
    plain = Image.fromarray(np.ascontiguousarray(image[..., 0] if channels == 1 else image))
    fitted = ImageOps.fit(plain, (width, height), Image.Resampling.BICUBIC)
    return np.asarray(fitted).reshape(self.image_shape)
