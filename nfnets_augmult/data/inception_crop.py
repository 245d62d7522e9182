"""The training crop of Inception: a random part of the image, scaled to the network's size."""

import dataclasses
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from nfnets_augmult.ops import addressed_random
from nfnets_augmult.ops.checks import check_bool, check_pair

MAX_ATTEMPTS = 10


@dataclasses.dataclass(frozen=True)
class InceptionCrop:
  """A random part of the image: an `augmentation.Crop`.

  Source: Szegedy et al. 2015; Brock et al. 2021b.

  Attributes:
    area: least and largest share of the image's pixels.
    aspect: least and largest width divided by height.
    flip: whether half of the copies are mirrored left to right.

  Example:
    >>> from nfnets_augmult import InceptionCrop
    >>> InceptionCrop(area=(0.25, 1.0)).flip
    True
  """

  area: tuple[float, float] = (0.08, 1.0)
  aspect: tuple[float, float] = (3 / 4, 4 / 3)
  flip: bool = True
  cut: ClassVar[None] = None  # each copy has a box of its own

  def __post_init__(self):
    check_pair('area', self.area, above=0, most=1)
    # No photograph is longer, and the sizes of boxes stay well within float64.
    check_pair('aspect', self.aspect, above=0, most=1000)
    check_bool('flip', self.flip)

  def check_image_size(self, height: int, width: int) -> None:
    """Accepts all sizes."""

  def draw(self, seeds: np.ndarray) -> 'Draws':
    """See the function of this name."""
    return draw(seeds, self)

  def boxes(self, draws: 'Draws', height: ArrayLike, width: ArrayLike) -> np.ndarray:
    """See the function of this name."""
    return boxes(draws.uniform, height, width, self)


class Draws(NamedTuple):
  """What was drawn for each copy, whatever the size of its image.

  Attributes:
    uniform: float32 `[..., MAX_ATTEMPTS, 4]`, in `[0, 1)`: aspect, height, top and left of each
      attempt.
    flip: bool `[...]`.
  """

  uniform: np.ndarray
  flip: np.ndarray


def draw(seeds: np.ndarray, crop: InceptionCrop) -> Draws:
  """Returns the draws of copies with these `seeds`, uint32 `[..., 2]`.

  Example:
    >>> from nfnets_augmult import InceptionCrop, Multiplicity, draw_inception_crop
    >>> multiplicity = Multiplicity(num_images=10, unique_images_per_batch=2, augmult=3, seed=0)
    >>> draws = draw_inception_crop(multiplicity.slots(step=0).seed, InceptionCrop())
    >>> draws.uniform.shape, draws.flip.tolist()
    ((6, 10, 4), [True, True, False, False, False, True])
  """
  seeds = addressed_random.seeds_for(seeds, 'inception crop')
  numbers = np.arange(1, 1 + 4 * MAX_ATTEMPTS)
  uniform = addressed_random.random_uniform(seeds[..., np.newaxis, :], numbers)
  flip = addressed_random.random_integers(seeds, 0, 2).astype(bool)
  return Draws(
    uniform=uniform.reshape(*uniform.shape[:-1], MAX_ATTEMPTS, 4),
    flip=flip if crop.flip else np.zeros_like(flip),
  )


def boxes(
  uniform: np.ndarray, height: ArrayLike, width: ArrayLike, crop: InceptionCrop
) -> np.ndarray:
  """Returns the part of a `height` x `width` image that each copy shows.

  An attempt draws the aspect ratio uniformly, then the height uniformly among those for which
  the area is in range and the box fits, then the position. That is the distribution of
  TensorFlow's `sample_distorted_bounding_box`, with which the published networks were trained; it
  favours small areas more than a uniform area would. (The published code also has that function
  reject boxes of less than a tenth of the image: to do the same, set the least area to 0.1.) If all
  attempts fail, for example because the image is much longer than wide, the largest centred box
  with an aspect ratio in range is taken.

  Args:
    uniform: see `Draws`, `[..., B, MAX_ATTEMPTS, 4]`.
    height: pixels; of several images integers `[...]`.
    width: pixels, likewise.
    crop: ranges.

  Returns:
    int32 `[..., B, 4]`: top, left, height and width.

  Example:
    >>> import numpy as np
    >>> from nfnets_augmult import InceptionCrop, draw_inception_crop, inception_boxes
    >>> crop = InceptionCrop(area=(0.08, 0.25))
    >>> draws = draw_inception_crop(np.array([[1, 2], [3, 4]], np.uint32), crop)
    >>> top, left, height, width = inception_boxes(draws.uniform, 100, 200, crop).T
    >>> bool(np.all((top + height <= 100) & (left + width <= 200)))
    True
    >>> bool(np.all((height * width >= 0.08 * 20_000) & (height * width <= 0.25 * 20_000)))
    True
  """
  for_aspect, for_height, for_top, for_left = np.moveaxis(uniform.astype(np.float64), -1, 0)
  central = _central_box(height, width, crop)[..., np.newaxis, :]
  height, width = (np.asarray(length)[..., np.newaxis, np.newaxis] for length in (height, width))
  aspect = crop.aspect[0] + for_aspect * (crop.aspect[1] - crop.aspect[0])
  least, most = (np.sqrt(share * height * width / aspect) for share in crop.area)
  # The largest height whose width, rounded, still fits.
  fitting = np.minimum(height, np.floor((width + 0.5 - 1e-7) / aspect))
  least, most = np.ceil(least), np.minimum(np.floor(most), fitting)
  tall = np.clip(least + np.floor(for_height * (most - least + 1)), 1, height)
  wide = np.clip(np.rint(tall * aspect), 1, width)
  area = tall * wide / (height * width)
  # Rounded to pixels, an area can be slightly out of range; then the attempt fails.
  is_good = (least <= most) & (area >= crop.area[0]) & (area <= crop.area[1])
  first_good = np.argmax(is_good, axis=-1)[..., np.newaxis]
  tall, wide, for_top, for_left = (
    np.take_along_axis(a, first_good, axis=-1) for a in (tall, wide, for_top, for_left)
  )
  top = np.floor(for_top * (height - tall + 1))
  left = np.floor(for_left * (width - wide + 1))
  found = np.concatenate([top, left, tall, wide], axis=-1).astype(np.int32)
  return np.where(is_good.any(axis=-1, keepdims=True), found, central)


def _central_box(height: ArrayLike, width: ArrayLike, crop: InceptionCrop) -> np.ndarray:
  """The largest centred box whose aspect ratio is in range, `[..., 4]`."""
  wide = np.clip(np.rint(np.multiply(height, crop.aspect[1])), 1, width).astype(np.int32)
  tall = np.clip(np.rint(np.divide(width, crop.aspect[0])), 1, height).astype(np.int32)
  return np.stack([(height - tall) // 2, (width - wide) // 2, tall, wide], -1).astype(np.int32)
