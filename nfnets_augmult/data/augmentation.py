"""All that happens to a training image between its file and the network."""

import dataclasses

from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.data.crops import Crop
from nfnets_augmult.data.mixing import Mixing
from nfnets_augmult.data.randaugment import RandAugment


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """What is drawn for each copy. The crop comes first.

  Attributes:
    crop: which part of the image, and whether mirrored.
    mixing: Mixup and CutMix.
    randaugment: operations on whole images.
    mix_first: whether RandAugment gets the mixture, as in the NFNet recipe, rather than mixing
      what RandAugment made.
  """

  crop: Crop = dataclasses.field(default_factory=CropFlip)
  mixing: Mixing = dataclasses.field(default_factory=Mixing)
  randaugment: RandAugment = dataclasses.field(default_factory=RandAugment)
  mix_first: bool = True

  def check(self, *, unique_images_per_batch: int, image_shape: tuple[int, int, int]) -> None:
    """Raises ValueError where it does not fit batches of such images.

    Args:
      unique_images_per_batch: U.
      image_shape: height, width and channels of the images that the network gets.
    """
    self.mixing.check_unique_images(unique_images_per_batch)
    self.randaugment.check_channels(image_shape[2])
    self.crop.check_image_size(*image_shape[:2])


# The image as it is: its centre where sizes differ.
NOTHING = Augmentation(crop=CropFlip(pad=0, flip=False))
