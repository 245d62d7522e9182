"""Pad, random crop and left-right flip, vectorised over a batch (paper, Section 2)."""

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nfnets_augmult.data.evaluation_crop import centred_square
from nfnets_augmult.ops import addressed_random
from nfnets_augmult.ops.checks import check_bool, check_choice, check_int

PAD_MODES = {'mirror': 'reflect', 'constant': 'constant'}
_MOST_PAD = 2**14


@dataclasses.dataclass(frozen=True)
class CropFlip:
  """Pad, random crop of the original size, and flip: an `augmentation.Crop`.

  An encoded image is first cut to its largest centred square, and scaled.

  Attributes:
    pad: pixels added on every side before a crop of the original size; 0 switches the crop off.
    pad_mode: what is added: `'mirror'` repeats the image outwards without repeating its edge,
      `'constant'` is black.
    flip: whether half of the copies are mirrored left to right. Not for digits or letters.

  Example:
    >>> from nfnets_augmult import CropFlip
    >>> CropFlip(pad=2, flip=False)
    CropFlip(pad=2, pad_mode='mirror', flip=False)
  """

  pad: int = 4
  pad_mode: str = 'mirror'
  flip: bool = True

  def __post_init__(self):
    check_int('pad', self.pad, most=_MOST_PAD)
    check_choice('pad_mode', self.pad_mode, PAD_MODES)
    check_bool('flip', self.flip)

  def check_image_size(self, height: int, width: int) -> None:
    """Raises ValueError if an image is too small to be mirrored by `pad` pixels."""
    if self.pad_mode == 'mirror' and self.pad >= min(height, width):
      raise ValueError(
        f'pad={self.pad} needs images of more than {self.pad} pixels to mirror; '
        f"these are {height}x{width}: lower it or use pad_mode='constant'"
      )

  def draw(self, seeds: np.ndarray) -> 'Draws':
    """See the function of this name."""
    return draw(seeds, self)

  def boxes(self, draws: 'Draws', height: ArrayLike, width: ArrayLike) -> np.ndarray:
    """Returns the largest centred square, int32 `[..., 1, 4]`."""
    del draws
    return centred_square(height, width, np.minimum(height, width))

  def cut(self, images: np.ndarray, owner: np.ndarray, draws: 'Draws') -> np.ndarray:
    """See `crop_and_flip`."""
    return crop_and_flip(images, owner, draws, self)


class Draws(NamedTuple):
  """What was drawn for each copy, `[B]`: the crop's corner in the padded image, and the flip."""

  top: np.ndarray
  left: np.ndarray
  flip: np.ndarray


def draw(seeds: np.ndarray, crop: CropFlip) -> Draws:
  """Returns the draws of copies with these `seeds`, uint32 `[B, 2]`, NumPy or JAX.

  The corner is uniform in `[0, 2 pad]` squared, the flip fair, all independent. Crop and flip use
  draws 0, 1 and 2 of each seed whether or not they are on, so switching one leaves the other.

  Example:
    >>> from nfnets_augmult import CropFlip, Multiplicity, draw_crop_flip
    >>> multiplicity = Multiplicity(num_images=10, unique_images_per_batch=2, augmult=3, seed=0)
    >>> draws = draw_crop_flip(multiplicity.slots(step=0).seed, CropFlip(pad=1))
    >>> draws.top.tolist(), draws.flip.tolist()
    ([1, 2, 1, 0, 0, 0], [False, False, True, True, False, False])
  """
  positions = 2 * crop.pad + 1
  return Draws(
    top=addressed_random.random_integers(seeds, 0, positions),
    left=addressed_random.random_integers(seeds, 1, positions),
    flip=addressed_random.random_integers(seeds, 2, 2).astype(bool) & crop.flip,
  )


def crop_and_flip(
  images: np.ndarray, owner: np.ndarray, draws: Draws, crop: CropFlip
) -> np.ndarray:
  """Returns augmented copies: copy b is made from `images[owner[b]]` with draw b.

  Args:
    images: uint8 `[U, H, W, C]`, unique images; each is padded once for all its copies.
    owner: integers `[B]`, in `[0, U)`.
    draws: of each copy.
    crop: the padding.

  Returns:
    uint8 `[B, H, W, C]`: crop `[top, top + H) x [left, left + W)` of the padded image, then flip.

  Example:
    >>> import numpy as np
    >>> from nfnets_augmult import CropFlip, Multiplicity, crop_and_flip, draw_crop_flip
    >>> multiplicity = Multiplicity(num_images=10, unique_images_per_batch=2, augmult=3, seed=0)
    >>> crop = CropFlip(pad=1)
    >>> draws = draw_crop_flip(multiplicity.slots(step=0).seed, crop)
    >>> unique_images = np.zeros((2, 8, 8, 3), np.uint8)
    >>> owner = np.array([0, 0, 0, 1, 1, 1])  # three copies of each
    >>> crop_and_flip(unique_images, owner, draws, crop).shape
    (6, 8, 8, 3)
  """
  num_images, height, width, channels = images.shape
  pad = crop.pad
  if pad:
    border = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    images = np.pad(images, border, mode=PAD_MODES[crop.pad_mode])
  # View [U, 2 pad + 1, 2 pad + 1, H, W * C] of all crops of all images; indexing copies whole rows.
  by_image, by_row, by_column, _ = images.strides
  crops = np.lib.stride_tricks.as_strided(
    images,
    shape=(num_images, 2 * pad + 1, 2 * pad + 1, height, width * channels),
    strides=(by_image, by_row, by_column, by_row, images.itemsize),
    writeable=False,
  )
  copies = crops[owner, draws.top, draws.left].reshape(-1, height, width, channels)
  flipped = np.flatnonzero(draws.flip)
  copies[flipped] = copies[flipped, :, ::-1]
  return copies
