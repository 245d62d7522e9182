"""Training batches made on the device, inside the compiled step, from a data set in its memory.

The host sends which unique images are in a batch (`Multiplicity.images`: U integers, whatever n
is); the device derives slots, seeds and draws from them, and gathers the pixels. Slots and draws
come from the same functions as in the tf.data input, so batches are equal bit for bit. The
functions here are pure and concern one device.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nfnets_augmult.data.crop_flip import CropFlip, Draws
from nfnets_augmult.data.multiplicity import Images, Multiplicity, fill_slots
from nfnets_augmult.data.sources import ArraySource


class DeviceData(NamedTuple):
  """What one device holds in memory during the whole run.

  Attributes:
    image: uint8 `[N, H, W, C]`, all training images.
    label: int32 `[N]`.
    slot: int32 `[B / D]`, the slots of the global batch that this device fills.
  """

  image: jax.Array
  label: jax.Array
  slot: jax.Array


def make_batch(
  data: DeviceData, images: Images, *, copies_per_batch: int, crop: CropFlip
) -> dict[str, jax.Array]:
  """Returns this device's part of a batch, with the keys of a `Batch`.

  A compiled step computes only the entries that it uses.

  Args:
    data: of this device.
    images: all unique images of the global batch.
    copies_per_batch: of each unique image.
    crop: pad, crop and flip.
  """
  slots = fill_slots(images, data.slot, copies_per_batch=copies_per_batch)
  return dict(
    slots._asdict(),
    image=crop_and_flip(data.image, slots.image_index, crop.draw(slots.seed), crop),
    label=data.label[slots.image_index],
    mask=jnp.ones(len(data.slot), jnp.float32),
  )


def crop_and_flip(
  images: jax.Array, image_index: jax.Array, draws: Draws, crop: CropFlip
) -> jax.Array:
  """Returns the same as `crop_flip.crop_and_flip`, in one gather and without padded images.

  Args:
    images: uint8 `[N, H, W, C]`.
    image_index: int32 `[B]`, the image of each copy.
    draws: of each copy.
    crop: the padding.

  Returns:
    uint8 `[B, H, W, C]`.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from nfnets_augmult import CropFlip, Multiplicity
    >>> from nfnets_augmult import crop_and_flip_on_device, draw_crop_flip
    >>> multiplicity = Multiplicity(num_images=10, unique_images_per_batch=2, augmult=3, seed=0)
    >>> crop = CropFlip(pad=1)
    >>> def copies(images, slots):
    ...   draws = draw_crop_flip(slots.seed, crop)
    ...   return crop_and_flip_on_device(images, slots.image_index, draws, crop)
    >>> images = jnp.zeros((10, 8, 8, 3), jnp.uint8)
    >>> jax.eval_shape(copies, images, multiplicity.slots(step=0)).shape
    (6, 8, 8, 3)
  """
  _, height, width, _ = images.shape
  row, column = jnp.arange(height), jnp.arange(width)
  flipped_column = jnp.where(draws.flip[:, np.newaxis], column[::-1], column)  # [B, W]
  from_row = _unpadded(draws.top[:, np.newaxis] + row, height, crop)
  from_column = _unpadded(draws.left[:, np.newaxis] + flipped_column, width, crop)
  address = (
    image_index[:, np.newaxis, np.newaxis],
    from_row[:, :, np.newaxis],
    from_column[:, np.newaxis, :],
  )
  return images.at[address].get(mode='fill', fill_value=0)


def _unpadded(place: jax.Array, size: int, crop: CropFlip) -> jax.Array:
  """The image's row or column for a `place` in the padded image; beyond `size` if it is black."""
  place = place - crop.pad
  if crop.pad_mode == 'mirror':
    return (size - 1) - jnp.abs((size - 1) - jnp.abs(place))
  return jnp.where(place < 0, size, place)  # a negative index would count from the end


def device_slots(
  multiplicity: Multiplicity, *, device_count: int, host_index: int = 0, host_count: int = 1
) -> np.ndarray:
  """Returns the slots that each device of a host fills, int32 `[D, slots]`.

  Args:
    multiplicity: of the run.
    device_count: D, devices of this host.
    host_index: which host this is.
    host_count: number of hosts.
  """
  start, stop = multiplicity.host_slots(host_index, host_count)
  return np.arange(start, stop, dtype=np.int32).reshape(device_count, -1)


def check_source(source: ArraySource, *, device_bytes: int | None) -> None:
  """Checks that the images of `source` fit in the memory of a device.

  Args:
    source: training images.
    device_bytes: memory of the smallest device, None if it is not known.

  Raises:
    ValueError: there are too many.
  """
  needed = source.images.nbytes + source.labels.nbytes
  # The rest is for the network, its state and its activations.
  if device_bytes is not None and needed > device_bytes // 2:
    raise ValueError(
      f"input='device': {source.description} takes {needed / 2**30:.1f} GiB on every device, more "
      f"than half of its {device_bytes / 2**30:.1f} GiB; leave input at 'tf.data', or train on a "
      "part of it, such as split='train[:50%]'"
    )
