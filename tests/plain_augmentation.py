"""Pad, crop and flip of one image at a time, in the plainest way, with the bits of `jax.random`."""

import jax
import numpy as np

from nfnets_augmult.data.crop_flip import CropFlip


def draws(seeds: np.ndarray, crop: CropFlip) -> np.ndarray:
  """Returns top, left and flip of each seed, `[B, 3]`."""
  with jax.threefry_partitionable(True):
    bits = jax.vmap(lambda key: jax.random.bits(key, (3,), 'uint32'))(seeds)
  positions = 2 * crop.pad + 1
  return np.asarray(bits).astype(np.int64) % [positions, positions, 2]


def copies(images: np.ndarray, seeds: np.ndarray, crop: CropFlip) -> np.ndarray:
  """Returns image b augmented with seed b; `images` is `[B, H, W, C]`, one for each copy."""
  return np.stack(
    [
      _copy(image, top, left, bool(flip) and crop.flip, crop)
      for image, (top, left, flip) in zip(images, draws(seeds, crop), strict=True)
    ]
  )


def _copy(image: np.ndarray, top: int, left: int, flip: bool, crop: CropFlip) -> np.ndarray:
  """One crop of `image` `[H, W, C]`."""
  height, width, _ = image.shape
  pad = crop.pad
  mode = 'reflect' if crop.pad_mode == 'mirror' else 'constant'
  padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
  cut = padded[top : top + height, left : left + width]
  return np.fliplr(cut) if flip else cut
