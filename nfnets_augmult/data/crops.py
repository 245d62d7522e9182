"""What every crop of a training image offers, whatever it is: `CropFlip` and `InceptionCrop`."""

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import numpy as np


class Crop(Protocol):
  """What a copy shows of its image. What is drawn depends on the seed of the copy alone.

  Boxes of the image are scaled to the size that the network gets. These are the copies, mirrored
  where the draw `flip` says so; or there is one box, and `cut` makes all copies of what it gives.
  Images that are held in memory have their size already, and `cut` takes them as they are.

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
    """Raises ValueError where images of `height` x `width` pixels cannot be cropped."""

  def boxes(self, draws: Any, height: int, width: int) -> np.ndarray:
    """Returns the parts to scale of a `height` x `width` image: top, left, height and width.

    They are int32 `[M, 4]` for the draws of its M copies, or `[1, 4]` where there is a `cut`.
    """
