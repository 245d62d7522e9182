"""Augmentation multiplicity itself: which image and which copy of it fills each slot of a batch.

The training images of a run form one endless sequence of *positions*: epoch 0 in its random order,
then epoch 1 in another, and so on. A batch takes the next U positions.

    scheme         batch of step s                           slot b holds
    within         positions [s U, (s + 1) U), B = U n       position s U + b // n, copy b % n
    neighbouring   positions [g U, (g + 1) U), g = s // n,   position g U + b, copy s % n
                   B = U

`within` is the paper's default (Sections 2 and 3), `neighbouring` is its Appendix C: one copy per
batch, the same unique images in n successive batches. At equal B and n both make the same number
of updates per epoch.

Guarantees:
- Every unique image appears exactly n times per epoch (footnote 3: one pass over the images).
- The U images of a batch are different, even if the batch spans two epochs. Nothing is dropped and
  no batch is ever short: a run of E epochs has `ceil(E N / U)` groups of U positions, and the last
  of them may reach into epoch E + 1.
- No two (epoch, image, copy) get the same augmentation seed. The seed depends on nothing else, so
  it is the same for every batch size, scheme, host and device count; copy 0 of n = 16 is the one
  image of n = 1.
- Everything is a pure function of (seed, step): any step can be computed without the ones before.

With `labels` each of K classes is drawn equally often. An epoch then has N *entries*, each of which
stands for an image, see `class_balance.py`, and what is said above of images holds of entries: an
image of a class with less than N / K of them fills several. Without labels entry i is image i.

Slots are numbered image by image. Hosts take contiguous ranges of slots, so an image is read and
decoded by one host, and the devices of a host divide its range likewise: of D devices, whichever
hosts they belong to, device d fills slots `[d B / D, (d + 1) B / D)`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nfnets_augmult.data import class_balance
from nfnets_augmult.ops import addressed_random
from nfnets_augmult.ops.checks import check_choice, check_int

PLACEMENTS = ('within', 'neighbouring')

# A seed is one to one in (image, epoch, copy): 32 bits, 20 bits and 12 bits.
_COPY_BITS = 12
MAX_AUGMULT = 2**_COPY_BITS
MAX_EPOCHS = 2 ** (32 - _COPY_BITS)


class Slots(NamedTuple):
  """What fills some slots of a batch; every field has one entry per slot.

  Attributes:
    image_index: int64 `[slots]`, which training image, in `[0, num_images)`.
    copy_index: int32 `[slots]`, which of its copies, in `[0, augmult)`.
    epoch: int32 `[slots]`, which pass over the training images, from 0.
    seed: uint32 `[slots, 2]`, the PRNG key of the augmentation of this copy.

  Example:
    >>> from nfnets_augmult import Multiplicity, Slots
    >>> Slots._fields
    ('image_index', 'copy_index', 'epoch', 'seed')
    >>> multiplicity = Multiplicity(num_images=10, unique_images_per_batch=2, augmult=3, seed=0)
    >>> slots = multiplicity.slots(step=0)
    >>> slots.copy_index.tolist(), slots.seed.shape
    ([0, 1, 2, 0, 1, 2], (6, 2))
  """

  image_index: np.ndarray
  copy_index: np.ndarray
  epoch: np.ndarray
  seed: np.ndarray


class Images(NamedTuple):
  """The unique images of a batch, from which `fill_slots` derives its slots.

  It has all that depends on the step and on the seed of the run, so a compiled program that takes
  it as an argument serves all steps and seeds.

  Attributes:
    image_index: integers `[U]`, which training images, in the order of their slots.
    entry: uint32 `[U]`, which entry of its epoch each fills; the same, unless classes are balanced.
    epoch: int32 `[U]`, which pass over the training images each belongs to.
    turn: int32 scalar, copy index of each image's first slot; above 0 only for `neighbouring`.
    key: uint32 `[2]`, of the augmentation seeds.
  """

  image_index: np.ndarray
  entry: np.ndarray
  epoch: np.ndarray
  turn: np.ndarray
  key: np.ndarray


def steps_for_epochs(
  epochs: float, *, num_images: int, unique_images_per_batch: int, turns: int
) -> int:
  """Returns the least number of steps that shows all copies of every image `epochs` times.

  Args:
    epochs: passes over the unique training images.
    num_images: unique training images, N.
    unique_images_per_batch: U.
    turns: successive batches that share their unique images: 1, or n where each has one copy.
  """
  # Rounded first: 1.1 epochs of 50,000 images are 55,000 of them, not a few ulps more.
  return math.ceil(round(epochs * num_images, 6) / unique_images_per_batch) * turns


@dataclasses.dataclass(frozen=True)
class Multiplicity:
  """The slots of every batch of a run. See the module's docstring for the guarantees.

  Attributes:
    num_images: N, the number of unique training images.
    unique_images_per_batch: U, at most half of N, or all of it.
    augmult: n, copies of each unique image.
    seed: of the run; the order of the images and the augmentation seeds follow from it.
    placement: `'within'` or `'neighbouring'`.
    labels: integers `[N]`, of the images, to draw every class equally often; None to draw every
      image equally often.

  Example:
    >>> from nfnets_augmult import Multiplicity
    >>> multiplicity = Multiplicity(num_images=10, unique_images_per_batch=2, augmult=3, seed=0)
    >>> multiplicity.batch_size, multiplicity.steps_per_epoch
    (6, 5.0)
    >>> multiplicity.slots(step=0).image_index.tolist()
    [8, 8, 8, 6, 6, 6]
    >>> multiplicity.slots(step=0, start=4).image_index.tolist()  # the last slots of the same batch
    [6, 6]
  """

  num_images: int
  unique_images_per_batch: int
  augmult: int
  seed: int
  placement: str = 'within'
  labels: np.ndarray | None = dataclasses.field(default=None, repr=False, compare=False)

  def __post_init__(self):
    check_choice('placement', self.placement, PLACEMENTS)
    check_int('augmult', self.augmult, least=1, most=MAX_AUGMULT)
    check_int('num_images', self.num_images, least=1, most=2**32 - 1)
    unique = self.unique_images_per_batch
    if self.labels is not None and self.labels.shape != (self.num_images,):
      raise ValueError(
        f'labels must be [{self.num_images}], one of each image, not {list(self.labels.shape)}'
      )
    if not 1 <= unique <= self.num_images:
      raise ValueError(
        f'unique_images_per_batch={unique} must be from 1 to the number of training images, '
        f'{self.num_images}; a smaller batch_size or a larger augmult lowers it'
      )
    if self.num_images // 2 < unique < self.num_images:
      raise ValueError(
        f'unique_images_per_batch={unique} is more than half of the {self.num_images} training '
        f'images, so batches across two epochs would repeat images; use at most '
        f'{self.num_images // 2}, or all {self.num_images}'
      )

  @property
  def copies_per_batch(self) -> int:
    """Copies of one unique image in one batch: n for `within`, 1 for `neighbouring`."""
    return self.augmult if self.placement == 'within' else 1

  @property
  def batch_size(self) -> int:
    """B, the number of slots of a batch over all hosts and devices."""
    return self.unique_images_per_batch * self.copies_per_batch

  @property
  def steps_per_epoch(self) -> float:
    """Updates per pass over the unique training images; may be fractional."""
    return self.num_images * self.augmult / self.batch_size

  def steps_for_epochs(self, epochs: float) -> int:
    """Returns the least number of steps that shows every image `augmult * epochs` times."""
    return steps_for_epochs(
      epochs,
      num_images=self.num_images,
      unique_images_per_batch=self.unique_images_per_batch,
      turns=self.augmult // self.copies_per_batch,
    )

  def host_slots(self, host_index: int, host_count: int) -> tuple[int, int]:
    """Returns the range of slots that host `host_index` fills.

    Raises:
      ValueError: the number of hosts does not divide the batch size.
    """
    per_host, rest = divmod(self.batch_size, host_count)
    if rest:
      raise ValueError(f'{host_count} hosts do not divide batch_size={self.batch_size}')
    return host_index * per_host, (host_index + 1) * per_host

  def slots(self, step: int, start: int = 0, stop: int | None = None) -> Slots:
    """Returns what fills slots `start` to `stop` (default: all) of the batch of `step`."""
    copies = self.copies_per_batch
    stop = self.batch_size if stop is None else stop
    first_image = start // copies
    images = self.images(step, first_image, -(-stop // copies))
    slot = np.arange(start, stop) - first_image * copies
    return fill_slots(images, slot, copies_per_batch=copies)

  def images(self, step: int, start: int = 0, stop: int | None = None) -> Images:
    """Returns unique images `start` to `stop` (default: all) of the batch of `step`."""
    group, turn = divmod(int(step), self.augmult // self.copies_per_batch)
    unique = self.unique_images_per_batch
    position = group * unique + np.arange(start, unique if stop is None else stop)
    epoch, place = np.divmod(position, self.num_images)
    _check_epochs(epoch)
    entry = np.empty_like(place)
    for e in np.unique(epoch):
      entry[epoch == e] = self.epoch_order(int(e))[place[epoch == e]]
    image_index = entry.copy()
    for e in np.unique(epoch) if self.labels is not None else ():
      image_index[epoch == e] = self._balanced_images(int(e))[entry[epoch == e]]
    entry, epoch = entry.astype(np.uint32), epoch.astype(np.int32)
    return Images(image_index, entry, epoch, np.int32(turn), self._augmentation_key())

  def seeds(self, entry: np.ndarray, epoch: np.ndarray, copy_index: np.ndarray) -> np.ndarray:
    """Returns the augmentation seeds, uint32 `[..., 2]`, one to one in the three arguments.

    Args:
      entry: of the epoch; the index of the image, unless classes are balanced.
      epoch: pass over the training images.
      copy_index: in `[0, augmult)`.
    """
    _check_epochs(epoch)
    return _seeds(self._augmentation_key(), *map(np.asarray, (entry, epoch, copy_index)))

  def _augmentation_key(self) -> np.ndarray:
    return np.concatenate(addressed_random.key_for(self.seed, 'augmentation'))

  @functools.cached_property
  def _balanced_images(self) -> Callable[[int], np.ndarray]:
    """The function from an epoch to the image of each of its entries; the last few are cached."""
    return functools.lru_cache(maxsize=4)(
      lambda epoch: class_balance.balanced_images(self.labels, seed=self.seed, epoch=epoch)
    )

  @functools.cached_property
  def epoch_order(self) -> Callable[[int], np.ndarray]:
    """The function from an epoch to the order of its entries, a permutation of `range(num_images)`.

    A shuffle, except that in a batch that spans two epochs, the entries of the later epoch are
    chosen from those that are not in the batch yet. The last few orders are cached, per object,
    since many objects may be used alternately.
    """
    order = functools.partial(
      _epoch_order, self.seed, self.num_images, self.unique_images_per_batch
    )
    return functools.lru_cache(maxsize=4)(order)


def fill_slots(images: Images, slot: np.ndarray, *, copies_per_batch: int) -> Slots:
  """Returns what fills some slots of a batch. Hosts and devices both use it.

  Args:
    images: of the batch. NumPy or JAX arrays; the result has the same kind.
    slot: integers `[slots]`, numbered from the first slot of the first of `images`.
    copies_per_batch: slots of each image.
  """
  owner = slot // copies_per_batch
  image_index, entry, epoch = (
    values[owner] for values in (images.image_index, images.entry, images.epoch)
  )
  copy_index = (images.turn + slot % copies_per_batch).astype(np.int32)
  return Slots(image_index, copy_index, epoch, _seeds(images.key, entry, epoch, copy_index))


def _seeds(
  key: np.ndarray, entry: np.ndarray, epoch: np.ndarray, copy_index: np.ndarray
) -> np.ndarray:
  """See `Multiplicity.seeds`; `key` is uint32 `[2]`. NumPy or JAX."""
  when = epoch.astype(np.uint32) << np.uint32(_COPY_BITS)
  counter = entry.astype(np.uint32), when | copy_index.astype(np.uint32)
  words = addressed_random.threefry2x32((key[:1], key[1:]), counter)
  return key.__array_namespace__().stack(words, axis=-1)


def _check_epochs(epoch: np.ndarray) -> None:
  if np.any(np.asarray(epoch) >= MAX_EPOCHS):
    raise ValueError(f'a run has at most {MAX_EPOCHS} epochs')


def _epoch_order(seed: int, num_images: int, unique: int, epoch: int) -> np.ndarray:
  """See `Multiplicity.epoch_order`; read-only, because it is cached."""
  shuffled = _shuffle(seed, num_images, epoch)
  tail_size = (epoch + 1) * num_images % unique  # shares a batch with the next epoch
  tail, rest = shuffled[:tail_size], shuffled[tail_size:]
  previous_tail_size = epoch * num_images % unique
  if previous_tail_size:
    # The first images of `rest` that are not in the open batch move to the front, in order.
    open_batch = _shuffle(seed, num_images, epoch - 1)[:previous_tail_size]
    head_places = np.flatnonzero(~np.isin(rest, open_batch))[: unique - previous_tail_size]
    rest = np.concatenate([rest[head_places], np.delete(rest, head_places)])
  order = np.concatenate([rest, tail])
  order.flags.writeable = False
  return order


@functools.lru_cache(maxsize=4)
def _shuffle(seed: int, num_images: int, epoch: int) -> np.ndarray:
  """The random permutation of the images in `epoch`."""
  key = addressed_random.key_for(seed, 'epoch order')
  return addressed_random.random_permutation(key, num_images, epoch)
