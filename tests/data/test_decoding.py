"""Reading no more of an image than needed, the two evaluation crops, and scaling."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from nfnets_augmult.data import decoding, loading, pipeline
from nfnets_augmult.data.decoding import ImageReader, ReadOptions
from nfnets_augmult.data.evaluation_crop import EvaluationCrop
from nfnets_augmult.data.resizing import resize_boxes
from tests import real_images, shared_data


class OneImage:
  """A source of one encoded image."""

  num_images, class_names, description = 1, ('a',), 'one'

  def __init__(self, pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, **options)
    self.encoded = file.getvalue()

  def read(self, index):
    del index
    return self.encoded, 0

  def image_name(self, index):
    return f'image {index}'


def _jpeg(height, width):
  return OneImage(real_images.photos(2, height, width)[1], format='JPEG', quality=95)


def _cut(pixels, box):
  top, left, height, width = box
  return pixels[top : top + height, left : left + width]


def _read(source, boxes, size, **options):
  reader = ImageReader(source, ReadOptions(image_size=size, **options))
  return reader.read(0, lambda height, width: np.array(boxes, np.int32), size)


def test_only_the_window_is_decoded():
  """Of a JPEG only what covers all parts is decoded, with the pixels of the whole."""
  source = _jpeg(200, 300)
  whole = tf.io.decode_jpeg(source.encoded, channels=3).numpy()
  boxes = [[40, 60, 50, 80], [30, 100, 90, 60]]
  read = _read(source, boxes, 64)
  assert read.pixels.shape == (90, 100, 3)
  for box, box_in_window in zip(boxes, read.boxes, strict=True):
    expected = _cut(whole, box).astype(int)
    difference = np.abs(_cut(read.pixels, box_in_window) - expected)
    # Chroma at the left and right edge of the window lacks its neighbours.
    assert difference[:, 2:-2].max() == 0 and difference.max() < 40


def test_jpeg_size():
  """The size in the header is that of the decoded image; what is no JPEG has none."""
  source = loading.load_source('imagenet2012', split='train', data_dir=shared_data.tfds_dir())
  for index in range(source.num_images):
    encoded, _ = source.read(index)
    assert decoding.jpeg_size(encoded) == tuple(tf.io.extract_jpeg_shape(encoded).numpy()[:2])
  for cut in (0, 2, 10, 100):
    assert decoding.jpeg_size(encoded[:cut]) is None
  progressive = OneImage(real_images.photos(1, 30, 50)[0], format='JPEG', progressive=True)
  assert decoding.jpeg_size(progressive.encoded) == (30, 50)
  assert decoding.jpeg_size(OneImage(real_images.photos(1, 9, 9)[0], format='PNG').encoded) is None


@pytest.mark.parametrize(
  ('side', 'size', 'denominator'), [(399, 100, 1), (400, 100, 2), (799, 100, 2), (1600, 100, 8)]
)
def test_scale_denominator(side, size, denominator):
  """Twice the target is always left, and 8 is the end."""
  boxes = np.array([[0, 0, side, 5 * side], [3, 3, 10 * side, side]])
  assert decoding.scale_denominator(boxes, size) == denominator


def test_large_jpegs_are_decoded_smaller():
  """A photograph of many times the pixels needed is decoded at a quarter, its parts in place."""
  photo = Image.fromarray(real_images.photos(2, 90, 120)[1]).resize((1201, 902))
  source = OneImage(np.asarray(photo), format='JPEG', quality=95)
  boxes = [[0, 0, 902, 1201], [100, 201, 700, 900]]
  small = _read(source, boxes, 64)
  large = _read(source, boxes, 64, jpeg_scaling=False)
  assert small.pixels.shape == (226, 301, 3) and large.pixels.shape == (902, 1201, 3)
  np.testing.assert_array_equal(small.boxes, [[0, 0, 226, 301], [25, 50, 175, 226]])
  resized = [
    resize_boxes(tf.constant(r.pixels), tf.constant(r.boxes), None, size=64, antialias=True)
    for r in (small, large)
  ]
  difference = np.abs(resized[0].numpy().astype(float) - resized[1].numpy())
  assert difference.mean() < 2.5


def test_truncated_jpeg_fails_wherever_the_window_is():
  """A file that lacks its end is bad even where the part that is wanted would decode."""
  source = _jpeg(200, 300)
  source.encoded = source.encoded[: len(source.encoded) * 3 // 4]
  with pytest.raises(ValueError, match='image image 0 does not decode'):
    _read(source, [[0, 0, 20, 20]], 16)
  skipped = _read(source, [[0, 0, 20, 20]], 16, on_bad_image='skip')
  assert skipped.mask == 0 and not skipped.pixels.any()


@pytest.mark.parametrize('antialias', [False, True])
def test_resize_boxes(antialias):
  """Parts are those of TensorFlow's bicubic filter, rounded and cut off; flips mirror them."""
  # Black and white points, where the filter overshoots both ends.
  photo = 255 * np.random.default_rng(0).integers(0, 2, (90, 120, 3), dtype=np.uint8)
  boxes = np.array([[0, 0, 90, 120], [10, 20, 50, 33], [5, 5, 8, 9]], np.int32)
  flips = np.array([False, True, False])
  actual = resize_boxes(
    tf.constant(photo), tf.constant(boxes), tf.constant(flips), size=40, antialias=antialias
  ).numpy()
  for copy, (top, left, height, width), flip in zip(actual, boxes, flips, strict=True):
    part = photo[top : top + height, left : left + width]
    scaled = tf.image.resize(part, [40, 40], 'bicubic', antialias=antialias).numpy()
    scaled = np.clip(scaled[:, ::-1] if flip else scaled, 0, 255)
    assert np.abs(copy - scaled).max() <= 0.5 + 1e-3


def _evaluate(photo, crop, size):
  source = OneImage(photo, format='PNG')
  batches = pipeline.evaluation_batches(
    source, batch_size=1, crop=crop, read_options=ReadOptions(image_size=size)
  )
  return next(batches)['image'][0]


@pytest.mark.parametrize('shape', [(100, 150), (151, 100), (64, 64), (40, 200)])
def test_crop_then_resize(shape):
  """The published central crop: size / (size + 32) of the shorter side, then bicubic."""
  photo = real_images.photos(2, *shape)[1]
  size = 48
  side = int(min(shape) * size / (size + 32))
  top, left = ((length - side + 1) // 2 for length in shape)
  part = photo[top : top + side, left : left + side]
  expected = np.clip(tf.image.resize(part, [size, size], 'bicubic').numpy(), 0, 255)
  actual = _evaluate(photo, EvaluationCrop(), size)
  assert np.abs(actual - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize('shape', [(100, 150), (151, 100), (64, 64)])
def test_resize_then_crop(shape):
  """The whole image becomes a square of size + 32, of which the centre is kept."""
  photo = real_images.photos(2, *shape)[1]
  size = 48
  scaled = tf.image.resize(photo, [size + 32, size + 32], 'bicubic').numpy()
  expected = np.clip(scaled[16:-16, 16:-16], 0, 255)
  actual = _evaluate(photo, EvaluationCrop('resize_then_crop'), size)
  assert np.abs(actual - expected).max() <= 0.5 + 1e-3


def test_evaluation_crop_refuses():
  """Unknown crops and negative margins are named."""
  with pytest.raises(
    ValueError, match=r"evaluation\.crop='centre' must be one of crop_then_resize"
  ):
    EvaluationCrop('centre')
  with pytest.raises(ValueError, match=r'evaluation\.crop_padding=-1'):
    EvaluationCrop(padding=-1)


def test_real_jpegs_of_imagenet():
  """All images of the sample decode, close to what Pillow makes of them."""
  folder = shared_data.tfds_dir()
  source = loading.load_source('imagenet2012', split='validation', data_dir=folder)
  reader = ImageReader(source, ReadOptions(image_size=32, jpeg_scaling=False))
  for index in range(0, 64, 8):
    read = reader.read(index, lambda height, width: np.array([[0, 0, height, width]]), 32)
    expected = np.asarray(Image.open(io.BytesIO(source.read(index)[0])).convert('RGB'))
    assert np.abs(read.pixels.astype(int) - expected).mean() < 2
  assert not reader.bad_images
