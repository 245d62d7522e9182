"""The copies of a batch made on the device, inside the compiled step, from the images of that step.

The host reads and decodes the unique images and sends them as they are, each in the corner of a
*canvas* of fixed size, with what was drawn for each copy (see `canvases.py`). The device crops,
scales, flips, mixes and applies RandAugment. The functions here are pure and concern one device.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nfnets_augmult.data import crop_flip, device_input, mixing, randaugment
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.device_randaugment import make_layers
from nfnets_augmult.data.device_resampling import resize_box

# So many copies are made at a time, which bounds the memory of what is in between. Being many, they
# keep the device busy.
COPIES_AT_A_TIME = 32


class Copies(NamedTuple):
  """What is drawn for the copies of one device.

  The device crops M slots: its own, those of their possible partners, and perhaps some that are not
  used, so that all devices crop equally many.

  Attributes:
    owner: int32 `[M]`, the canvas of each.
    box: int32 `[M, 4]`, the part of the canvas that each shows: top, left, height and width. Of a
      crop with a `cut`, `[V, 4]`, the part of each canvas; None if canvases are used whole.
    turned: bool `[M]`, or `[V]`, see `resize_box`; None likewise.
    crop: places of the crops with a `cut`, else 0, and flips, `[M]`.
    own: int32 `[B / D]`, which of the M are the device's own slots.
    mix: of the own slots, with the number among the M as `partner_slot`; None without mixing.
    operations: of RandAugment: of the own slots if they are mixed first, else of the M; None
      without layers.
  """

  owner: jax.Array
  box: jax.Array | None
  turned: jax.Array | None
  crop: crop_flip.Draws
  own: jax.Array
  mix: mixing.Mix | None
  operations: randaugment.Draws | None


def make_images(
  canvases: jax.Array, copies: Copies, *, augmentation: Augmentation, size: int, antialias: bool
) -> jax.Array:
  """Returns the images of a device's own slots, uint8 `[B / D, S, S, C]`.

  Args:
    canvases: uint8 `[V, H, W, C]`.
    copies: what is drawn.
    augmentation: with which that was drawn.
    size: S, pixels. Canvases that are used whole have this size already, and may not be squares.
    antialias: see `resizing.resize_boxes`.
  """
  crops = _crop(canvases, copies, augmentation, size, antialias)
  options, mix, operations = augmentation.randaugment, copies.mix, copies.operations
  distorted_last = operations is not None and augmentation.mix_first
  if operations is not None:
    distort = make_layers(options, height=crops.shape[1], width=crops.shape[2])
    if not augmentation.mix_first:
      crops = _in_slices(distort, crops, operations)

  def finish(
    own: jax.Array, mix: mixing.Mix | None, operations: randaugment.Draws | None
  ) -> jax.Array:
    image = crops[own]
    if mix is not None:
      image = mix_pair(image, crops[mix.partner_slot], mix)
    return distort(image, operations) if distorted_last else image

  return _in_slices(finish, copies.own, mix, operations if distorted_last else None)


def _crop(
  canvases: jax.Array, copies: Copies, augmentation: Augmentation, size: int, antialias: bool
) -> jax.Array:
  """The crops of the M slots, uint8 `[M, S, S, C]`."""

  def resize(canvas: jax.Array, box: jax.Array, turned: jax.Array, flip: jax.Array) -> jax.Array:
    return resize_box(canvases[canvas], box, turned, flip, size=size, antialias=antialias)

  if augmentation.crop.cut is None:
    return _in_slices(resize, copies.owner, copies.box, copies.turned, copies.crop.flip)
  squares = canvases
  if copies.box is not None:
    number = jnp.arange(len(canvases))
    squares = _in_slices(resize, number, copies.box, copies.turned, number < 0)
  return device_input.crop_and_flip(squares, copies.owner, copies.crop, augmentation.crop)


def mix_pair(image: jax.Array, partner: jax.Array, mix: mixing.Mix) -> jax.Array:
  """Returns one image mixed with its partner: the result of `mixing_ops.mix_pair`, bit for bit.

  Args:
    image: uint8 `[H, W, C]`.
    partner: uint8 `[H, W, C]`.
    mix: the entry of this slot.

  Returns:
    uint8 `[H, W, C]`.
  """
  height, width, _ = image.shape
  # A product taken through `minimum` cannot be fused with the sum, which would round differently.
  own = jnp.minimum(mix.weight * image.astype(jnp.float32), 255)
  other = jnp.minimum((1 - mix.weight) * partner.astype(jnp.float32), 255)
  mixture = (own + other + 0.5).astype(jnp.uint8)
  row, column = jnp.arange(height)[:, np.newaxis], jnp.arange(width)
  top, left, bottom, right = mix.box
  is_pasted = (row >= top) & (row < bottom) & (column >= left) & (column < right)
  pasted = jnp.where(is_pasted[..., np.newaxis], partner, image)
  image = jnp.where(mix.kind == mixing.CUTMIX, pasted, image)
  return jnp.where(mix.kind == mixing.MIXUP, mixture, image)


def _in_slices(function: Callable[..., jax.Array], *arrays: Any) -> jax.Array:
  """`function` of each entry of the arrays or trees, some at a time."""
  return jax.lax.map(lambda entry: function(*entry), arrays, batch_size=COPIES_AT_A_TIME)
