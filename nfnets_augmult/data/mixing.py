"""Mixup and CutMix: which slots are mixed, and with which shares.

With multiplicity a batch contains several copies of an image. A partner is always a slot of another
unique image (paper, Section 5) with the same copy index: slot (image u, copy j) is mixed with
(image v, copy j), where v != u is drawn for each slot, so the copies of an image may have different
partners.

The unique images of a batch are divided into blocks of at least `BLOCK` successive images, and
partners are drawn within a block. So a host whose slots are whole blocks decodes only its own
images, and any other a few more; the partners do not depend on the number of hosts. Which images
share a block changes with the random order of every epoch.

All of this is a pure function of (seed, step, slot), computed with NumPy.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.ops import addressed_random
from nfnets_augmult.ops.checks import check_number

BLOCK = 8

NOT_MIXED, MIXUP, CUTMIX = range(3)


@dataclasses.dataclass(frozen=True)
class Mixing:
  """How many slots are mixed, and how.

  Attributes:
    mixup: share of the slots of every batch with Mixup (Zhang et al. 2018).
    cutmix: share of the slots of every batch with CutMix (Yun et al. 2019); none has both.
    mixup_alpha: the weight of the slot's own image in Mixup is drawn from Beta(alpha, alpha).

  Example:
    >>> from nfnets_augmult import Mixing
    >>> Mixing(mixup=0.5, cutmix=0.5).is_on
    True
  """

  mixup: float = 0.0
  cutmix: float = 0.0
  mixup_alpha: float = 0.2

  def __post_init__(self):
    check_number('mixup', self.mixup, least=0, most=1)
    check_number('cutmix', self.cutmix, least=0, most=1)
    if self.mixup + self.cutmix > 1:
      raise ValueError(
        f'mixup={self.mixup} and cutmix={self.cutmix} are shares of a batch: their sum must be at '
        'most 1'
      )
    # Beyond these bounds all weights are 0, 1/2 or 1 numerically.
    check_number('mixup_alpha', self.mixup_alpha, least=0.001, most=1000)

  @property
  def is_on(self) -> bool:
    """Whether anything is mixed."""
    return self.mixup + self.cutmix > 0

  def check_unique_images(self, unique_images_per_batch: int) -> None:
    """Raises ValueError if a batch has no other image to mix with."""
    if self.is_on and unique_images_per_batch < 2:
      raise ValueError(
        f'unique_images_per_batch={unique_images_per_batch}: Mixup and CutMix need at least two '
        'unique images in a batch; raise batch_size, lower augmult, or set mixup=0 and cutmix=0'
      )


class Mix(NamedTuple):
  """How some slots are mixed; every field has one entry per slot.

  Attributes:
    partner_slot: int64 `[slots]`, of the same batch.
    kind: int32 `[slots]`: `NOT_MIXED` (0), `MIXUP` (1) or `CUTMIX` (2).
    weight: float32 `[slots]`, of the slot's own image and label: 1 if it is not mixed, with CutMix
      the share of pixels that are not replaced.
    box: int32 `[slots, 4]`, what CutMix replaces: top, left, bottom and right; empty otherwise.

  Example:
    >>> from nfnets_augmult import Mix
    >>> Mix._fields
    ('partner_slot', 'kind', 'weight', 'box')
  """

  partner_slot: np.ndarray
  kind: np.ndarray
  weight: np.ndarray
  box: np.ndarray


def block_edges(unique_images_per_batch: int) -> np.ndarray:
  """Returns the first image of each block, then U: int64 `[blocks + 1]`; sizes are almost equal."""
  blocks = max(1, unique_images_per_batch // BLOCK)
  return np.arange(blocks + 1) * unique_images_per_batch // blocks


def covering_slots(multiplicity: Multiplicity, start: int, stop: int) -> tuple[int, int]:
  """Returns the range of slots of all blocks that slots `start` to `stop` touch."""
  copies = multiplicity.copies_per_batch
  edges = block_edges(multiplicity.unique_images_per_batch) * copies
  first = edges[np.searchsorted(edges, start, side='right') - 1]
  return int(first), int(edges[np.searchsorted(edges, stop, side='left')])


def mix_slots(
  multiplicity: Multiplicity,
  mixing: Mixing,
  step: int,
  start: int,
  stop: int,
  *,
  height: int,
  width: int,
  seeds: np.ndarray | None = None,
) -> Mix:
  """Returns how slots `start` to `stop` of the batch of `step` are mixed.

  Args:
    multiplicity: which image fills which slot.
    mixing: the shares, which hold in each batch, up to rounding; which slots is random.
    step: of the run.
    start: first slot.
    stop: one past the last slot.
    height: of the images, in pixels.
    width: of the images, in pixels.
    seeds: of the slots, uint32 `[slots, 2]`; computed if None.

  Example:
    >>> from nfnets_augmult import Mixing, Multiplicity, mix_slots
    >>> multiplicity = Multiplicity(num_images=10, unique_images_per_batch=2, augmult=3, seed=0)
    >>> mixing = Mixing(mixup=0.5, cutmix=0.5)
    >>> mix = mix_slots(multiplicity, mixing, step=0, start=0, stop=6, height=32, width=32)
    >>> mix.partner_slot.tolist()  # the same copy of the other image
    [3, 4, 5, 0, 1, 2]
    >>> mix.kind.tolist()
    [1, 2, 1, 1, 2, 2]
  """
  if seeds is None:
    seeds = multiplicity.slots(step, start, stop).seed
  seeds = addressed_random.seeds_for(seeds, 'mixing')
  kind = _kinds(multiplicity, mixing, step)[start:stop]
  corners = _cutmix_boxes(seeds, height, width)
  box = np.where((kind == CUTMIX)[:, np.newaxis], corners, 0).astype(np.int32)
  pasted = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) / (height * width)
  weight = np.where(kind == MIXUP, _mixup_weights(seeds, mixing.mixup_alpha), 1 - pasted)
  return Mix(_partners(multiplicity, seeds, start, stop), kind, weight.astype(np.float32), box)


def _partners(multiplicity: Multiplicity, seeds: np.ndarray, start: int, stop: int) -> np.ndarray:
  """A slot of another image of the block, with the same copy index, for each slot."""
  place, copy = np.divmod(np.arange(start, stop), multiplicity.copies_per_batch)
  edges = block_edges(multiplicity.unique_images_per_batch)
  block = np.searchsorted(edges, place, side='right') - 1
  first, size = edges[block], edges[block + 1] - edges[block]
  ahead = 1 + addressed_random.random_integers(seeds, 0, size - 1)
  return (first + (place - first + ahead) % size) * multiplicity.copies_per_batch + copy


def _kinds(multiplicity: Multiplicity, mixing: Mixing, step: int) -> np.ndarray:
  """Mixup, CutMix or neither, for all slots of a batch."""
  size = multiplicity.batch_size
  num_mixup = round(mixing.mixup * size)
  num_mixed = round((mixing.mixup + mixing.cutmix) * size)
  key = addressed_random.key_for(multiplicity.seed, 'kinds of mixing')
  kinds = np.full(size, NOT_MIXED, np.int32)
  order = addressed_random.random_permutation(key, size, step)
  kinds[order[:num_mixed]] = CUTMIX
  kinds[order[:num_mixup]] = MIXUP
  return kinds


def _mixup_weights(seeds: np.ndarray, alpha: float) -> np.ndarray:
  """Draws of Beta(alpha, alpha) by its inverse distribution function, float64 `[slots]`."""
  from scipy import special

  uniform = addressed_random.random_uniform(seeds, 1).astype(np.float64) + 2.0**-25
  return special.betaincinv(alpha, alpha, uniform)


def _cutmix_boxes(seeds: np.ndarray, height: int, width: int) -> np.ndarray:
  """Boxes of uniform area around a uniform centre, clipped to the image: float64 `[slots, 4]`."""
  area, row, column = (
    addressed_random.random_uniform(seeds, draw).astype(np.float64) for draw in (2, 3, 4)
  )
  side = np.sqrt(area)  # relative to the image
  corners = []
  for sign in (-1, 1):
    for centre, size in ((row, height), (column, width)):
      half = np.floor(side * size) // 2
      corners.append(np.clip(np.floor(centre * size) + sign * half, 0, size))
  return np.stack(corners, axis=-1)
