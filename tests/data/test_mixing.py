"""Mixup and CutMix: partners, weights, shares and pixels."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from nfnets_augmult.data import mixing, mixing_ops
from nfnets_augmult.data.mixing import Mixing
from nfnets_augmult.data.multiplicity import PLACEMENTS, Multiplicity
from tests import real_images

_BOTH = Mixing(mixup=0.5, cutmix=0.5)


def _mix(multiplicity, step, start=0, stop=None, options=_BOTH, height=32, width=48):
  stop = multiplicity.batch_size if stop is None else stop
  return mixing.mix_slots(multiplicity, options, step, start, stop, height=height, width=width)


@pytest.mark.parametrize('placement', PLACEMENTS)
@pytest.mark.parametrize('augmult', [1, 2, 4, 16])
@pytest.mark.parametrize('unique', [2, 3, 17, 64])
def test_partners_are_other_images(unique, augmult, placement):
  """In many batches no slot meets its own image; copies of one image meet several others."""
  multiplicity = Multiplicity(200, unique, augmult, 5, placement)
  met = {}
  for step in range(augmult + 5):
    slots = multiplicity.slots(step)
    mix = _mix(multiplicity, step)
    partner = slots.image_index[mix.partner_slot]
    assert np.all(partner != slots.image_index)
    np.testing.assert_array_equal(slots.copy_index[mix.partner_slot], slots.copy_index)
    for image, epoch, other in zip(slots.image_index, slots.epoch, partner, strict=True):
      met.setdefault((image, epoch), set()).add(other)
  if augmult == 16 and unique >= 8:
    assert np.mean([len(others) for others in met.values()]) > 4


@pytest.mark.parametrize('unique', [2, 7, 8, 15, 16, 20, 100, 256])
def test_blocks(unique):
  """Blocks cover the batch, none is smaller than it must be, and they fit hosts where they can."""
  edges = mixing.block_edges(unique)
  sizes = np.diff(edges)
  assert edges[0] == 0 and edges[-1] == unique
  assert sizes.min() >= min(unique, mixing.BLOCK) and sizes.max() < 2 * mixing.BLOCK
  if unique == 256:
    assert np.isin([64, 128, 192], edges).all()


@pytest.mark.parametrize('host_count', [1, 2, 4])
@pytest.mark.parametrize(('unique', 'augmult'), [(4, 4), (12, 2), (64, 1), (20, 4)])
def test_hosts_see_the_same_mixture(unique, augmult, host_count):
  """Each host's part is that of the whole batch, and its partners are among what it crops."""
  multiplicity = Multiplicity(200, unique, augmult, 1)
  whole = _mix(multiplicity, 3)
  size = multiplicity.batch_size // host_count
  for host in range(host_count):
    start, stop = host * size, (host + 1) * size
    first, end = mixing.covering_slots(multiplicity, start, stop)
    assert first <= start and stop <= end
    part = _mix(multiplicity, 3, start, stop)
    assert np.all((part.partner_slot >= first) & (part.partner_slot < end))
    for actual, expected in zip(part, whole, strict=True):
      np.testing.assert_array_equal(actual, expected[start:stop])


@pytest.mark.parametrize('host_count', [1, 4, 16])
def test_hosts_of_a_large_batch_crop_their_own_images_only(host_count):
  """For 256 unique images, 16 copies, on up to 16 hosts nothing is cropped twice."""
  multiplicity = Multiplicity(10_000, 256, 16, 1)
  size = multiplicity.batch_size // host_count
  for start in range(0, multiplicity.batch_size, size):
    assert mixing.covering_slots(multiplicity, start, start + size) == (start, start + size)


def test_partner_is_uniform():
  """Over many slots each of the seven others of a block of eight is met equally often."""
  multiplicity = Multiplicity(1000, 64, 16, 1)
  ahead = np.zeros(8, np.int64)
  for step in range(10):
    place = np.arange(1024) // 16
    partner = _mix(multiplicity, step).partner_slot // 16
    np.testing.assert_array_equal(place // 8, partner // 8)
    ahead += np.bincount((partner - place) % 8, minlength=8)
  assert ahead[0] == 0 and stats.chisquare(ahead[1:]).pvalue > 1e-3


@pytest.mark.parametrize(
  ('options', 'mixup', 'cutmix'),
  [
    (Mixing(mixup=0.5, cutmix=0.5), 512, 512),
    (Mixing(mixup=1.0), 1024, 0),
    (Mixing(cutmix=1.0), 0, 1024),
    (Mixing(mixup=0.25, cutmix=0.25), 256, 256),
  ],
)
def test_shares_hold_in_every_batch(options, mixup, cutmix):
  """Exactly the stated shares are mixed, other slots at other steps, and what is not is whole."""
  multiplicity = Multiplicity(1000, 64, 16, 1)
  kinds = []
  for step in range(3):
    mix = _mix(multiplicity, step, options=options)
    assert np.sum(mix.kind == mixing.MIXUP) == mixup
    assert np.sum(mix.kind == mixing.CUTMIX) == cutmix
    rest = mix.kind == mixing.NOT_MIXED
    np.testing.assert_array_equal(mix.weight[rest], 1)
    assert not mix.box[mix.kind != mixing.CUTMIX].any()
    kinds.append(mix.kind)
  if mixup and mixup < 1024:
    assert np.any(kinds[0] != kinds[1])


@pytest.mark.parametrize('alpha', [0.2, 1.0])
def test_mixup_weights(alpha):
  """Weights of Mixup follow Beta(alpha, alpha)."""
  multiplicity = Multiplicity(5000, 1024, 8, 1)
  weight = _mix(multiplicity, 0, options=Mixing(mixup=1.0, mixup_alpha=alpha)).weight
  assert weight.min() >= 0 and weight.max() <= 1
  assert stats.kstest(weight.astype(np.float64), stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_cutmix_boxes():
  """Boxes have uniform area before the border cuts them, centres anywhere, and true weights."""
  height, width = 200, 300
  multiplicity = Multiplicity(5000, 1024, 8, 1)
  options = Mixing(cutmix=1.0)
  mix = _mix(multiplicity, 0, options=options, height=height, width=width)
  top, left, bottom, right = mix.box.T
  assert top.min() == 0 and left.min() == 0 and bottom.max() == height and right.max() == width
  area = (bottom - top) * (right - left)
  np.testing.assert_allclose(mix.weight, 1 - area / (height * width), rtol=1e-6)
  whole = (top > 0) & (left > 0) & (bottom < height) & (right < width)
  np.testing.assert_allclose(
    (right - left)[whole] / width, (bottom - top)[whole] / height, atol=0.02
  )
  # A box that touches no border had its full area. Its centre may be anywhere in (1 - side)^2 of
  # the image, so areas, uniform before, are left in proportion to that.
  side = (bottom - top)[whole] / height
  law = stats.rv_histogram(_uncut_sides())
  assert stats.kstest(side, law.cdf).pvalue > 1e-4


def _uncut_sides():
  grid = np.linspace(0, 1, 2001)
  middle = (grid[1:] + grid[:-1]) / 2
  # Density of the side is 2 s where the area s^2 is uniform.
  return 2 * middle * (1 - middle) ** 2, grid


def test_pixels():
  """Mixup is the weighted mean to half a grey level; CutMix pastes exactly the box."""
  image, partner = real_images.photos(2, 20, 30)
  box = np.array([3, 5, 11, 30], np.int32)

  def mix(kind, weight=0.3):
    arguments = map(tf.constant, (image, partner, np.int32(kind), np.float32(weight), box))
    return mixing_ops.mix_pair(*arguments).numpy()

  np.testing.assert_array_equal(mix(mixing.NOT_MIXED), image)
  blend = 0.3 * image.astype(np.float64) + 0.7 * partner
  assert np.abs(mix(mixing.MIXUP) - blend).max() <= 0.5 + 1e-4
  np.testing.assert_array_equal(mix(mixing.MIXUP, 1.0), image)
  pasted = image.copy()
  pasted[3:11, 5:30] = partner[3:11, 5:30]
  np.testing.assert_array_equal(mix(mixing.CUTMIX), pasted)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(mixup=-0.1), '^mixup=-0.1'),
    (dict(mixup=0.6, cutmix=0.6), 'their sum must be at most 1'),
    (dict(mixup_alpha=0.0), '^mixup_alpha=0.0'),
  ],
)
def test_refuses(options, message):
  """Shares that are none are named."""
  with pytest.raises(ValueError, match=message):
    Mixing(**options)


def test_one_unique_image_is_refused():
  """A batch with a single unique image has no partner for it; without mixing it may."""
  with pytest.raises(
    ValueError, match=r'unique_images_per_batch=1: .*lower augmult.* mixup=0 and cutmix=0'
  ):
    _BOTH.check_unique_images(1)
  Mixing().check_unique_images(1)
  _BOTH.check_unique_images(2)
