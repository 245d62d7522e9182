"""Pad, crop and flip against an implementation for one image at a time."""

import numpy as np
import pytest
from scipy import stats

from nfnets_augmult.data import crop_flip
from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.ops import addressed_random
from tests import plain_augmentation, real_images


def _seeds(count):
  numbers = np.arange(count, dtype=np.uint32)
  key = addressed_random.key_for(0, 'test')
  return np.stack(addressed_random.threefry2x32(key, (numbers, numbers)), axis=-1)


@pytest.mark.parametrize('flip', [True, False])
@pytest.mark.parametrize('pad_mode', ['mirror', 'constant'])
@pytest.mark.parametrize('shape', [(8, 8, 1), (16, 9, 3), (5, 12, 3), (5, 12, 1)])
def test_equals_one_image_at_a_time(shape, pad_mode, flip):
  """Copies equal np.pad, a slice and np.fliplr of their image, with the bits of `jax.random`."""
  height, width, channels = shape
  images = real_images.photos(6, height, width)[..., :channels]
  crop = CropFlip(pad=3, pad_mode=pad_mode, flip=flip)
  owner = np.array([0, 0, 0, 5, 5, 3, 2, 2, 2, 2, 1, 4] * 3)  # in no order, some more often
  seeds = _seeds(len(owner))
  copies = crop_flip.crop_and_flip(images, owner, crop_flip.draw(seeds, crop), crop)
  assert copies.dtype == np.uint8
  np.testing.assert_array_equal(copies, plain_augmentation.copies(images[owner], seeds, crop))


def test_mirror_does_not_repeat_the_edge():
  """`mirror` continues 1 2 3 to the left as 3 2 | 1 2 3, `constant` as 0 0 | 1 2 3."""
  row = np.array([1, 2, 3], np.uint8).reshape(1, 1, 3, 1).repeat(3, axis=1)
  draws = crop_flip.Draws(top=np.array([2]), left=np.array([0]), flip=np.array([False]))
  for pad_mode, expected in (('mirror', [3, 2, 1]), ('constant', [0, 0, 1])):
    crop = CropFlip(pad=2, pad_mode=pad_mode)
    copy = crop_flip.crop_and_flip(row, np.array([0]), draws, crop)
    np.testing.assert_array_equal(copy[0, 0, :, 0], expected)


def test_off_is_the_identity():
  """Without padding and flip the copies are the images, bit for bit."""
  images = real_images.photos(4, 10, 7)
  owner = np.array([3, 0, 1, 1, 2])
  off = CropFlip(pad=0, flip=False)
  copies = crop_flip.crop_and_flip(images, owner, crop_flip.draw(_seeds(5), off), off)
  np.testing.assert_array_equal(copies, images[owner])


def test_defaults():
  """Unless told otherwise: 4 pixels of mirrored padding and flips, as for CIFAR in the paper."""
  assert CropFlip() == CropFlip(pad=4, pad_mode='mirror', flip=True)


def test_images_are_not_written_to():
  """Flipping a copy leaves the source's images alone, also where no padding copies them."""
  images = real_images.photos(4, 10, 7)
  before = images.copy()
  flip_only = CropFlip(pad=0, flip=True)
  draws = crop_flip.draw(_seeds(40), flip_only)
  assert draws.flip.any()
  crop_flip.crop_and_flip(images, np.arange(40) % 4, draws, flip_only)
  np.testing.assert_array_equal(images, before)


def test_draws_are_uniform_and_independent():
  """All (top, left, flip) are equally likely: chi-square of their joint counts, 100,000 seeds."""
  draws = crop_flip.draw(_seeds(100_000), CropFlip(pad=2))
  joint = np.bincount((draws.top * 5 + draws.left) * 2 + draws.flip, minlength=5 * 5 * 2)
  assert len(joint) == 50
  assert stats.chisquare(joint).pvalue > 1e-3


def test_switching_the_flip_off_leaves_the_crops():
  """Crops do not depend on whether copies are flipped, and none is."""
  seeds = _seeds(100)
  on, off = (crop_flip.draw(seeds, CropFlip(flip=flip)) for flip in (True, False))
  np.testing.assert_array_equal(off.top, on.top)
  np.testing.assert_array_equal(off.left, on.left)
  assert on.flip.any() and not off.flip.any()


def test_switching_the_crop_off_leaves_the_flips():
  """Flips do not depend on the padding."""
  seeds = _seeds(100)
  on, off = (crop_flip.draw(seeds, CropFlip(pad=pad)) for pad in (4, 0))
  np.testing.assert_array_equal(off.flip, on.flip)
  assert not off.top.any() and not off.left.any()


@pytest.mark.parametrize(('height', 'width'), [(4, 9), (9, 4), (3, 3)])
def test_image_too_small_to_mirror(height, width):
  """Images of `pad` pixels or fewer cannot be mirrored; the message says what to do."""
  with pytest.raises(ValueError, match=r'^pad=4 .*lower it or use .*constant'):
    CropFlip(pad=4).check_image_size(height, width)


def test_image_large_enough():
  """One pixel more than `pad` can be mirrored, and any image can be padded with black."""
  CropFlip(pad=4).check_image_size(5, 5)
  CropFlip(pad=4, pad_mode='constant').check_image_size(1, 1)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (dict(pad=-1), '^pad=-1 must be a whole number from 0'),
    (dict(pad_mode='wrap'), "^pad_mode='wrap' must be one of mirror, constant"),
  ],
)
def test_refuses(arguments, message):
  """Impossible augmentations are refused by key and value."""
  with pytest.raises(ValueError, match=message):
    CropFlip(**arguments)
