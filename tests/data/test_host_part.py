"""Slots of a host, put together from groups of images, against those of `Multiplicity`."""

import dataclasses

import numpy as np
import pytest

from nfnets_augmult.data.host_part import HostPart
from nfnets_augmult.data.multiplicity import Multiplicity, Slots


def _slots(part, step):
  """What the host crops for a step, as the input takes it out of the group of the step."""
  group, turn = divmod(step, part.turns)
  found = part.addresses(group)
  return Slots(
    image_index=found.image_index[part.owner],
    copy_index=part.of_slots(found.copy_index, turn),
    epoch=found.epoch[part.owner],
    seed=part.of_slots(found.seed, turn),
  )


@pytest.mark.parametrize(
  ('placement', 'unique', 'augmult', 'host_count'),
  [
    ('within', 6, 4, 3),
    ('within', 6, 1, 2),  # one copy of each image
    ('within', 1, 4, 1),
    ('within', 2, 4, 8),  # four hosts share an image
    ('within', 3, 4, 2),  # host 0 ends, and host 1 begins, in the middle of an image
    ('within', 6, 4, 4),  # likewise, with other images as well
    ('within', 17, 2, 2),  # in 2 blocks of mixing, whose border is not that of the hosts
    ('neighbouring', 6, 4, 1),
    ('neighbouring', 6, 4, 3),
    ('neighbouring', 6, 4, 6),  # one slot each
    ('neighbouring', 6, 1, 2),
    ('neighbouring', 17, 3, 17),
  ],
)
@pytest.mark.parametrize('is_mixed', [False, True])
def test_slots_are_those_of_the_batch(placement, unique, augmult, host_count, is_mixed):
  """Of every host and step over two epochs, and own slots one after another are the whole batch."""
  multiplicity = Multiplicity(34, unique, augmult, 5, placement)
  parts = [HostPart(multiplicity, host, host_count, is_mixed) for host in range(host_count)]
  for step in range(multiplicity.steps_for_epochs(2)):
    whole, own = multiplicity.slots(step), []
    for part in parts:
      slots = _slots(part, step)
      for array, expected in zip(slots, whole, strict=True):
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected[slice(*part.cropped)])
      own.append(slots.seed[part.own_of_cropped])
    np.testing.assert_array_equal(np.concatenate(own), whole.seed)


def test_partners_are_cropped():
  """Of two hosts and 17 images in blocks of 8 and 9, the border of the hosts lies in the latter."""
  multiplicity = Multiplicity(34, 17, 2, 0)
  parts = [HostPart(multiplicity, host, 2, is_mixed=True) for host in range(2)]
  assert [part.own for part in parts] == [(0, 17), (17, 34)]
  assert [part.cropped for part in parts] == [(0, 34), (16, 34)]
  assert dataclasses.replace(parts[1], is_mixed=False).cropped == (17, 34)


@pytest.mark.parametrize(
  ('placement', 'unique', 'host_count', 'images', 'copies'),
  [
    ('within', 6, 3, [(0, 2), (2, 4), (4, 6)], [4, 4, 4]),
    ('within', 2, 4, [(0, 1), (0, 1), (1, 2), (1, 2)], [2, 2, 2, 2]),  # of a shared image, a part
    ('within', 3, 2, [(0, 2), (1, 3)], [4, 4]),  # image 1 is read by both
    ('neighbouring', 2, 2, [(0, 1), (1, 2)], [4, 4]),  # for the batches to come
  ],
)
def test_what_is_read(placement, unique, host_count, images, copies):
  """No host reads an image, or makes copies of it, that it has no slots for."""
  multiplicity = Multiplicity(12, unique, 4, 0, placement)
  parts = [HostPart(multiplicity, host, host_count) for host in range(host_count)]
  assert [part.images for part in parts] == images
  assert [len(part.copies) for part in parts] == copies


def test_groups_of_steps():
  """A start or stop inside a group of n batches takes in the whole group."""
  part = HostPart(Multiplicity(12, 4, 3, 0, 'neighbouring'))
  assert [part.groups(*steps) for steps in ((0, 3), (3, 7), (4, 5))] == [
    range(0, 1),
    range(1, 3),
    range(1, 2),
  ]
  assert HostPart(Multiplicity(12, 4, 3, 0)).groups(4, 7) == range(4, 7)


def test_hosts_must_divide_the_batch():
  with pytest.raises(ValueError, match='3 hosts do not divide batch_size=20'):
    HostPart(Multiplicity(13, 5, 4, 0), host_count=3)
