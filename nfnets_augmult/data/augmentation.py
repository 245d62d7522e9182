"""All that happens to a training image between its file and the network."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike

from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.data.mixing import Mixing
from nfnets_augmult.data.randaugment import RandAugment


class Crop(Protocol):
  """What a copy shows of its image, drawn from the seed of the copy alone.

  `CropFlip` and `InceptionCrop` are such. Boxes of the image are scaled to the size that the
  network gets. Either there is one box per copy, mirrored where the draw `flip` says so; or there
  is a single box, and `cut` makes all copies from it. Images held in memory have their final size
  already, and `cut` gets them as they are.

  Attributes:
    cut: from scaled images uint8 `[U, S, S, C]`, the `owner` of each copy, integers `[B]` in
      `[0, U)`, and draws, to copies uint8 `[B, S, S, C]`; None where each copy has its own box.
  """

  cut: ClassVar[Callable[..., np.ndarray] | None]

  def draw(self, seeds: np.ndarray) -> Any:
    """Returns the draws of copies with these `seeds`, uint32 `[..., 2]`.

    They are a NamedTuple of arrays `[..., *]`, one of them `flip`. Names, dtypes and the axes `*`
    do not depend on the seeds.
    """

  def check_image_size(self, height: int, width: int) -> None:
    """Raises ValueError if images of `height` x `width` pixels cannot be cropped."""

  def boxes(self, draws: Any, height: ArrayLike, width: ArrayLike) -> np.ndarray:
    """Returns the parts of a `height` x `width` image to scale: top, left, height and width.

    They are int32 `[M, 4]` for the draws of its M copies, or `[1, 4]` if there is a `cut`. Of
    several images, height and width are integers `[images]`, and draws and boxes have that axis
    first.
    """


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """What happens to each copy: the crop first, then mixing and RandAugment.

  Attributes:
    crop: which part of the image, and whether mirrored.
    mixing: Mixup and CutMix.
    randaugment: operations on whole images.
    mix_first: whether RandAugment is applied to the mixture, as in the NFNet recipe, or to the
      images before they are mixed.
  """

  crop: Crop = dataclasses.field(default_factory=CropFlip)
  mixing: Mixing = dataclasses.field(default_factory=Mixing)
  randaugment: RandAugment = dataclasses.field(default_factory=RandAugment)
  mix_first: bool = True

  def check(self, *, unique_images_per_batch: int, image_shape: tuple[int, int, int]) -> None:
    """Raises ValueError if it cannot be applied to batches of such images.

    Args:
      unique_images_per_batch: U.
      image_shape: height, width and channels of the images that the network gets.
    """
    self.mixing.check_unique_images(unique_images_per_batch)
    self.randaugment.check_channels(image_shape[2])
    self.crop.check_image_size(*image_shape[:2])


# Leaves the image as it is; of an encoded one, its largest centred square.
NOTHING = Augmentation(crop=CropFlip(pad=0, flip=False))
