"""RandAugment: each operation against plain NumPy and Pillow, its habits, and what is drawn."""

import io
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from benchmarks import plain_randaugment
from nfnets_augmult.data import loading, randaugment, randaugment_ops
from nfnets_augmult.data.randaugment import OPERATIONS, RandAugment
from nfnets_augmult.ops import addressed_random
from tests import real_images, shared_data

_MAGNITUDES = (0, 3, 5, 7, 10, 15)
_PHOTOS = real_images.photos(4, 41, 58)


def _apply(photo, operation, magnitude, *, negate=False, centre=(0.5, 0.5), behaviour='reference'):
  image = tf.constant(photo)
  function = randaugment_ops.make_operation(operation, image, magnitude, behaviour)
  return function(image, tf.constant(negate), tf.constant(centre)).numpy()


def _seeds(count):
  numbers = np.arange(count, dtype=np.uint32)
  key = addressed_random.key_for(0, 'test')
  return np.stack(addressed_random.threefry2x32(key, (numbers, numbers)), axis=-1)


# The reference in plain NumPy.


def _blend(first, second, factor):
  first, second = (np.asarray(a).astype(np.float32) for a in (first, second))
  mixed = first + np.float32(factor) * (second - first)
  return np.clip(mixed, 0, 255).astype(np.uint8)


def _auto_contrast(channel):
  low, high = np.float32(channel.min()), np.float32(channel.max())
  scale = np.float32(255) / (high - low)
  return np.clip(channel * scale - low * scale, 0, 255).astype(np.uint8)


def _equalize(channel):
  histogram, _ = np.histogram(channel, bins=256, range=(0, 256))
  step = (histogram.sum() - histogram[channel.max()]) // 255
  if step == 0:
    return channel
  table, total = [], step // 2
  for count in histogram:
    table.append(min(total // step, 255))
    total += count
  return np.array(table, np.uint8)[channel]


def _by_channel(function, photo):
  return np.stack([function(photo[..., channel]) for channel in range(3)], axis=-1)


def _sample(photo, x_of, y_of):
  """Nearest neighbour, pixel after pixel: halves are rounded away from 0, outside is 128."""
  height, width, _ = photo.shape
  result = np.full_like(photo, 128)
  x_of, y_of = np.float32(x_of), np.float32(y_of)
  for y, x in itertools.product(range(height), range(width)):
    place = []
    for a, b, c in (x_of, y_of):
      value = float(a * np.float32(x) + b * np.float32(y) + c)
      place.append(int(math.copysign(math.floor(abs(value) + 0.5), value)))
      if value <= -0.5:
        place[-1] = -1
    if 0 <= place[0] < width and 0 <= place[1] < height:
      result[y, x] = photo[place[1], place[0]]
  return result


def _rotate(photo, degrees):
  sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
  x_middle, y_middle = (photo.shape[1] - 1) / 2, (photo.shape[0] - 1) / 2
  x_of = (cosine, -sine, x_middle - cosine * x_middle + sine * y_middle)
  y_of = (sine, cosine, y_middle - sine * x_middle - cosine * y_middle)
  return _sample(photo, x_of, y_of)


def _grey(photo):
  red, green, blue = (photo[..., i] * np.float32(1 / 255) for i in range(3))
  weighted = red * np.float32(0.2989) + green * np.float32(0.5870) + blue * np.float32(0.1140)
  return (weighted * np.float32(255.5)).astype(np.uint8)[..., np.newaxis]


def _sharpness(photo, factor, rounded_down):
  """With the weighted means that are whole numbers as they are, or 1 less."""
  values = photo.astype(int)
  total = 4 * values[1:-1, 1:-1]
  for top, left in itertools.product(range(3), range(3)):
    total = total + values[top : top + photo.shape[0] - 2, left : left + photo.shape[1] - 2]
  smooth = photo.copy()
  smooth[1:-1, 1:-1] = np.maximum(total - rounded_down, 0) // 13
  return _blend(smooth, photo, factor)


def _reference(photo, operation, magnitude, sign):
  level = magnitude / 10
  factor = 1.8 * level + 0.1
  shift, shear = sign * 100 * level, sign * 0.3 * level
  bits = max(int(4 * level), 1)
  threshold = np.uint8(int(256 * level) % 256)
  return {
    'AutoContrast': lambda: _by_channel(_auto_contrast, photo),
    'Equalize': lambda: _by_channel(_equalize, photo),
    'Invert': lambda: 255 - photo,
    'Rotate': lambda: _rotate(photo, sign * 30 * level),
    'Posterize': lambda: photo // 2 ** (8 - bits) * 2 ** (8 - bits),
    'Solarize': lambda: np.where(photo < threshold, photo, 255 - photo),
    'Color': lambda: _blend(_grey(photo), photo, factor),
    'Contrast': lambda: _blend(min(photo[..., 0].size // 256, 255), photo, factor),
    'Brightness': lambda: _blend(0, photo, factor),
    'ShearX': lambda: _sample(photo, (1, shear, 0), (0, 1, 0)),
    'ShearY': lambda: _sample(photo, (1, 0, 0), (shear, 1, 0)),
    'TranslateX': lambda: _sample(photo, (1, 0, shift), (0, 1, 0)),
    'TranslateY': lambda: _sample(photo, (1, 0, 0), (0, 1, shift)),
    'SolarizeAdd': lambda: np.where(
      photo < 128, np.minimum(photo.astype(int) + int(110 * level), 255), photo
    ),
  }[operation]()


@pytest.mark.parametrize('operation', [o for o in OPERATIONS if o not in ('Sharpness', 'Cutout')])
def test_reference_equals_plain_numpy(operation):
  """Bit for bit at magnitudes in and beyond the scale; a rotation may differ in 1 pixel of 1000."""
  for magnitude, photo, sign in zip(
    _MAGNITUDES, itertools.cycle(_PHOTOS), itertools.cycle([1, -1])
  ):
    got = _apply(photo, operation, magnitude, negate=sign < 0)
    expected = _reference(photo, operation, magnitude, sign)
    assert got.dtype == np.uint8
    # Sines of float32 are not the same everywhere, so what is next to a half may go either way.
    allowed = 1e-3 if operation == 'Rotate' else 0
    assert np.any(got != expected, axis=-1).mean() <= allowed, magnitude


@pytest.mark.parametrize('magnitude', _MAGNITUDES)
def test_reference_sharpness(magnitude):
  """Blends with the smoothed image; a weighted mean that is whole may come out 1 lower.

  The convolution multiplies by thirteenths in float32, so which of them do depends on its order.
  """
  for photo in _PHOTOS:
    got = _apply(photo, 'Sharpness', magnitude)
    either = [_sharpness(photo, 0.18 * magnitude + 0.1, down) for down in (0, 1)]
    assert np.all((got == either[0]) | (got == either[1]))
    assert np.mean(got != either[0]) < 0.08  # one mean in thirteen is whole
    border = np.ones(photo.shape[:2], bool)
    border[1:-1, 1:-1] = False
    np.testing.assert_array_equal(got[border], photo[border])


@pytest.mark.parametrize('behaviour', randaugment.BEHAVIOURS)
@pytest.mark.parametrize(('row', 'column'), [(0, 0), (20, 30), (40, 57), (3, 55)])
def test_cutout(behaviour, row, column):
  """Rows and columns from centre - 20 to centre + 19 become 128 where they are in the image."""
  photo = _PHOTOS[0]
  centre = np.float32([(row + 0.5) / 41, (column + 0.5) / 58])
  got = _apply(photo, 'Cutout', 5, centre=centre, behaviour=behaviour)
  expected = photo.copy()
  expected[max(row - 20, 0) : row + 20, max(column - 20, 0) : column + 20] = 128
  np.testing.assert_array_equal(got, expected)


def test_the_centre_of_cutout_is_in_the_image():
  """Also at the greatest number that is drawn, for sizes where it could round up to the edge."""
  largest = np.float32(1) - np.float32(2**-24)
  for size in (3, 63, 64, 65, 224, 577, 4095):
    photo = np.zeros((size, size, 3), np.uint8)
    painted = _apply(photo, 'Cutout', 0.25, centre=np.float32([largest, largest]))[..., 0] == 128
    assert painted[-1, -1] and painted.sum() == 4  # of the side 2 x 1


# The habits of the published code.


def test_solarize_threshold_wraps():
  """At magnitude 10 the threshold 256 becomes 0: full inversion. At 15, 384 becomes 128."""
  photo = _PHOTOS[0]
  np.testing.assert_array_equal(_apply(photo, 'Solarize', 10), 255 - photo)
  from_128 = np.where(photo < 128, photo, 255 - photo)
  np.testing.assert_array_equal(_apply(photo, 'Solarize', 15), from_128)
  np.testing.assert_array_equal(_apply(photo, 'Solarize', 5), from_128)


@pytest.mark.parametrize(
  ('height', 'width', 'grey'), [(224, 224, 196), (16, 32, 2), (300, 300, 255)]
)
def test_contrast_blends_with_the_number_of_pixels(height, width, grey):
  """At magnitude 0, 0.9 of the grey is mixed with 0.1 of the image, whatever the image's mean."""
  got = _apply(np.zeros((height, width, 3), np.uint8), 'Contrast', 0)
  assert np.all(got == int(0.9 * grey))


def test_posterize_keeps_more_bits_at_higher_magnitudes():
  """4 values per 10 of magnitude: 2, 4 and 6 bits at 5, 10 and 15; at least 1 and at most 8."""
  ramp = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
  for magnitude, bits in ((0, 1), (2, 1), (5, 2), (10, 4), (15, 6), (20, 8), (25, 8)):
    assert len(np.unique(_apply(ramp, 'Posterize', magnitude))) == 2**bits


@pytest.mark.parametrize('behaviour', randaugment.BEHAVIOURS)
def test_positive_angles_turn_counter_clockwise(behaviour):
  """A mark at the top moves to the left at +30 degrees, and to the right at -30."""
  photo = np.zeros((61, 61, 3), np.uint8)
  photo[2:7, 28:33] = 255
  for negate, direction in ((False, -1), (True, 1)):
    turned = _apply(photo, 'Rotate', 10, negate=negate, behaviour=behaviour)
    rows, columns = np.nonzero((turned == 255).all(axis=-1))
    # The mark is 26 from the middle: 13 = 26 sin 30 degrees to the side.
    assert abs(columns.mean() - (30 + direction * 13)) < 0.5
    assert abs(rows.mean() - (30 - 26 * math.cos(math.pi / 6))) < 0.5


@pytest.mark.parametrize('behaviour', randaugment.BEHAVIOURS)
@pytest.mark.parametrize(
  'operation', ['Rotate', 'ShearX', 'ShearY', 'TranslateX', 'TranslateY', 'Cutout']
)
def test_empty_pixels_are_128(operation, behaviour):
  """A black image gets pixels of 128 and of no other value."""
  got = _apply(np.zeros((40, 40, 3), np.uint8), operation, 3, behaviour=behaviour)
  assert set(np.unique(got)) == {0, 128}


@pytest.mark.parametrize('operation', ['Color', 'Contrast', 'Brightness', 'Sharpness'])
@pytest.mark.parametrize('behaviour', randaugment.BEHAVIOURS)
def test_a_factor_of_one_changes_nothing(operation, behaviour):
  """At magnitude 5."""
  got = _apply(_PHOTOS[0], operation, 5, behaviour=behaviour)
  np.testing.assert_array_equal(got, _PHOTOS[0])


@pytest.mark.parametrize('operation', ['AutoContrast', 'Equalize'])
@pytest.mark.parametrize('behaviour', randaugment.BEHAVIOURS)
def test_one_colour_stays(operation, behaviour):
  """A channel of a single value cannot be stretched; neither can any channel of a plain image."""
  photo = _PHOTOS[0].copy()
  photo[..., 1] = 77
  got = _apply(photo, operation, 10, behaviour=behaviour)
  assert np.all(got[..., 1] == 77) and np.any(got[..., 0] != photo[..., 0])


# Pillow.


def _imagenet_photos(count):
  """The first ImageNet photographs, of all sizes."""
  source = loading.load_source('imagenet2012', split='validation', data_dir=shared_data.tfds_dir())
  for index in range(count):
    encoded, _ = source.read(index)
    yield Image.open(io.BytesIO(encoded)).convert('RGB')


def _pillow(photo, operation, magnitude, sign):
  level = magnitude / 10
  factor = 1.8 * level + 0.1
  shear, shift = sign * 0.3 * level, sign * 100 * level
  grey = {'resample': Image.Resampling.NEAREST, 'fillcolor': (128, 128, 128)}

  def affine(*matrix):
    return photo.transform(photo.size, Image.Transform.AFFINE, matrix, **grey)

  return {
    'AutoContrast': lambda: ImageOps.autocontrast(photo),
    'Equalize': lambda: ImageOps.equalize(photo),
    'Invert': lambda: ImageOps.invert(photo),
    'Rotate': lambda: photo.rotate(sign * 30 * level, **grey),
    'Posterize': lambda: ImageOps.posterize(photo, max(int(4 * level), 1)),
    'Solarize': lambda: ImageOps.solarize(photo, int(256 * level)),
    'Color': lambda: ImageEnhance.Color(photo).enhance(factor),
    'Contrast': lambda: ImageEnhance.Contrast(photo).enhance(factor),
    'Brightness': lambda: ImageEnhance.Brightness(photo).enhance(factor),
    'Sharpness': lambda: ImageEnhance.Sharpness(photo).enhance(factor),
    'ShearX': lambda: affine(1, shear, 0, 0, 1, 0),
    'ShearY': lambda: affine(1, 0, 0, shear, 1, 0),
    'TranslateX': lambda: affine(1, 0, shift, 0, 1, 0),
    'TranslateY': lambda: affine(1, 0, 0, 0, 1, shift),
  }[operation]()


@pytest.mark.parametrize('operation', [o for o in OPERATIONS if o not in ('Cutout', 'SolarizeAdd')])
def test_pil_equals_pillow(operation):
  """Bit for bit on photographs of ImageNet in their own sizes."""
  photos = _imagenet_photos(10)
  settings = itertools.cycle(itertools.product(_MAGNITUDES, (1, -1)))
  for photo, (magnitude, sign) in zip(photos, settings, strict=False):
    got = _apply(np.asarray(photo), operation, magnitude, negate=sign < 0, behaviour='pil')
    expected = np.asarray(_pillow(photo, operation, magnitude, sign))
    np.testing.assert_array_equal(got, expected, err_msg=f'{photo.size} {magnitude} {sign}')


# Layers.


def _function(layers_fn, recipe, dynamic=False):
  """`layers_fn` as a graph, for images of any size or of one."""
  shape = [None, None, 3] if dynamic else _PHOTOS.shape[1:]
  signature = [
    tf.TensorSpec(shape, tf.uint8),
    tf.TensorSpec([recipe.layers], tf.int32),
    tf.TensorSpec([recipe.layers], tf.bool),
    tf.TensorSpec([recipe.layers, 2], tf.float32),
  ]
  return tf.function(lambda *arguments: layers_fn(*arguments, recipe), input_signature=signature)


@pytest.mark.parametrize(('layers', 'magnitude'), [(1, 2), (1, 5), (2, 10), (1, 15)])
def test_plain_implementation_gives_the_same_pixels(layers, magnitude):
  """Every operation, both signs, then random ones: the benchmark compares like with like."""
  recipe = RandAugment(layers, magnitude)
  ours = _function(randaugment_ops.apply_layers, recipe)
  plain = _function(plain_randaugment.apply_layers, recipe)
  draws = randaugment.draw(_seeds(64), recipe)
  for number in range(16):
    draws.operation[2 * number : 2 * number + 2, 0] = number
    draws.negate[2 * number : 2 * number + 2, 0] = [False, True]
  for number, drawn in enumerate(zip(*draws, strict=True)):
    photo = _PHOTOS[number % len(_PHOTOS)]
    np.testing.assert_array_equal(ours(photo, *drawn), plain(photo, *drawn), err_msg=str(drawn))


@pytest.mark.extended
@pytest.mark.parametrize('behaviour', randaugment.BEHAVIOURS)
def test_eager_equals_graph_equals_tf_data(behaviour):
  """Also where the size is not known beforehand; the operations follow one another."""
  recipe = RandAugment(2, 10, behaviour)
  draws = randaugment.draw(_seeds(30), recipe)
  photos = _PHOTOS[np.arange(30) % len(_PHOTOS)]
  static, dynamic = (_function(randaugment_ops.apply_layers, recipe, d) for d in (False, True))
  samples = tf.data.Dataset.from_tensor_slices((photos, *draws))
  samples = samples.map(lambda *arguments: randaugment_ops.apply_layers(*arguments, recipe))
  assert samples.element_spec.shape == photos.shape[1:]
  rows = zip(photos, *draws, samples.as_numpy_iterator(), strict=True)
  for photo, operation, negate, centre, from_data in rows:
    expected = photo
    for place, sign, middle in zip(operation, negate, centre, strict=True):
      expected = _apply(
        expected, OPERATIONS[place], 10, negate=sign, centre=middle, behaviour=behaviour
      )
    for function in (static, dynamic):
      np.testing.assert_array_equal(function(photo, operation, negate, centre), expected)
    np.testing.assert_array_equal(from_data, expected)


def test_the_graph_has_one_case_per_layer():
  """And no other conditional."""
  recipe = RandAugment(3, 10)
  graph = _function(randaugment_ops.apply_layers, recipe).get_concrete_function().graph
  kinds = [node.type for node in graph.get_operations()]
  assert sum(kind in ('Case', 'StatelessCase') for kind in kinds) == 3
  assert not any(kind in ('If', 'StatelessIf', 'While', 'StatelessWhile') for kind in kinds)


# Draws.


def test_draws_are_uniform_and_independent():
  """Operation and sign, operations of two layers, and places: chi-square, 40,000 seeds."""
  draws = randaugment.draw(_seeds(40_000), RandAugment(3))
  joint = np.bincount(draws.operation[:, 0] * 2 + draws.negate[:, 0], minlength=32)
  pairs = np.bincount(draws.operation[:, 1] * 16 + draws.operation[:, 2], minlength=256)
  tenths = (draws.centre[:, 2] * 10).astype(int)
  places = np.bincount(tenths[:, 0] * 10 + tenths[:, 1], minlength=100)
  for counts, kinds in ((joint, 32), (pairs, 256), (places, 100)):
    assert len(counts) == kinds
    assert stats.chisquare(counts).pvalue > 1e-3
  assert draws.centre.min() >= 0 and draws.centre.max() < 1


def test_draws_of_a_layer_do_not_depend_on_the_number_of_layers():
  """Nor on magnitude and behaviour."""
  few = randaugment.draw(_seeds(50), RandAugment(2, 5))
  many = randaugment.draw(_seeds(50), RandAugment(6, 15, 'pil'))
  for short, long in zip(few, many, strict=True):
    np.testing.assert_array_equal(short, long[:, :2])
  assert [array.dtype for array in few] == [np.int32, bool, np.float32]
  assert [array.shape for array in few] == [(50, 2), (50, 2), (50, 2, 2)]


# Settings.


def test_off_is_the_identity():
  """No layers by default, which leaves an image alone; grey ones too."""
  off = RandAugment()
  assert off.layers == 0
  grey = tf.constant(_PHOTOS[0, ..., :1])
  draws = randaugment.draw(_seeds(1), off)
  np.testing.assert_array_equal(
    randaugment_ops.apply_layers(grey, *(array[0] for array in draws), off), grey
  )


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (dict(layers=-1), '^layers=-1 must be a whole number from 0'),
    (dict(magnitude=-0.5), '^magnitude=-0.5 must be a number'),
    (dict(magnitude=math.nan), '^magnitude=nan must be a number'),
    (dict(behaviour='timm'), "^behaviour='timm' must be one of reference, pil"),
  ],
)
def test_refuses(arguments, message):
  """Impossible settings are refused by name and value."""
  with pytest.raises(ValueError, match=message):
    RandAugment(**arguments)


def test_refuses_grey_images():
  with pytest.raises(ValueError, match=r'colour images, not for 1 channel.* with layers=0'):
    _apply(_PHOTOS[0, ..., :1], 'Invert', 10)
