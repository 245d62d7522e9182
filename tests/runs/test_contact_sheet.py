"""The picture of images and their copies."""

import numpy as np
import pytest

from nfnets_augmult.data import pipeline
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.data.mixing import Mixing
from nfnets_augmult.data.multiplicity import PLACEMENTS, Multiplicity
from nfnets_augmult.data.sources import ArraySource
from nfnets_augmult.runs import contact_sheet
from tests import plain_augmentation, real_images

_CROP = CropFlip(pad=3)
_UNMIXED = Mixing()
_PHOTOS = real_images.photos(9, 10, 14)
_LABELS = np.array([4, 7, 1, 8, 0, 3, 3, 9, 2], np.int32)


def _collect(multiplicity, num_images, mixing=_UNMIXED):
  source = ArraySource(_PHOTOS, _LABELS, tuple('abcdefghij'), 'photos')
  steps = multiplicity.augmult // multiplicity.copies_per_batch
  batches = pipeline.train_batches(
    source,
    multiplicity,
    augmentation=Augmentation(crop=_CROP, mixing=mixing),
    start_step=0,
    stop_step=steps,
  )
  return contact_sheet.collect_copies(batches, num_images=num_images, augmult=multiplicity.augmult)


@pytest.mark.parametrize('placement', PLACEMENTS)
@pytest.mark.parametrize('num_images', [2, 4])
def test_collects_every_copy_in_its_place(placement, num_images):
  """Row r, column c is copy c of the r-th unique image that the batches show, with its label."""
  multiplicity = Multiplicity(9, 4, 5, 0, placement)
  found = _collect(multiplicity, num_images)
  image_index, labels, copies = found['image_index'], found['label'], found['image']
  np.testing.assert_array_equal(image_index, multiplicity.epoch_order(0)[:num_images])
  np.testing.assert_array_equal(labels, _LABELS[image_index])
  assert copies.shape == (num_images, 5, 10, 14, 3)
  for row, index in enumerate(image_index):
    seeds = multiplicity.seeds(np.full(5, index), np.zeros(5, int), np.arange(5))
    expected = plain_augmentation.copies(_PHOTOS[[index] * 5], seeds, _CROP)
    np.testing.assert_array_equal(copies[row], expected)


def test_fewer_images_than_rows():
  """Asked for more unique images than the batches show, it returns those without empty rows."""
  found = _collect(Multiplicity(9, 4, 5, 0), num_images=100)
  assert set(found) == {'image_index', 'label', 'image'}
  assert all(len(array) == 4 for array in found.values())


@pytest.mark.parametrize('channels', [1, 3])
def test_sheet_shows_images_and_copies(channels):
  """Every copy is on the sheet, enlarged, in the grid that ends at the lower right corner."""
  originals = _PHOTOS[:2, ..., :channels]
  copies = _PHOTOS[2:8, ..., :channels].reshape(2, 3, 10, 14, channels)
  sheet = contact_sheet.draw_contact_sheet(originals, copies, ['tower', 'flower'])
  pixels = np.asarray(sheet)
  scale = 6  # 64 / 10, rounded

  def enlarged(image):
    return np.broadcast_to(image, (10, 14, 3)).repeat(scale, axis=0).repeat(scale, axis=1)

  height, width = 10 * scale, 14 * scale
  for row in range(2):
    top = sheet.height - (2 - row) * (height + 4)
    for copy in range(3):
      left = sheet.width - (3 - copy) * (width + 4)
      shown = pixels[top : top + height, left : left + width]
      np.testing.assert_array_equal(shown, enlarged(copies[row, copy]))
    # The original stands somewhere to the left of the copies.
    left_part = pixels[top : top + height, : sheet.width - 3 * (width + 4)]
    starts = range(left_part.shape[1] - width + 1)
    expected = enlarged(originals[row])
    assert any(np.array_equal(left_part[:, s : s + width], expected) for s in starts)


def test_sheet_shows_captions():
  """The caption of each row is written before it: another caption changes that row alone."""
  copies = _PHOTOS[:4].reshape(2, 2, 10, 14, 3)
  one, two = (
    np.asarray(contact_sheet.draw_contact_sheet(_PHOTOS[:2], copies, ['tower', word]))
    for word in ('tulip', 'ivory')
  )
  changed = np.flatnonzero(np.any(one != two, axis=(1, 2)))
  assert len(changed) and changed.min() >= one.shape[0] - 64


@pytest.mark.parametrize('placement', PLACEMENTS)
def test_notes_have_the_mixing_weights(placement):
  """Under each copy stand both classes with their shares, which sum to 100 %."""
  multiplicity = Multiplicity(9, 4, 5, 0, placement)
  found = _collect(multiplicity, 4, Mixing(mixup=0.5, cutmix=0.25))
  names = tuple('abcdefghij')
  notes = contact_sheet.mixture_notes(found, names)
  for row, label in enumerate(found['label']):
    for copy, lines in enumerate(notes[row]):
      weight, partner = found['mix_weight'][row, copy], found['partner_label'][row, copy]
      expected = [f'{100 * weight:.0f}% {names[label]}']
      if weight < 1:
        expected.append(f'{100 * (1 - weight):.0f}% {names[partner]}')
      assert lines == expected or weight == 0
  assert any(len(lines) == 1 for row in notes for lines in row)
  assert any(len(lines) == 2 for row in notes for lines in row)
  assert contact_sheet.mixture_notes(_collect(multiplicity, 4), names) is None


def test_sheet_shows_notes():
  """A note is written under its own copy: another one changes the sheet there alone."""
  copies = _PHOTOS[:4].reshape(2, 2, 10, 14, 3)

  def sheet(note):
    notes = [[['100% a'], ['100% a']], [['60% b', '40% c'], ['70% b', note]]]
    return np.asarray(contact_sheet.draw_contact_sheet(_PHOTOS[:2], copies, ['x', 'y'], notes))

  one, two = sheet('30% d'), sheet('30% e')
  changed = np.argwhere(np.any(one != two, axis=-1))
  height, width = one.shape[:2]
  assert len(changed)
  assert changed[:, 0].min() >= height - 2 * 11 - 4 and changed[:, 1].min() >= width - 14 * 6 - 4
