"""Which image and copy fills each slot: the promises of the module's docstring."""

import re

import numpy as np
import pytest

from nfnets_augmult.data import multiplicity as lib
from nfnets_augmult.data.multiplicity import Multiplicity

# N images, U of them in a batch, n copies.
_SIZES = [
  (12, 12, 3),  # U = N
  (12, 1, 2),  # U = 1
  (12, 4, 4),  # U divides N
  (13, 5, 4),  # U does not divide N
  (10, 5, 1),  # U = N / 2, and n = 1
  (7, 3, 16),  # n > N
  (1, 1, 5),  # one image
]
all_sizes = pytest.mark.parametrize(('num_images', 'unique', 'augmult'), _SIZES)
both_placements = pytest.mark.parametrize('placement', lib.PLACEMENTS)


def _first_epochs(multiplicity, epochs):
  """The slots of all steps of the first `epochs` epochs, one after another."""
  steps = [multiplicity.slots(step) for step in range(multiplicity.steps_for_epochs(epochs))]
  return lib.Slots(*map(np.concatenate, zip(*steps, strict=True)))


def _seed_of_copy(slots):
  return {
    (int(epoch), int(image), int(copy)): tuple(seed.tolist())
    for image, copy, epoch, seed in zip(*slots, strict=True)
  }


@both_placements
@all_sizes
def test_every_copy_of_every_image_once_per_epoch(num_images, unique, augmult, placement):
  """In each of three epochs every image has the copies 0 to n - 1 once each; nothing is dropped."""
  slots = _first_epochs(Multiplicity(num_images, unique, augmult, 0, placement), epochs=3)
  for epoch in range(3):
    shown = slots.epoch == epoch
    copies = slots.image_index[shown] * augmult + slots.copy_index[shown]
    np.testing.assert_array_equal(np.sort(copies), np.arange(num_images * augmult))


@both_placements
@all_sizes
def test_steps_for_epochs_is_the_least_number(num_images, unique, augmult, placement):
  """One step fewer than `steps_for_epochs(2)` leaves out a copy of some image of epoch 1."""
  multiplicity = Multiplicity(num_images, unique, augmult, 0, placement)
  last = multiplicity.steps_for_epochs(2) - 1
  slots = multiplicity.slots(last)
  assert np.any(slots.epoch == 1)
  assert np.any(slots.copy_index == augmult - 1)


def test_steps_for_parts_of_an_epoch():
  """Half an epoch of 10 images is 5 positions: 2 groups of 4, each of 1 or of n = 3 steps."""
  assert Multiplicity(10, 4, 3, 0).steps_for_epochs(0.5) == 2
  assert Multiplicity(10, 4, 3, 0, 'neighbouring').steps_for_epochs(0.5) == 6
  # 0.1 + 0.2 epochs is 3.0000000000000004 positions, which must not ask for a fourth.
  assert Multiplicity(10, 3, 1, 0).steps_for_epochs(0.1 + 0.2) == 1


@both_placements
@all_sizes
def test_batch_has_unique_different_images(num_images, unique, augmult, placement):
  """Every batch has U different images, also where it spans two epochs."""
  multiplicity = Multiplicity(num_images, unique, augmult, 4, placement)
  spans = False
  for step in range(multiplicity.steps_for_epochs(4)):
    slots = multiplicity.slots(step)
    assert len(slots.image_index) == multiplicity.batch_size
    assert len(np.unique(slots.image_index)) == unique
    spans |= len(np.unique(slots.epoch)) == 2
  assert spans == bool(num_images % unique)


@both_placements
@all_sizes
def test_no_two_copies_share_a_seed(num_images, unique, augmult, placement):
  """Over four epochs no two (epoch, image, copy) have the same seed."""
  slots = _first_epochs(Multiplicity(num_images, unique, augmult, 0, placement), epochs=4)
  assert len(np.unique(slots.seed, axis=0)) == len(slots.seed)


def test_seed_fields_do_not_overlap():
  """The largest image, epoch and copy have seeds of their own: no field spills into the next."""
  multiplicity = Multiplicity(2**32 - 1, 1, lib.MAX_AUGMULT, 0)
  ends = [(0, 2**32 - 2), (0, 1, lib.MAX_EPOCHS - 1), (0, 1, lib.MAX_AUGMULT - 1)]
  image, epoch, copy = (axis.ravel() for axis in np.meshgrid(*ends))
  seeds = multiplicity.seeds(image, epoch, copy)
  assert len(np.unique(seeds, axis=0)) == 2 * 3 * 3


def test_too_many_epochs():
  """An epoch that no longer fits into a seed is refused."""
  multiplicity = Multiplicity(4, 4, 1, 0)
  with pytest.raises(ValueError, match='at most 1048576 epochs'):
    multiplicity.seeds(np.array([0]), np.array([lib.MAX_EPOCHS]), np.array([0]))


@pytest.mark.parametrize(
  ('unique', 'placement'), [(13, 'within'), (2, 'within'), (1, 'neighbouring'), (6, 'neighbouring')]
)
def test_seeds_do_not_depend_on_the_batch(unique, placement):
  """A copy has the same seed for every U and placement."""
  expected = _seed_of_copy(_first_epochs(Multiplicity(13, 5, 4, 9), epochs=2))
  actual = _seed_of_copy(_first_epochs(Multiplicity(13, unique, 4, 9, placement), epochs=2))
  common = expected.keys() & actual.keys()
  assert len(common) >= 2 * 13 * 4
  assert all(expected[copy] == actual[copy] for copy in common)


def test_copy_zero_is_the_copy_of_ordinary_training():
  """Copy 0 of n = 16 has the seed that the image has with n = 1, in every epoch."""
  many = _seed_of_copy(_first_epochs(Multiplicity(13, 5, 16, 2), epochs=3))
  one = _seed_of_copy(_first_epochs(Multiplicity(13, 5, 1, 2), epochs=3))
  assert len(one) >= 3 * 13
  assert all(many[copy] == seed for copy, seed in one.items())


def test_seeds_differ_between_runs():
  """Two runs share no augmentation seed."""
  first, second = (_first_epochs(Multiplicity(13, 5, 4, s), epochs=2).seed for s in (0, 1))
  assert not set(map(tuple, first.tolist())) & set(map(tuple, second.tolist()))


@pytest.mark.parametrize('unique', [50, 20, 10])
def test_order_differs_between_epochs_and_runs(unique):
  """Every epoch of every run is a permutation of its own."""
  orders = [
    Multiplicity(50, unique, 1, seed).epoch_order(epoch) for seed in range(3) for epoch in range(4)
  ]
  for order in orders:
    np.testing.assert_array_equal(np.sort(order), np.arange(50))
  assert len(set(map(tuple, orders))) == 12


@both_placements
@all_sizes
def test_part_of_a_batch_is_a_slice_of_it(num_images, unique, augmult, placement):
  """`slots(step, start, stop)` is the slice of `slots(step)`, whatever came before."""
  multiplicity = Multiplicity(num_images, unique, augmult, 1, placement)
  size = multiplicity.batch_size
  for step in (0, 1, 7):
    whole = multiplicity.slots(step)
    for start, stop in ((0, size), (size // 3, size // 2 + 1), (size - 1, size)):
      part = multiplicity.slots(step, start, stop)
      for field, expected in zip(part, whole, strict=True):
        assert field.dtype == expected.dtype
        np.testing.assert_array_equal(field, expected[start:stop])


@all_sizes
def test_within_puts_copies_side_by_side(num_images, unique, augmult):
  """`within`: slots are image by image, each with its copies 0 to n - 1 in order."""
  multiplicity = Multiplicity(num_images, unique, augmult, 0)
  for step in range(multiplicity.steps_for_epochs(2)):
    slots = multiplicity.slots(step)
    images = slots.image_index.reshape(unique, augmult)
    assert np.all(images == images[:, :1])
    assert np.all(slots.copy_index.reshape(unique, augmult) == np.arange(augmult))


@all_sizes
def test_neighbouring_shows_the_same_images_n_times(num_images, unique, augmult):
  """`neighbouring`: n successive batches hold the same images in the same slots, copy by copy."""
  multiplicity = Multiplicity(num_images, unique, augmult, 0, 'neighbouring')
  for group in range(3):
    first = multiplicity.slots(group * augmult)
    for turn in range(augmult):
      slots = multiplicity.slots(group * augmult + turn)
      np.testing.assert_array_equal(slots.image_index, first.image_index)
      np.testing.assert_array_equal(slots.copy_index, np.full(unique, turn))


@all_sizes
def test_placements_take_the_images_in_the_same_order(num_images, unique, augmult):
  """Batch g of `within` holds the unique images of group g of `neighbouring`."""
  within = Multiplicity(num_images, unique, augmult, 3)
  neighbouring = Multiplicity(num_images, unique, augmult, 3, 'neighbouring')
  for group in range(5):
    np.testing.assert_array_equal(
      within.slots(group).image_index[::augmult],
      neighbouring.slots(group * augmult).image_index,
    )


def test_sizes_of_batch_and_epoch():
  """N = 100, U = 8, n = 4: B = 32 or 8, and 100 * 4 / B = 12.5 or 50 steps per epoch."""
  within = Multiplicity(100, 8, 4, 0)
  neighbouring = Multiplicity(100, 8, 4, 0, 'neighbouring')
  assert (within.batch_size, within.steps_per_epoch) == (32, 12.5)
  assert (neighbouring.batch_size, neighbouring.steps_per_epoch) == (8, 50)


def test_slots_are_pinned():
  """Slots are the same in every version, or resumed runs would see other batches."""
  slots = Multiplicity(7, 3, 2, 11).slots(
    2
  )  # positions 6 to 8: the last of epoch 0, two of epoch 1
  np.testing.assert_array_equal(slots.image_index, [2, 2, 5, 5, 6, 6])
  np.testing.assert_array_equal(slots.copy_index, [0, 1, 0, 1, 0, 1])
  np.testing.assert_array_equal(slots.epoch, [0, 0, 1, 1, 1, 1])
  np.testing.assert_array_equal(
    slots.seed[:3], [[179256509, 3578868226], [2220800792, 2067770516], [1204412449, 3008070217]]
  )
  assert [field.dtype.name for field in slots] == ['int64', 'int32', 'int32', 'uint32']


@pytest.mark.parametrize(
  ('changed', 'key_and_remedy'),
  [
    (dict(placement='beside'), "placement='beside' must be one of within, neighbouring"),
    (dict(augmult=0), 'augmult=0 must be a whole number from 1 to 4096'),
    (dict(augmult=4097), 'augmult=4097 must be a whole number from 1 to 4096'),
    (dict(num_images=0), 'num_images=0 must be a whole number from 1'),
    (dict(num_images=2**32), f'num_images={2**32} must be a whole number from 1'),
    (dict(unique_images_per_batch=0), 'unique_images_per_batch=0 must be from 1 to'),
    (
      dict(unique_images_per_batch=11),
      'number of training images, 10; a smaller batch_size or a larger augmult lowers it',
    ),
    (dict(unique_images_per_batch=6), 'unique_images_per_batch=6 .* use at most 5, or all 10'),
    (dict(unique_images_per_batch=9), 'unique_images_per_batch=9 .* use at most 5, or all 10'),
  ],
)
def test_multiplicity_refuses(changed, key_and_remedy):
  """What no batch can be made of is refused, with the key and a way out."""
  arguments = dict(num_images=10, unique_images_per_batch=5, augmult=2, seed=0, placement='within')
  with pytest.raises(ValueError, match=re.compile(key_and_remedy)):
    Multiplicity(**(arguments | changed))
