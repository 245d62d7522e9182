"""The Inception crop: ranges, law, fallback, and independence of its draws."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from nfnets_augmult.data import inception_crop
from nfnets_augmult.data.inception_crop import InceptionCrop

_CROP = InceptionCrop()


def _seeds(count):
  numbers = np.arange(count, dtype=np.uint32)
  return np.stack([numbers, numbers[::-1]], axis=-1)


def _boxes(count, height, width, crop=_CROP):
  return inception_crop.boxes(inception_crop.draw(_seeds(count), crop).uniform, height, width, crop)


@pytest.mark.parametrize('shape', [(375, 500), (500, 333), (95, 140), (32, 32), (1836, 1200)])
def test_boxes_are_in_range(shape):
  """Every box lies in the image, and its area and aspect ratio are those of the recipe."""
  height, width = shape
  top, left, tall, wide = _boxes(5000, height, width).T
  assert min(top.min(), left.min()) == 0
  assert (top + tall).max() == height and (left + wide).max() == width
  area = tall * wide / (height * width)
  assert area.min() >= 0.08 and area.max() <= 1
  # Half a pixel of rounding.
  assert np.all((wide + 0.5) / tall >= 3 / 4) and np.all((wide - 0.5) / tall <= 4 / 3)
  assert area.min() < 0.1 and area.max() > 0.7


def test_law_is_that_of_tensorflow():
  """Areas, shapes and places are distributed as those of TensorFlow's own function."""
  height, width = 375, 500
  ours = _boxes(4000, height, width)

  def sample(seed):
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
      [height, width, 3],
      tf.zeros([1, 0, 4]),
      seed,
      min_object_covered=0.0,
      aspect_ratio_range=(3 / 4, 4 / 3),
      area_range=(0.08, 1.0),
      max_attempts=10,
      use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], 0)

  # Within a graph, since 4,000 calls from Python take seconds.
  seeds = tf.stack([tf.range(4000), tf.ones(4000, tf.int32)], 1)
  theirs = tf.function(lambda seeds: tf.map_fn(sample, seeds))(seeds).numpy()
  for measure in (
    lambda box: box[:, 2] * box[:, 3],
    lambda box: box[:, 3] / box[:, 2],
    lambda box: box[:, 0] + box[:, 2] / 2,
    lambda box: box[:, 1],
  ):
    assert stats.ks_2samp(measure(ours), measure(theirs)).pvalue > 1e-3


def test_place_is_uniform():
  """Of boxes of one size, every place that they fit in is equally frequent."""
  crop = InceptionCrop(area=(0.25, 0.25), aspect=(1.0, 1.0))
  box = _boxes(40_000, 20, 20, crop)
  np.testing.assert_array_equal(box[:, 2:], 10)
  for corner in (box[:, 0], box[:, 1]):
    assert stats.chisquare(np.bincount(corner, minlength=11)).pvalue > 1e-3


def test_images_that_no_box_fits():
  """A strip that is too long for any box gets the largest centred one of permitted shape."""
  np.testing.assert_array_equal(_boxes(3, 10, 1000), [[0, 493, 10, 13]] * 3)
  np.testing.assert_array_equal(_boxes(3, 1000, 30), [[480, 0, 40, 30]] * 3)
  np.testing.assert_array_equal(_boxes(3, 1, 1), [[0, 0, 1, 1]] * 3)


def test_a_later_attempt_counts():
  """Where the first attempt fails the second is taken."""
  crop = InceptionCrop(area=(0.5, 1.0), aspect=(0.5, 2.0))
  uniform = np.full((1, inception_crop.MAX_ATTEMPTS, 4), 0.5, np.float32)
  uniform[0, 0, 0] = 0.0  # aspect 0.5 does not reach half of an image that is twice as wide
  expected = inception_crop.boxes(uniform[:, 1:2], 100, 200, crop)
  np.testing.assert_array_equal(inception_crop.boxes(uniform, 100, 200, crop), expected)
  assert not np.array_equal(inception_crop.boxes(uniform[:, :1], 100, 200, crop), expected)


def test_flip():
  """Half of the copies are mirrored, none where it is off, and the boxes stay."""
  on, off = (
    inception_crop.draw(_seeds(20_000), InceptionCrop(flip=flip)) for flip in (True, False)
  )
  assert stats.binomtest(int(on.flip.sum()), 20_000).pvalue > 1e-3
  assert not off.flip.any()
  np.testing.assert_array_equal(on.uniform, off.uniform)


def test_draws_keep_leading_axes():
  """Seeds [images, copies, 2] give the draws that each would get alone."""
  seeds = _seeds(12).reshape(3, 4, 2)
  grid, flat = (inception_crop.draw(s, InceptionCrop()) for s in (seeds, seeds.reshape(12, 2)))
  np.testing.assert_array_equal(grid.uniform.reshape(flat.uniform.shape), flat.uniform)
  np.testing.assert_array_equal(grid.flip.ravel(), flat.flip)
  numbers = flat.uniform.reshape(12, -1)
  assert len(np.unique(numbers)) == numbers.size


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(area=(0.0, 1.0)), r'^area=\(0.0, 1.0\)'),
    (dict(area=(0.5, 0.1)), '^area='),
    (dict(area=(0.5, 1.1)), '^area='),
    (dict(aspect=(2.0, 1.0)), '^aspect='),
    (dict(aspect=(1.0,)), '^aspect='),
  ],
)
def test_refuses(options, message):
  """Ranges that are none are named."""
  with pytest.raises(ValueError, match=message):
    InceptionCrop(**options)


def test_boxes_of_several_images_are_those_of_each():
  """Long, small and ordinary ones, some of which get the central box."""
  sizes = np.array([[300, 400], [1, 1], [10, 700], [501, 3], [64, 64]])
  crop = InceptionCrop(area=(0.5, 1.0))
  uniform = inception_crop.draw(_seeds(20), crop).uniform.reshape(5, 4, -1, 4)
  together = inception_crop.boxes(uniform, *sizes.T, crop)
  assert together.shape == (5, 4, 4) and together.dtype == np.int32
  for place, (height, width) in enumerate(sizes.tolist()):
    alone = inception_crop.boxes(uniform[place], height, width, crop)
    assert alone.dtype == np.int32
    np.testing.assert_array_equal(together[place], alone)
  # Half of 10 x 700 pixels has no aspect ratio in range: 13 is 4/3 of 10.
  np.testing.assert_array_equal(together[2], np.tile([0, 343, 10, 13], (4, 1)))
