"""A host's part of every batch: which slots it fills, with which copies of which images.

Images are read in *groups*. With the placement `within` a group is the images of one batch. With
`neighbouring` it is the images of n successive batches, the *turns* of the group, each of which
gets one copy. Only addresses are computed here; `pipeline.py` reads the images.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from nfnets_augmult.data import mixing
from nfnets_augmult.data.multiplicity import Multiplicity, Slots


@dataclasses.dataclass(frozen=True)
class HostPart:
  """The slots of one host, and the images that they need.

  Attributes:
    multiplicity: which image and copy fills each slot.
    host_index: which host this is.
    host_count: number of hosts.
    is_mixed: whether slots are mixed with others; the host then also crops partners that belong to
      another host.

  Raises:
    ValueError: the number of hosts does not divide the batch size.
  """

  multiplicity: Multiplicity
  host_index: int = 0
  host_count: int = 1
  is_mixed: bool = False

  def __post_init__(self):
    self.multiplicity.host_slots(self.host_index, self.host_count)  # raises the error

  @property
  def own(self) -> tuple[int, int]:
    """The range of slots that the host fills."""
    return self.multiplicity.host_slots(self.host_index, self.host_count)

  @functools.cached_property
  def cropped(self) -> tuple[int, int]:
    """The range of slots that it crops: its own and their possible partners."""
    return mixing.covering_slots(self.multiplicity, *self.own) if self.is_mixed else self.own

  @property
  def own_of_cropped(self) -> slice:
    """Its own slots among those that it crops."""
    start, stop = self.own
    return slice(start - self.cropped[0], stop - self.cropped[0])

  @property
  def num_cropped(self) -> int:
    """Number of slots that it crops."""
    return self.cropped[1] - self.cropped[0]

  @property
  def turns(self) -> int:
    """Batches per group: 1, or n with the placement `neighbouring`."""
    return self.multiplicity.augmult // self.multiplicity.copies_per_batch

  @property
  def images(self) -> tuple[int, int]:
    """The range of the unique images of a batch that the cropped slots are copies of."""
    copies = self.multiplicity.copies_per_batch
    return self.cropped[0] // copies, -(-self.cropped[1] // copies)

  @property
  def num_images(self) -> int:
    """Number of images that it reads of each group."""
    return self.images[1] - self.images[0]

  @functools.cached_property
  def copies(self) -> np.ndarray:
    """Which copies of each image are made when it is read, int32 `[M]`.

    All, except on a host all of whose slots are copies of one image shared with other hosts.
    """
    start, stop = 0, self.multiplicity.augmult
    if self.turns == 1 and self.num_images == 1:
      start, stop = (slot - self.images[0] * stop for slot in self.cropped)
    return np.arange(start, stop, dtype=np.int32)

  @functools.cached_property
  def owner(self) -> np.ndarray:
    """The image of each cropped slot, counted within the group, int64 `[slots]`."""
    return np.arange(*self.cropped) // self.multiplicity.copies_per_batch - self.images[0]

  def groups(self, start_step: int, stop_step: int) -> range:
    """Returns the groups of these steps; the first may begin before `start_step`."""
    return range(start_step // self.turns, -(-stop_step // self.turns))

  def addresses(self, group: int) -> Slots:
    """Returns what a group reads: images and epochs `[images]`, copies and seeds `[images, M]`."""
    images = self.multiplicity.images(group * self.turns, *self.images)
    index, epoch = images.image_index, images.epoch
    seeds = self.multiplicity.seeds(images.entry[:, np.newaxis], epoch[:, np.newaxis], self.copies)
    return Slots(index, np.tile(self.copies, (len(index), 1)), epoch, seeds)

  def of_slots(
    self, copies: Any, turn: Any, reshape: Callable[[Any, tuple[int, ...]], Any] = np.reshape
  ) -> Any:
    """Returns the values of the cropped slots, of those of all copies of a group.

    Args:
      copies: `[images, M, ...]`, NumPy or TensorFlow.
      turn: of the group, in `[0, turns)`.
      reshape: `np.reshape` or `tf.reshape`.

    Returns:
      `[slots, ...]`.
    """
    if self.turns > 1:
      return copies[:, turn]
    # The range of a host may begin and end between copies of one image.
    skipped = self.cropped[0] - self.images[0] * self.multiplicity.augmult - int(self.copies[0])
    return reshape(copies, (-1, *copies.shape[2:]))[skipped : skipped + self.num_cropped]
