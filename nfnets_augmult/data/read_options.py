"""How images are read: options without the reader, which needs TensorFlow."""

import dataclasses

from nfnets_augmult.data import image_formats
from nfnets_augmult.data.image_formats import DecodeRules
from nfnets_augmult.data.sources import BAD_IMAGE_POLICIES
from nfnets_augmult.ops.checks import check_choice


@dataclasses.dataclass(frozen=True)
class ReadOptions:
  """How images are read.

  Attributes:
    image_size: height and width of the result in pixels, for encoded sources; ignored for arrays.
    on_bad_image: `'fail'` ends the run at the first image that does not decode; `'skip'` reports
      it once and leaves its copies out of the loss, so that no other batch changes.
    jpeg_scaling: whether a JPEG needed at less than half its resolution is decoded at a half, a
      quarter or an eighth of it, see `decoding.scale_denominator`, and other images of more than
      16.8 million pixels are averaged likewise.
    antialias: see `resizing.resize_boxes`.
    rules: orientation and limits.
  """

  image_size: int = 0
  on_bad_image: str = 'fail'
  jpeg_scaling: bool = True
  antialias: bool = False
  rules: DecodeRules = image_formats.DEFAULT_RULES

  def __post_init__(self):
    check_choice('on_bad_image', self.on_bad_image, BAD_IMAGE_POLICIES)
