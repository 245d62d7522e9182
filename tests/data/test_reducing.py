"""Smaller data sets: classes are kept by name with their images, pixels are means of squares."""

import numpy as np
import pytest

from nfnets_augmult.data import reducing
from nfnets_augmult.data.sources import ArraySource


def _source(height=6, width=6):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (20, height, width, 3), np.uint8)
  return ArraySource(images, np.arange(20, dtype=np.int32) % 4, ('a', 'b', 'c', 'd'), 'x/train')


def test_classes_are_kept_with_their_images():
  """In the order of the source; labels count the names as they are given."""
  source = _source()
  kept = reducing.keep_classes(source, ('d', 'b'))
  np.testing.assert_array_equal(kept.images, source.images[1::2])
  np.testing.assert_array_equal(kept.labels, [1, 0] * 5)
  assert kept.labels.dtype == np.int32
  assert (kept.class_names, kept.description) == (('d', 'b'), 'x/train')


@pytest.mark.parametrize(
  ('names', 'message'),
  [
    (('a',), 'two classes or more'),
    (('a', 'b', 'a'), 'each once'),
    (('a', 'e'), r"x/train has no class 'e'; it has a, b, c, d$"),
  ],
)
def test_classes_that_do_not_fit_are_refused(names, message):
  """The message names the class."""
  with pytest.raises(ValueError, match=message):
    reducing.keep_classes(_source(), names)


@pytest.mark.parametrize('size', [1, 2, 3, 6])
def test_pixels_are_means_of_squares(size):
  """Rounded to the nearest, halves up; at full size nothing changes."""
  source = _source()
  small = reducing.shrink(source, size)
  k = 6 // size
  for y in range(size):
    for x in range(size):
      square = source.images[:, y * k : y * k + k, x * k : x * k + k].astype(np.float64)
      expected = np.floor(square.mean(axis=(1, 2)) + 0.5)
      np.testing.assert_array_equal(small.images[:, y, x], expected)
  assert small.images.dtype == np.uint8
  np.testing.assert_array_equal(small.labels, source.labels)


def test_halves_are_rounded_up():
  """0, 0, 1, 1 have the mean 0.5, which becomes 1."""
  images = np.array([0, 0, 1, 1], np.uint8).reshape(1, 2, 2, 1)
  source = ArraySource(images, np.zeros(1, np.int32), ('a', 'b'), 'x')
  assert reducing.shrink(source, 1).images.item() == 1


@pytest.mark.parametrize(('shape', 'size'), [((6, 6), 4), ((6, 6), 12), ((6, 6), -1), ((6, 3), 3)])
def test_sizes_that_do_not_fit_are_refused(shape, size):
  """No divisor, more pixels than there are, images that are not square."""
  with pytest.raises(ValueError, match=f'image_size={size}: images of x/train have'):
    reducing.shrink(_source(*shape), size)
