"""RandAugment (Cubuk et al. 2019, arXiv:1909.13719), as the NFNets were trained with it.

Every layer draws one of sixteen operations uniformly and applies it; all share one magnitude M on a
scale from 0 to 10 that may be exceeded. NFNets use 4 layers at magnitude 5, 10 or 15, depending on
the variant (Brock et al. 2021b, arXiv:2102.06171). What M means to each operation:

- Rotate: by ±30° M/10; ShearX, ShearY: by ±0.3 M/10; TranslateX, TranslateY: by ±100 M/10 pixels.
- Color, Contrast, Brightness, Sharpness: factor 1.8 M/10 + 0.1.
- Posterize: keeps int(4 M/10) bits; Solarize: inverts from threshold int(256 M/10) on; SolarizeAdd:
  adds int(110 M/10) below 128; Cutout: half a side is int(40 M/10) pixels.

AutoContrast, Equalize and Invert have no argument. The sign is random. Pixels that come from
outside the image, and the square that Cutout paints, are 128. A factor of 1 leaves the image as it
is, so at M = 5 Color, Contrast, Brightness and Sharpness do nothing.

There are two behaviours. `'reference'` gives the pixels of the published TensorFlow code, with
which the numbers of the NFNet paper were obtained, including its peculiarities:

- Solarize's threshold is kept in 8 bits: at M = 10, 256 becomes 0 and every pixel is inverted; at M
  = 15, 384 becomes 128, the same as at M = 5.
- Contrast does not blend with the mean of the image but with a grey that is its number of pixels
  divided by 256, at most 255: 196 for 224x224 pixels, 255 from 256x256 pixels on.
- Posterize keeps more bits as M rises, so it gets weaker; it never keeps fewer than 1. (From M =
  22.5 on the published code fails; here 8 bits stay 8.)
- Rotate's positive angles turn counter-clockwise.
- Geometric operations take the nearest pixel, in float32 coordinates of pixel centres.
- Values are rounded towards zero, also those of Sharpness's smoothed image, whose outermost pixels
  are those of the image. A weighted mean that should be a whole number may fall just below it,
  depending on how the convolution rounds, which differs between machines and settings of TensorFlow
  (with and without oneDNN, by 1 in about 1 % of the values). The same operation is used here, so
  the pixels are those of the published code on the same machine.
- The weights of the channels in grey are 0.2989, 0.5870 and 0.1140, in float32.

`'pil'` gives the pixels of Pillow, with the same arguments. It differs in: Solarize leaves the
image as it is from a threshold of 256 on, so for M >= 10; Contrast blends with the mean grey;
Sharpness's smoothed image and grey are rounded to nearest; AutoContrast computes in float64; shears
are about the corner of the image, not the centre of its first pixel; coordinates are in 16.16 fixed
point. Equalize, Invert, Posterize and Brightness are the same. Pillow has no Cutout and
SolarizeAdd: they are those of `'reference'`.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from nfnets_augmult.ops import addressed_random
from nfnets_augmult.ops.checks import check_choice, check_int, check_number

OPERATIONS = (
  'AutoContrast',
  'Equalize',
  'Invert',
  'Rotate',
  'Posterize',
  'Solarize',
  'Color',
  'Contrast',
  'Brightness',
  'Sharpness',
  'ShearX',
  'ShearY',
  'TranslateX',
  'TranslateY',
  'Cutout',
  'SolarizeAdd',
)
BEHAVIOURS = ('reference', 'pil')
FILL = 128  # of empty pixels
_DRAWS_PER_LAYER = 4
# Larger than useful, and small enough for the int32 of the operations and the memory of the draws.
_MOST_LAYERS = 100
_LARGEST_MAGNITUDE = 1000


@dataclasses.dataclass(frozen=True)
class RandAugment:
  """How many operations are applied to each image, and how strongly.

  Attributes:
    layers: operations per image, one after another; 0 switches RandAugment off.
    magnitude: the strength M of all operations; 10 is the end of the scale, more is allowed.
    behaviour: `'reference'` or `'pil'`, see the docstring of the module.

  Example:
    >>> from nfnets_augmult import RandAugment
    >>> RandAugment(layers=4, magnitude=5)
    RandAugment(layers=4, magnitude=5, behaviour='reference')
  """

  layers: int = 0
  magnitude: float = 10.0
  behaviour: str = 'reference'

  def __post_init__(self):
    check_int('layers', self.layers, most=_MOST_LAYERS)
    check_number('magnitude', self.magnitude, least=0, most=_LARGEST_MAGNITUDE)
    check_choice('behaviour', self.behaviour, BEHAVIOURS)

  def check_channels(self, channels: int) -> None:
    """Raises ValueError if there are layers and the images are not in colour."""
    if self.layers and channels != 3:
      raise ValueError(
        f'RandAugment is for colour images, not for {channels} channel(s); switch it off with '
        'layers=0'
      )


class Draws(NamedTuple):
  """What was drawn for the L layers of each of B images.

  Attributes:
    operation: int32 `[B, L]`, indices of `OPERATIONS`.
    negate: bool `[B, L]`, whether an angle, shear or shift is negative.
    centre: float32 `[B, L, 2]`, in [0, 1): the row and column of the centre of Cutout's square, as
      fractions of height and width.
  """

  operation: np.ndarray
  negate: np.ndarray
  centre: np.ndarray


def draw(seeds: np.ndarray, randaugment: RandAugment) -> Draws:
  """Returns the draws of images with these `seeds`, uint32 `[B, 2]`; all uniform and independent.

  The draws of a layer depend neither on the number of layers nor on other augmentations.

  Example:
    >>> from nfnets_augmult import Multiplicity, RandAugment, draw_randaugment
    >>> multiplicity = Multiplicity(num_images=10, unique_images_per_batch=2, augmult=3, seed=0)
    >>> draws = draw_randaugment(multiplicity.slots(step=0).seed, RandAugment(layers=2))
    >>> draws.operation.tolist()
    [[4, 15], [4, 6], [6, 15], [8, 13], [14, 6], [12, 3]]
  """
  seeds = addressed_random.seeds_for(seeds, 'randaugment')
  count, layers = len(seeds), randaugment.layers
  draws = Draws(
    operation=np.empty((count, layers), np.int32),
    negate=np.empty((count, layers), bool),
    centre=np.empty((count, layers, 2), np.float32),
  )
  for layer in range(layers):
    first = _DRAWS_PER_LAYER * layer
    draws.operation[:, layer] = addressed_random.random_integers(seeds, first, len(OPERATIONS))
    draws.negate[:, layer] = addressed_random.random_integers(seeds, first + 1, 2) == 1
    for axis in range(2):
      draws.centre[:, layer, axis] = addressed_random.random_uniform(seeds, first + 2 + axis)
  return draws
