"""Batches of a data set held in memory, made on the host with NumPy alone.

They equal those of `pipeline.py`. Runs on arrays whose augmentation is a crop use them, and so do
not import TensorFlow; and runs whose training batches are made on the device, for evaluation and
pictures.
"""

import collections
import concurrent.futures
import functools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from nfnets_augmult.data.augmentation import Augmentation, Crop
from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.data.sources import ArraySource

# Name to array. Training and evaluation: 'image' uint8 [B, H, W, C], 'label' int32 [B], 'mask'
# float32 [B] (0 for padding and for images that do not decode), 'image_index' int64 [B].
# Training only: 'copy_index' int32 [B], 'epoch' int32 [B], 'seed' uint32 [B, 2].
# If images are mixed, also 'partner_index' int64 [B], 'partner_label' int32 [B] and 'mix_weight'
# float32 [B], the share of the slot's own image and label; 1 where nothing is mixed.
Batch = dict[str, np.ndarray]


def train_batch(
  source: ArraySource,
  multiplicity: Multiplicity,
  step: int,
  *,
  crop: Crop,
  start: int = 0,
  stop: int | None = None,
) -> Batch:
  """Returns slots `start` to `stop` (default: all) of the training batch of `step`.

  The images have their final size already, so `crop` must have a `cut`.
  """
  slots = multiplicity.slots(step, start, stop)
  unique, owner = np.unique(slots.image_index, return_inverse=True)
  return dict(
    slots._asdict(),
    image=crop.cut(source.images[unique], owner, crop.draw(slots.seed)),
    label=source.labels[slots.image_index],
    mask=np.ones(len(owner), np.float32),
  )


def train_batches(
  source: ArraySource,
  multiplicity: Multiplicity,
  *,
  crop: Crop,
  start_step: int,
  stop_step: int,
  host_index: int = 0,
  host_count: int = 1,
) -> Iterator[Batch]:
  """Yields the batches of `pipeline.train_batches`, while the next ones are made in the background.

  Threads are started by the first batch, and end with the iterator.

  Raises:
    ValueError: the crop does not fit the images.
  """
  crop.check_image_size(*source.images.shape[1:3])
  start, stop = multiplicity.host_slots(host_index, host_count)
  make = functools.partial(train_batch, source, multiplicity, crop=crop, start=start, stop=stop)
  return _made_ahead(make, range(start_step, stop_step))


def _made_ahead(make: Callable[[int], Batch], steps: Iterable[int]) -> Iterator[Batch]:
  """Yields `make` of each of the steps, in order, made by two threads and up to three ahead."""
  waiting = collections.deque()
  pool = concurrent.futures.ThreadPoolExecutor(2)
  try:
    for step in steps:
      waiting.append(pool.submit(make, step))
      if len(waiting) > 3:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
  finally:
    pool.shutdown(wait=False, cancel_futures=True)


def can_make(augmentation: Augmentation) -> bool:
  """Whether the augmentation is but a crop, so that `train_batches` makes its batches."""
  is_crop = not (augmentation.mixing.is_on or augmentation.randaugment.layers)
  return is_crop and augmentation.crop.cut is not None


def evaluation_indices(
  num_images: int, *, batch_size: int, host_index: int = 0, host_count: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields the images of each batch of this host; over all hosts, every image comes once.

  Args:
    num_images: number of images to evaluate.
    batch_size: images per batch of this host.
    host_index: which host this is; it gets images `host_index, host_index + host_count, ...`
    host_count: number of hosts, all of which get the same number of batches.

  Yields:
    Indices int64 `[batch_size]`, and a mask float32 `[batch_size]` that is 0 for padding.
  """
  for batch in range(-(-num_images // (batch_size * host_count))):
    place = np.arange(batch * batch_size, (batch + 1) * batch_size)
    index = place * host_count + host_index
    yield np.where(index < num_images, index, 0), (index < num_images).astype(np.float32)


def evaluation_batches(
  source: ArraySource,
  *,
  batch_size: int,
  num_images: int | None = None,
  host_index: int = 0,
  host_count: int = 1,
) -> Iterator[Batch]:
  """Yields the batches of `pipeline.evaluation_batches`."""
  total = source.num_images if num_images is None else min(num_images, source.num_images)
  hosts = {'host_index': host_index, 'host_count': host_count}
  for index, mask in evaluation_indices(total, batch_size=batch_size, **hosts):
    yield dict(image=source.images[index], label=source.labels[index], mask=mask, image_index=index)
