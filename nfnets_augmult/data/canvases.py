"""The host's part of batches whose copies are made on the devices: images, and what is drawn.

Every unique image of a batch is read and decoded once and put into the upper left corner of a
canvas, uint8 `[H, W, C]`, of one size for all. Canvases are wider than high, and an image that is
higher than wide lies in its canvas turned, rows as columns. A larger image is first scaled down
until it fits. Each device gets the canvases of the images that it needs, and the draws of its
slots, which come from the same functions as with the tf.data input. Boxes are drawn for the size of
the image before it was scaled down.

A device makes the crops of its own slots and those of their partners from canvases that it has
itself, so devices exchange nothing. Partners are drawn within blocks of at least eight successive
images (`mixing.py`): a device whose slots are whole blocks gets each canvas that is its own and no
other, so every canvas is sent once; any other device also gets those of the blocks at its ends.

With the placement `neighbouring` the n batches of a group share their canvases.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from nfnets_augmult.data import crop_flip, device_copies, device_randaugment, mixing, randaugment
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.device_copies import Copies
from nfnets_augmult.data.host_part import HostPart
from nfnets_augmult.data.image_formats import scale_boxes
from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.data.read_options import ReadOptions
from nfnets_augmult.data.sources import ArraySource, Source, check_image_size

# Groups of images that are decoded while the one before is in use.
_GROUPS_AHEAD = 2


class HostInputs(NamedTuple):
  """What the D devices of one host get for a step.

  Attributes:
    canvases: uint8 `[D, V, H, W, C]`; the same array in all steps of a group.
    copies: what is drawn, with a leading axis of the devices.
    fields: the `Batch` of the host without its images.
  """

  canvases: np.ndarray
  copies: Copies
  fields: dict[str, np.ndarray]


class _Found(NamedTuple):
  """Of an image: sizes before and after scaling to fit, label, and 0 as mask if it is bad."""

  full_size: tuple[int, int]
  size: tuple[int, int]
  is_turned: bool
  label: int
  mask: float


@dataclasses.dataclass(frozen=True)
class CanvasInput:
  """The inputs of the devices of one host.

  Attributes:
    source: training images.
    multiplicity: which image and copy fills each slot.
    augmentation: what is drawn for each copy.
    read_options: how images are read.
    canvas: pixels of the shorter and of the longer side of the canvases; images held in memory are
      canvases as they are.
    device_count: devices of this host.
    host_index: which host this is.
    host_count: number of hosts.
    cache: where decoded images are kept, and looked up before they are read; None to decode them
      whenever they are needed. Inputs of one source and canvas may share it.

  Raises:
    ValueError: devices do not divide the batch, or the augmentation does not fit the images.
  """

  source: Source
  multiplicity: Multiplicity
  augmentation: Augmentation
  read_options: ReadOptions = dataclasses.field(default_factory=ReadOptions)
  canvas: tuple[int, int] = (384, 512)
  device_count: int = 1
  host_index: int = 0
  host_count: int = 1
  cache: dict[int, Any] | None = dataclasses.field(default=None, repr=False, compare=False)

  def __post_init__(self):
    check_image_size(self.source, self.read_options.image_size)
    self.augmentation.check(
      unique_images_per_batch=self.multiplicity.unique_images_per_batch,
      image_shape=self.image_shape,
    )
    if self.augmentation.randaugment.layers:
      device_randaugment.check_size(*self.image_shape[:2])
    _ = self._all_parts  # raises the error

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """Height, width and channels that the network gets."""
    if isinstance(self.source, ArraySource):
      return self.source.images.shape[1:]
    return self.read_options.image_size, self.read_options.image_size, 3

  @property
  def canvas_shape(self) -> tuple[int, int, int]:
    """Height, width and channels of a canvas."""
    is_encoded = not isinstance(self.source, ArraySource)
    return (*sorted(self.canvas), 3) if is_encoded else self.image_shape

  @functools.cached_property
  def _all_parts(self) -> list[HostPart]:
    """The slots of each device of all hosts, as if it were a host of its own."""
    count, is_mixed = self.host_count * self.device_count, self.augmentation.mixing.is_on
    return [HostPart(self.multiplicity, device, count, is_mixed) for device in range(count)]

  @property
  def _parts(self) -> list[HostPart]:
    """Those of this host."""
    first = self.host_index * self.device_count
    return self._all_parts[first : first + self.device_count]

  @functools.cached_property
  def canvases_per_device(self) -> int:
    """V, the most that any device needs."""
    return max(part.num_images for part in self._all_parts)

  @functools.cached_property
  def crops_per_device(self) -> int:
    """M, the most that any device makes."""
    return max(part.num_cropped for part in self._all_parts)

  @property
  def make_images(self) -> Callable[[jax.Array, Copies], jax.Array]:
    """`device_copies.make_images` of canvases and copies of one device."""
    return functools.partial(
      device_copies.make_images,
      augmentation=self.augmentation,
      size=self.image_shape[0],
      antialias=self.read_options.antialias,
    )

  @property
  def device_bytes(self) -> int:
    """Bytes that a device holds of inputs and images: of this step and, of inputs, of the next two.

    Without what is in between, see `device_copies.COPIES_AT_A_TIME`.
    """
    of_canvases = self.canvases_per_device * math.prod(self.canvas_shape)
    images = self.crops_per_device + self._parts[0].own[1] - self._parts[0].own[0]
    return 3 * of_canvases + images * math.prod(self.image_shape)

  @property
  def host_bytes(self) -> int:
    """Bytes of the canvases that the host holds: of the step in use and of those being filled."""
    of_group = self.device_count * self.canvases_per_device * math.prod(self.canvas_shape)
    return (_GROUPS_AHEAD + 2) * of_group

  def inputs(self, start_step: int, stop_step: int) -> Iterator[HostInputs]:
    """Yields the inputs of each step from `start_step` to `stop_step`.

    They are a pure function of the seed and the step. Images are decoded in the background.

    Args:
      start_step: first step.
      stop_step: one past the last step.

    Raises:
      BadDataError: an image does not decode under the policy `'fail'`, or cannot be read.
    """
    parts = self._parts
    reader = _make_reader(self.source, self.read_options, self.canvas, self.cache)
    groups = parts[0].groups(start_step, stop_step)
    turns, waiting = parts[0].turns, iter(groups)
    ahead = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count(), 'decoding')
    try:
      for group in groups:
        for later in waiting:
          ahead.append(self._start_reading(later, parts, reader, pool))
          if len(ahead) > _GROUPS_AHEAD:
            break
        canvases, found = ahead.popleft()
        found = [future.result() for future in found]
        for step in range(max(group * turns, start_step), min((group + 1) * turns, stop_step)):
          yield self._inputs_of(step, parts, canvases, found)
    except (ValueError, OSError) as error:
      raise reader.explain(error) from error
    finally:
      pool.shutdown(wait=False, cancel_futures=True)

  @property
  def _range_of_images(self) -> tuple[int, int]:
    """The images of a batch that the devices of this host need."""
    ranges = [part.images for part in self._parts]
    return min(start for start, _ in ranges), max(stop for _, stop in ranges)

  def _start_reading(
    self,
    group: int,
    parts: Sequence[HostPart],
    reader: '_Reader',
    pool: concurrent.futures.Executor,
  ) -> tuple[np.ndarray, list[concurrent.futures.Future]]:
    """The canvases of a group, which are being filled, and what will be found of each image."""
    first, stop = self._range_of_images
    index = self.multiplicity.images(group * parts[0].turns, first, stop).image_index
    shape = (self.device_count, self.canvases_per_device, *self.canvas_shape)
    canvases = np.zeros(shape, np.uint8)
    reader.start_reading(index)

    def read(index: int, place: int) -> _Found:
      pixels, found = reader.read(index)
      if found.is_turned:
        pixels = pixels.swapaxes(0, 1)
      height, width, _ = pixels.shape
      for device, part in enumerate(parts):
        if part.images[0] <= place < part.images[1]:
          canvases[device, place - part.images[0], :height, :width] = pixels
      return found

    return canvases, [
      pool.submit(read, int(number), place) for place, number in enumerate(index, first)
    ]

  def _inputs_of(
    self, step: int, parts: Sequence[HostPart], canvases: np.ndarray, found: Sequence[_Found]
  ) -> HostInputs:
    first, _ = self._range_of_images
    of_devices = [
      self._part_of(step, part, found[part.images[0] - first : part.images[1] - first])
      for part in parts
    ]
    copies, fields = zip(*of_devices, strict=True)
    return HostInputs(
      canvases,
      jax.tree.map(lambda *arrays: np.stack(arrays), *copies),
      jax.tree.map(lambda *arrays: np.concatenate(arrays), *fields),
    )

  def _part_of(
    self, step: int, part: HostPart, found: Sequence[_Found]
  ) -> tuple[Copies, dict[str, np.ndarray]]:
    """What one device gets, but for the canvases."""
    augmentation, own = self.augmentation, part.own_of_cropped
    slots = self.multiplicity.slots(step, *part.cropped)
    drawn = augmentation.crop.draw(slots.seed)
    label, mask = (
      np.array([getattr(image, key) for image in found], dtype)[part.owner]
      for key, dtype in (('label', np.int32), ('mask', np.float32))
    )
    fields = {'label': label[own], 'mask': mask[own]}
    fields |= {key: values[own] for key, values in slots._asdict().items()}
    mix = operations = None
    if augmentation.mixing.is_on:
      mix = self._mix(step, part, slots.seed[own], mask)
      fields |= dict(
        partner_index=slots.image_index[mix.partner_slot],
        partner_label=label[mix.partner_slot],
        mix_weight=mix.weight,
      )
    if augmentation.randaugment.layers:
      of_images = slots.seed[own] if augmentation.mix_first else slots.seed
      operations = randaugment.draw(of_images, augmentation.randaugment)
    boxes, turned = self._boxes(drawn, part.owner, found)
    copies = Copies(
      owner=part.owner.astype(np.int32),
      box=boxes,
      turned=turned,
      crop=_places_and_flips(drawn),
      own=np.arange(own.start, own.stop, dtype=np.int32),
      mix=mix,
      operations=operations,
    )
    return self._as_on_other_devices(copies), fields

  def _as_on_other_devices(self, copies: Copies) -> Copies:
    """With the most crops and canvases that any device has; last entries are repeated."""
    has_cut, mix_first = self.augmentation.crop.cut is not None, self.augmentation.mix_first
    of_boxes = self.canvases_per_device if has_cut else self.crops_per_device
    counts = dict.fromkeys(('owner', 'crop'), self.crops_per_device)
    counts |= dict.fromkeys(('box', 'turned'), of_boxes)
    counts |= {} if mix_first else {'operations': self.crops_per_device}
    extended = {
      key: jax.tree.map(lambda array, count=count: _extend(array, count), getattr(copies, key))
      for key, count in counts.items()
    }
    return copies._replace(**extended)

  def _mix(self, step: int, part: HostPart, seeds: np.ndarray, mask: np.ndarray) -> mixing.Mix:
    """How own slots are mixed, with the partners' numbers among the cropped ones."""
    height, width, _ = self.image_shape
    mix = mixing.mix_slots(
      self.multiplicity,
      self.augmentation.mixing,
      step,
      *part.own,
      height=height,
      width=width,
      seeds=seeds,
    )
    partner = (mix.partner_slot - part.cropped[0]).astype(np.int32)
    usable = mask[partner] > 0  # an image that does not decode cannot be a partner
    weight = np.where(usable, mix.weight, np.float32(1))
    kind = np.where(usable, mix.kind, np.int32(mixing.NOT_MIXED))
    return mixing.Mix(partner, kind, weight, mix.box)

  def _boxes(
    self, drawn: Any, owner: np.ndarray, found: Sequence[_Found]
  ) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """The parts of the canvases, and whether these are turned, see `Copies`."""
    crop = self.augmentation.crop
    if crop.cut is not None and isinstance(self.source, ArraySource):
      return None, None
    edges = np.searchsorted(owner, np.arange(len(found) + 1))
    boxes, turned = [], []
    for image, start, stop in zip(found, edges[:-1], edges[1:], strict=True):
      of_copies = drawn._make(values[start:stop] for values in drawn)
      if image.mask:
        made = crop.boxes(of_copies, *image.full_size)
        made = scale_boxes(made, image.full_size, image.size)
        boxes.append(made[:, [1, 0, 3, 2]] if image.is_turned else made)
      else:
        count = 1 if crop.cut is not None else stop - start
        boxes.append(np.tile(np.array([0, 0, 1, 1], np.int32), (count, 1)))
      turned.append(np.full(len(boxes[-1]), image.is_turned))
    return np.concatenate(boxes), np.concatenate(turned)


def _places_and_flips(drawn: Any) -> crop_flip.Draws:
  nowhere = np.zeros(len(drawn.flip), np.int32)
  places = (getattr(drawn, key, nowhere) for key in ('top', 'left'))
  return crop_flip.Draws(*places, drawn.flip)


def _extend(array: np.ndarray, count: int) -> np.ndarray:
  """The array with its last entry repeated, until there are `count` entries."""
  return np.concatenate([array, np.repeat(array[-1:], count - len(array), axis=0)])


class _Reader(NamedTuple):
  """Reads images that fit into a canvas.

  Attributes:
    read: from an index to pixels uint8 `[h, w, C]`, and what is found.
    start_reading: of an `ImageReader`.
    explain: likewise.
  """

  read: Callable[[int], tuple[np.ndarray, _Found]]
  start_reading: Callable[[np.ndarray], None]
  explain: Callable[[Exception], Exception]


def _make_reader(
  source: Source,
  options: ReadOptions,
  canvas: tuple[int, int],
  cache: dict[int, Any] | None,
) -> _Reader:
  if isinstance(source, ArraySource):

    def read_array(index: int) -> tuple[np.ndarray, _Found]:
      pixels = source.images[index]
      size = pixels.shape[:2]
      return pixels, _Found(size, size, False, int(source.labels[index]), 1.0)

    return _Reader(read_array, lambda index: None, lambda error: error)
  from nfnets_augmult.data.decoding import ImageReader  # it imports TensorFlow

  reader = ImageReader(source, options)

  def read(index: int) -> tuple[np.ndarray, _Found]:
    if cache is not None and index in cache:
      return cache[index]
    image = reader.read_whole(index, canvas)
    height, width, _ = image.pixels.shape
    found = _Found(
      image.full_size, (height, width), height > width, int(image.label), float(image.mask)
    )
    if cache is not None:
      cache[index] = image.pixels, found
    return image.pixels, found

  def start_reading(index: np.ndarray) -> None:
    if reader.reads_ahead:
      reader.start_reading(np.array([i for i in index if i not in (cache or ())], np.int64))

  return _Reader(read, start_reading, reader.explain)
