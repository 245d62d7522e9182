"""The two central crops with which the published networks are evaluated."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from nfnets_augmult.ops.checks import check_choice, check_int

KINDS = ('crop_then_resize', 'resize_then_crop')
# More pixels than the images of any network have.
_MOST_PADDING = 2**12


@dataclasses.dataclass(frozen=True)
class EvaluationCrop:
  """Which part of an image is evaluated (Brock et al. 2021b).

  Attributes:
    kind: `'crop_then_resize'` scales a centred square whose side is `size / (size + padding)` of
      the image's shorter one; `'resize_then_crop'` scales the whole image to a square of
      `size + padding`, whatever its shape, and cuts out the centre.
    padding: pixels at the network's resolution.

  Example:
    >>> from nfnets_augmult import EvaluationCrop
    >>> EvaluationCrop(padding=32).box(height=256, width=300, size=224).tolist()
    [[16, 38, 224, 224]]
  """

  kind: str = 'crop_then_resize'
  padding: int = 32

  def __post_init__(self):
    check_choice('kind', self.kind, KINDS)
    check_int('padding', self.padding, most=_MOST_PADDING)

  def scaled_size(self, size: int) -> int:
    """Returns the pixels to which the `box` is scaled; the central `size` of them are kept."""
    return size if self.kind == 'crop_then_resize' else size + self.padding

  def box(self, height: ArrayLike, width: ArrayLike, size: int) -> np.ndarray:
    """Returns the part of an image to scale, int32 `[1, 4]`: top, left, height and width.

    Args:
      height: of the image, pixels; of several images integers `[...]`, and boxes `[..., 1, 4]`.
      width: likewise.
      size: of the network's images, pixels.
    """
    if self.kind == 'resize_then_crop':
      zero = np.zeros_like(height)
      return np.stack([zero, zero, height, width], axis=-1)[..., np.newaxis, :].astype(np.int32)
    side = np.minimum(height, width) * size / (size + self.padding)
    return centred_square(height, width, np.maximum(1, side.astype(np.int64)))


def default_crop_padding(size: int, training_crop: str) -> int:
  """Returns the padding for images of `size` pixels of a network that was trained on some crops.

  After whole centred squares, `'pad'`, it is 0. Inception crops show things larger: for these it is
  the published 32 from 224 pixels on. Small images would lose much more by so many, half of each
  side at 32 pixels, so that below 224 the share stays the same.
  """
  return 0 if training_crop == 'pad' else min(32, size // 7)


def centred_square(height: ArrayLike, width: ArrayLike, side: ArrayLike) -> np.ndarray:
  """Returns the box of a square in the centre of an image, int32 `[1, 4]`; of several, likewise."""
  corner = [(np.asarray(length) - side + 1) // 2 for length in (height, width)]
  return np.stack([*corner, side, side], axis=-1)[..., np.newaxis, :].astype(np.int32)
