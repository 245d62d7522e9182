"""Reading no more of an image than needed, the two evaluation crops, and scaling."""

import functools
import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps, features

from nfnets_augmult.data import decoding, image_formats, loading, pipeline, sources
from nfnets_augmult.data.decoding import ImageReader, ReadOptions
from nfnets_augmult.data.evaluation_crop import EvaluationCrop
from nfnets_augmult.data.image_formats import DecodeError, DecodeRules
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
  encoded, _ = source.read(0)
  return reader.decode(0, encoded, lambda height, width: np.array(boxes, np.int32), size)


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


def test_jpeg_header():
  """The size in the header is that of the decoded image; what is cut off or no JPEG has none."""
  source = loading.load_source('imagenet2012', split='train', data_dir=shared_data.tfds_dir())
  for index in range(source.num_images):
    encoded, _ = source.read(index)
    header = image_formats.jpeg_header(encoded)
    assert header[:2] == tuple(tf.io.extract_jpeg_shape(encoded).numpy()[:2])


def test_jpeg_header_of_odd_files():
  """Progressive ones, padding between segments, and files cut off."""
  encoded = _jpeg(30, 50).encoded
  progressive = OneImage(real_images.photos(1, 30, 50)[0], format='JPEG', progressive=True)
  padded = encoded[:2] + b'\xff\xff\xff' + encoded[2:]
  for whole in (encoded, progressive.encoded, padded):
    assert image_formats.jpeg_header(whole)[:3] == (30, 50, 3)
  for cut in (0, 2, 10, 100):
    with pytest.raises(DecodeError, match='its header does not state a size'):
      image_formats.jpeg_header(encoded[:cut])


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
  with pytest.raises(
    ValueError, match='does not decode: image 0: it is cut off: the end of the JPEG is missing'
  ):
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


@pytest.mark.parametrize('kind', ['crop_then_resize', 'resize_then_crop'])
def test_centres_of_several_images(kind):
  """Are those of each by itself, whole numbers of pixels, and at least one."""
  heights, widths = np.array([300, 2, 1, 257]), np.array([401, 900, 1, 256])
  boxes = EvaluationCrop(kind).box(heights, widths, 48)
  assert boxes.shape == (4, 1, 4) and boxes.dtype == np.int32
  for found, height, width in zip(boxes, heights.tolist(), widths.tolist(), strict=True):
    side = max(1, min(height, width) * 48 // 80)
    expected = [(height - side + 1) // 2, (width - side + 1) // 2, side, side]
    expected = expected if kind == 'crop_then_resize' else [0, 0, height, width]
    np.testing.assert_array_equal(found, [expected])
    np.testing.assert_array_equal(EvaluationCrop(kind).box(height, width, 48), found)


def test_evaluation_crop_refuses():
  """Unknown crops and negative margins are named."""
  with pytest.raises(ValueError, match=r"^kind='centre' must be one of crop_then_resize"):
    EvaluationCrop('centre')
  with pytest.raises(ValueError, match=r'^padding=-1'):
    EvaluationCrop(padding=-1)


def test_real_jpegs_of_imagenet():
  """All images of the sample decode, close to what Pillow makes of them."""
  folder = shared_data.tfds_dir()
  source = loading.load_source('imagenet2012', split='validation', data_dir=folder)
  reader = ImageReader(source, ReadOptions(image_size=32, jpeg_scaling=False))
  for index in range(0, 64, 8):
    encoded, _ = source.read(index)
    read = reader.decode(
      index, encoded, lambda height, width: np.array([[0, 0, height, width]]), 32
    )
    expected = np.asarray(Image.open(io.BytesIO(encoded)).convert('RGB'))
    assert np.abs(read.pixels.astype(int) - expected).mean() < 2
  assert not reader.bad_images


_RULES = DecodeRules()
_ORIENTATION = 0x0112


def _encode(image, **options):
  content = io.BytesIO()
  image.save(content, **options)
  return content.getvalue()


def _photo(height=48, width=72):
  return Image.fromarray(real_images.photos(1, height, width)[0])


def _exif(orientation):
  exif = Image.Exif()
  exif[_ORIENTATION] = orientation
  return exif


class Encoded(OneImage):
  """A source of one encoded image, given as it is."""

  def __init__(self, encoded):
    self.encoded = encoded


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize(
  'kind', ['JPEG', 'PNG', 'WEBP', 'TIFF', *(['AVIF'] if features.check('avif') else [])]
)
def test_orientation(kind, orientation):
  """Every format is turned and mirrored as Pillow does it, and as it is stored if asked to be."""
  options = {'JPEG': {'quality': 95}, 'WEBP': {'lossless': True}}.get(kind, {})
  encoded = _encode(_photo(), format=kind, exif=_exif(orientation), **options)
  with Image.open(io.BytesIO(encoded)) as image:
    expected = np.asarray(ImageOps.exif_transpose(image).convert('RGB'), int)
  actual = decoding.decode(encoded, _RULES)
  assert actual.shape == expected.shape == ((72, 48, 3) if orientation > 4 else (48, 72, 3))
  assert np.abs(actual - expected).mean() < (2 if kind == 'JPEG' else 0.01)
  if kind != 'AVIF':  # which is turned where it is written
    stored = decoding.decode(encoded, DecodeRules(apply_orientation=False))
    assert np.abs(stored.astype(int) - np.asarray(_photo())).mean() < 5


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('size', [12, 64], ids=['scaled', 'window'])
def test_parts_of_a_turned_jpeg(orientation, size):
  """Boxes are drawn in the image as it is seen, also where a part or a fraction is decoded."""
  encoded = _encode(_photo(200, 320), format='JPEG', quality=95, exif=_exif(orientation))
  whole = decoding.decode(encoded, _RULES).astype(int)
  boxes = [[30, 10, 80, 100], [50, 60, 100, 96]]
  shapes = []

  def make_boxes(height, width):
    shapes.append((height, width))
    return np.array(boxes, np.int32)

  reader = ImageReader(Encoded(encoded), ReadOptions(image_size=size))
  read = reader.decode(0, encoded, make_boxes, size)
  assert shapes == [whole.shape[:2]]
  ratio = 2 if size == 12 else 1
  expected_shape = [-(-s // 2) for s in whole.shape[:2]] if ratio == 2 else [120, 146]
  assert list(read.pixels.shape[:2]) == expected_shape
  for box, found in zip(boxes, read.boxes, strict=True):
    part = _cut(read.pixels, found)
    expected = np.asarray(Image.fromarray(_cut(whole, box).astype(np.uint8)).reduce(ratio), int)
    assert part.shape == expected.shape
    assert np.abs(part - expected)[2:-2, 2:-2].mean() < (4 if ratio == 2 else 0.1)


@pytest.mark.parametrize('order', ['<', '>'])
def test_damaged_exif_is_ignored(order):
  """Both byte orders are understood; any cut or nonsense in it leaves the image as it is."""
  mark = b'II*\0' if order == '<' else b'MM\0*'
  entry = struct.pack(f'{order}HHIHH', _ORIENTATION, 3, 1, 6, 0)
  exif = mark + struct.pack(f'{order}IH', 8, 1) + entry + bytes(4)
  plain = _encode(_photo(), format='JPEG')

  def turn(exif):
    segment = b'Exif\0\0' + exif
    marked = plain[:2] + b'\xff\xe1' + struct.pack('>H', len(segment) + 2) + segment + plain[2:]
    return image_formats.jpeg_header(marked).orientation

  assert turn(exif) == 6
  assert all(turn(exif[:cut]) == 1 for cut in range(len(exif) - 4))
  random = np.random.default_rng(0)
  for _ in range(200):
    damaged = bytearray(exif)
    damaged[random.integers(len(damaged))] = random.integers(256)
    assert 1 <= turn(bytes(damaged)) <= 8


@pytest.mark.parametrize(
  ('mode', 'kind'),
  [
    *[('P', kind) for kind in ('PNG', 'BMP', 'GIF', 'TIFF')],
    *[('L', kind) for kind in ('PNG', 'BMP', 'GIF', 'TIFF', 'PPM', 'JPEG')],
    *[('1', kind) for kind in ('PNG', 'BMP', 'TIFF', 'PPM')],
    *[('RGBA', kind) for kind in ('PNG', 'BMP', 'TIFF', 'WEBP')],
    *[('CMYK', kind) for kind in ('JPEG', 'TIFF')],
    ('LA', 'PNG'),
  ],
)
def test_modes(mode, kind):
  """Palettes are looked up, grey is grey, print colours are converted, transparency is dropped."""
  image = _photo().convert(mode)
  if 'A' in mode:
    image.putalpha(Image.linear_gradient('L').resize(image.size))
  options = {'WEBP': {'lossless': True, 'exact': True}, 'JPEG': {'quality': 95}}.get(kind, {})
  actual = decoding.decode(_encode(image, format=kind, **options), _RULES)
  expected = np.asarray(image.convert('RGB'), int)
  assert actual.dtype == np.uint8 and actual.shape == (48, 72, 3)
  assert np.abs(actual - expected).max() <= (12 if kind == 'JPEG' else 0)


@pytest.mark.parametrize('kind', ['PNG', 'TIFF', 'PPM'])
def test_sixteen_bits(kind):
  """The upper eight are kept."""
  grey = np.arange(48 * 72, dtype=np.uint16).reshape(48, 72) * 18
  actual = decoding.decode(_encode(Image.fromarray(grey), format=kind), _RULES)
  np.testing.assert_array_equal(actual, (grey >> 8)[..., np.newaxis].repeat(3, axis=-1))


@pytest.mark.parametrize('kind', ['GIF', 'PNG', 'WEBP', 'TIFF'])
def test_first_picture_of_several(kind):
  """Of an animation, or of several pages, the first is taken."""
  first, second = (_photo().convert('L').point(lambda v, k=k: v // 2 + k) for k in (0, 99))
  options = {'lossless': True} if kind == 'WEBP' else {}
  encoded = _encode(first, format=kind, save_all=True, append_images=[second], **options)
  actual = decoding.decode(encoded, _RULES)
  assert np.abs(actual.astype(int) - np.asarray(first.convert('RGB'))).max() <= 1


def _chunk(kind, content):
  return (
    struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))
  )


@functools.cache
def _hostile():
  """A dict of name to file and message of files that lie."""
  return {name: rest for name, *rest in _make_hostile()}


def _make_hostile():
  """Name, file and message of files that lie."""
  png, gif = (bytearray(_encode(_photo(), format=kind)) for kind in ('PNG', 'GIF'))
  jpeg = _encode(_photo(), format='JPEG')
  start = jpeg.index(b'\xff\xc0')
  progressive = _encode(_photo(), format='JPEG', progressive=True)
  scan = progressive.rindex(b'\xff\xda')
  huge = _chunk(b'IHDR', struct.pack('>IIBBBBB', 10_000, 10_000, 8, 2, 0, 0, 0))
  wrong = png.copy()
  wrong[len(png) // 2] ^= 1
  canvas = gif.copy()
  canvas[6:10] = b'\xff' * 4
  yield 'huge', bytes(png[:8]) + huge + bytes(png[33:]), '10,000 x 10,000 pixels, more than'
  yield 'bit', bytes(wrong), 'a checksum of its IDAT is wrong'
  yield 'canvas', bytes(canvas), '65,535 x 65,535 pixels, more than max_pixels'
  for kind, head in ((b'zTXt', b'a\0\0'), (b'iTXt', b'a\0\1\0\0\0')):
    bomb = _chunk(kind, head + zlib.compress(bytes(3_000_000), 9))
    yield kind.decode(), bytes(png[:33]) + bomb + bytes(png[33:]), 'Decompressed data too large'
  yield '12 bits', jpeg[: start + 4] + b'\x0c' + jpeg[start + 5 :], 'it has 12 bits per channel'
  yield 'lossless', jpeg[: start + 1] + b'\xc3' + jpeg[start + 2 :], 'lossless'
  forged = jpeg[: start + 5] + struct.pack('>HH', 60_000, 60_000) + jpeg[start + 9 :]
  yield 'forged', forged, '60,000 x 60,000 pixels'
  scans = progressive[:-2] + progressive[scan:-2] * 500 + progressive[-2:]
  yield 'scans', scans, '510 scans'
  tiny = jpeg[: start + 5] + struct.pack('>HH', 0, 72) + jpeg[start + 9 :]
  yield 'no height', tiny, '72 x 0 pixels'
  webp = b'RIFF\x1e\0\0\0WEBPVP8X\n\0\0\0\0\0\0\0' + b'\xff\x3f\0' * 2
  yield 'webp', webp, '16,384 x 16,384 pixels'
  yield 'empty', b'', 'the file is empty'
  yield 'page', b'<html>', r"it is not an image: it begins with b'<html>'"
  yield 'heic', b'\0\0\0\x18ftypheic\0\0\0\0mif1heic', 'its format is HEIC, which is not read'
  raw = _encode(_photo(), format='TIFF', tiffinfo={254: 1})
  yield 'thumbnail', raw, 'its first picture is a thumbnail'
  floats = Image.fromarray(np.ones((4, 4), np.float32))
  yield 'floats', _encode(floats, format='TIFF'), "its pixels are of the kind 'F'"


@pytest.mark.parametrize('name', _hostile())
@pytest.mark.parametrize('policy', sources.BAD_IMAGE_POLICIES)
def test_files_that_lie_are_named_with_the_reason(name, policy):
  """Within moments, whatever they claim, under either policy."""
  encoded, message = _hostile()[name]
  source = Encoded(encoded)
  if policy == 'skip':
    assert _read(source, [[0, 0, 4, 4]], 4, on_bad_image='skip').mask == 0
    with pytest.raises(sources.BadDataError, match=f'none of the 1 images of one .*({message})'):
      decoding.check_some_image_decodes(source, ReadOptions(on_bad_image='skip'))
  else:
    with pytest.raises(ValueError, match=f'image 0: .*({message})'):
      _read(source, [[0, 0, 4, 4]], 4)


@pytest.mark.parametrize(
  ('kind', 'options'),
  [
    ('JPEG', {}),
    ('JPEG', {'progressive': True}),
    *[(kind, {}) for kind in ('PNG', 'GIF', 'BMP', 'WEBP', 'TIFF', 'PPM')],
    *[('TIFF', {'compression': name}) for name in ('tiff_lzw', 'tiff_adobe_deflate', 'jpeg')],
  ],
)
def test_mutated_files_decode_or_are_refused(kind, options):
  """Nothing but pixels or a DecodeError comes of a damaged file; one that is cut off is refused."""
  encoded = _encode(_photo(), format=kind, **options)
  for length in range(0, len(encoded) - 30, len(encoded) // 20):
    with pytest.raises(DecodeError):
      decoding.decode(encoded[:length], _RULES)
  random = np.random.default_rng(0)
  for number in range(100):
    damaged = bytearray(encoded)
    end = 100 if number % 2 else len(damaged)
    for place in random.integers(0, end, 4):
      damaged[place] = random.integers(256)
    try:
      assert decoding.decode(bytes(damaged), _RULES).shape[-1] == 3
    except DecodeError as error:
      assert '\n' not in str(error) and len(str(error)) < 250


def test_jpeg_that_is_smaller_than_it_says():
  """The pixels of a forged header are not made up."""
  jpeg = _encode(_photo(), format='JPEG')
  size = jpeg.index(b'\xff\xc0') + 5
  forged = jpeg[:size] + struct.pack('>HH', 4_800, 7_200) + jpeg[size + 4 :]
  with pytest.raises(DecodeError, match='7,200 x 4,800 pixels, more than the file has room for'):
    decoding.decode(forged, _RULES)


def test_limit_of_pixels_is_exact():
  """As many as the limit are read, one more is not; a wrong limit is named."""
  for kind in ('JPEG', 'PNG', 'WEBP'):
    encoded = _encode(_photo(), format=kind)
    assert decoding.decode(encoded, DecodeRules(max_pixels=48 * 72)).shape == (48, 72, 3)
    with pytest.raises(DecodeError, match=r'72 x 48 pixels, more than max_pixels=3,455'):
      decoding.decode(encoded, DecodeRules(max_pixels=48 * 72 - 1))
  for wrong in (0, -1, 1.5, None, True, '9'):
    with pytest.raises(ValueError, match=r'^max_pixels='):
      DecodeRules(max_pixels=wrong)
  with pytest.raises(ValueError, match=r'^apply_orientation='):
    DecodeRules(apply_orientation=None)


def test_large_images_of_other_formats_are_averaged(monkeypatch):
  """From a number of pixels on, parts of a PNG come as those of a JPEG do: smaller, in place."""
  source = Encoded(_encode(_photo(200, 320), format='PNG', exif=_exif(6)))
  boxes = [[0, 0, 320, 200], [40, 20, 200, 100]]
  exact = _read(source, boxes, 16)
  assert exact.pixels.shape == (320, 200, 3)
  monkeypatch.setattr(decoding, '_LARGE', 1000)
  small = _read(source, boxes, 16)
  assert small.pixels.shape == (160, 100, 3)
  np.testing.assert_array_equal(small.boxes, np.array(boxes) // 2)
  expected = np.asarray(Image.fromarray(exact.pixels).reduce(2), int)
  assert np.abs(small.pixels - expected).max() <= 1
  assert _read(source, boxes, 16, jpeg_scaling=False).pixels.shape == (320, 200, 3)
