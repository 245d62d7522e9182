"""Copies that a device makes of the images that the host sends: those of the tf.data input."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf

from nfnets_augmult.data import (
  canvases,
  decoding,
  device_copies,
  device_randaugment,
  device_resampling,
  image_formats,
  inception_crop,
  loading,
  mixing,
  mixing_ops,
  pipeline,
  randaugment,
  randaugment_ops,
  resizing,
  sources,
)
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.data.inception_crop import InceptionCrop
from nfnets_augmult.data.mixing import Mixing
from nfnets_augmult.data.multiplicity import PLACEMENTS, Multiplicity
from nfnets_augmult.data.randaugment import OPERATIONS, RandAugment
from nfnets_augmult.data.read_options import ReadOptions
from tests import real_images, shared_data

_SIZE = 32
_ALL = Augmentation(
  crop=InceptionCrop(),
  mixing=Mixing(mixup=0.5, cutmix=0.4),
  randaugment=RandAugment(layers=2, magnitude=15.0, behaviour='pil'),
)
_OPTIONS = ReadOptions(image_size=_SIZE, jpeg_scaling=False, on_bad_image='skip')
_LARGE = (512, 512)  # holds all but the largest photographs


@pytest.fixture(scope='module', name='imagenet')
def _imagenet():
  """Those photographs that the canvases hold as they are."""
  source = loading.load_source('imagenet2012', split='train', data_dir=shared_data.tfds_dir())
  headers = [image_formats.jpeg_header(source.read(i)[0]) for i in range(source.num_images)]
  small = [i for i, h in enumerate(headers) if max(h.height, h.width) <= _LARGE[0]]
  return _Some(source, small[:40])


@dataclasses.dataclass(frozen=True)
class _Some:
  """Some images of a source."""

  source: object
  indices: list

  @property
  def num_images(self):
    return len(self.indices)

  @property
  def description(self):
    return self.source.description

  @property
  def class_names(self):
    return self.source.class_names

  def read(self, index):
    return self.source.read(self.indices[index])

  def image_name(self, index):
    return self.source.image_name(self.indices[index])


# RandAugment.


@pytest.mark.parametrize('behaviour', randaugment.BEHAVIOURS)
@pytest.mark.parametrize('magnitude', [0, 2.5, 5, 10, 15, 21])
def test_operations_are_those_of_tf_data(behaviour, magnitude):
  """Every operation, both signs, four photographs: bit for bit, but for rounding in two of them.

  Where a weighted mean is next to a whole number, Sharpness and Color of the published code depend
  on how TensorFlow rounds on the machine: then the other image is 1 off.
  """
  photos = real_images.photos(4, 41, 58)
  options = RandAugment(1, magnitude, behaviour)
  number, negate, photo = (
    grid.ravel() for grid in np.meshgrid(range(16), [False, True], range(4), indexing='ij')
  )
  centre = np.random.default_rng(0).random((len(number), 1, 2), np.float32)
  draws = randaugment.Draws(number[:, None].astype(np.int32), negate[:, None], centre)
  layers = device_randaugment.make_layers(options, height=41, width=58)
  found = np.asarray(jax.jit(jax.vmap(layers))(photos[photo], draws))
  image = tf.constant(photos[0])
  operations = [
    randaugment_ops.make_operation(name, image, magnitude, behaviour) for name in OPERATIONS
  ]
  for row, name in enumerate(np.array(OPERATIONS)[number]):
    expected = operations[number[row]](
      tf.constant(photos[photo[row]]), tf.constant(negate[row]), tf.constant(centre[row, 0])
    ).numpy()
    if behaviour == 'reference' and name in ('Sharpness', 'Color'):
      off = np.abs(found[row].astype(int) - expected)
      assert off.max() <= np.ceil(abs(1 - (0.18 * magnitude + 0.1))), name
      assert np.mean(off > 0) < 0.03, name
    else:
      np.testing.assert_array_equal(found[row], expected, err_msg=name)


@pytest.mark.parametrize('behaviour', randaugment.BEHAVIOURS)
def test_auto_contrast_of_every_range(behaviour):
  """All lowest and highest values, in each channel another range, of which the values are used."""
  random = np.random.default_rng(0)
  low = random.integers(0, 255, (600, 3))
  high = np.minimum(low + random.integers(0, 256, (600, 3)), 255)
  ramp = np.arange(256)
  images = np.clip(ramp[:, None], low[:, None, :], high[:, None, :]).reshape(600, 16, 16, 3)
  images = images.astype(np.uint8)
  draws = randaugment.Draws(
    np.zeros((600, 1), np.int32), np.zeros((600, 1), bool), np.zeros((600, 1, 2), np.float32)
  )
  layers = device_randaugment.make_layers(RandAugment(1, 5, behaviour), height=16, width=16)
  found = np.asarray(jax.jit(jax.vmap(layers))(images, draws))
  assert OPERATIONS[0] == 'AutoContrast'
  stretch = randaugment_ops.make_operation('AutoContrast', tf.constant(images[0]), 5, behaviour)
  expected = [stretch(tf.constant(image), False, [0.0, 0.0]).numpy() for image in images]
  np.testing.assert_array_equal(found, expected)


def test_histograms():
  """Both ways of counting, of which a backend uses one, count alike."""
  photo = real_images.photos(1, 60, 70)[0]
  expected = [np.bincount(photo[..., channel].ravel(), minlength=256) for channel in range(3)]
  for count in ('products', 'scattering'):
    found = getattr(device_randaugment, f'_histograms_by_{count}')(photo)
    np.testing.assert_array_equal(found, expected)


def test_layers_follow_one_another():
  """Four layers of the whole are those of tf.data, operation after operation."""
  options = RandAugment(4, 10, 'pil')
  photos = real_images.photos(24, 40, 40)
  seeds = np.random.default_rng(1).integers(0, 2**32, (24, 2), np.uint32)
  draws = randaugment.draw(seeds, options)
  layers = device_randaugment.make_layers(options, height=40, width=40)
  found = np.asarray(jax.jit(jax.vmap(layers))(photos, draws))
  rows = zip(photos, *draws, strict=True)
  expected = [randaugment_ops.apply_layers(*map(tf.constant, row), options).numpy() for row in rows]
  np.testing.assert_array_equal(found, expected)


def test_sizes_that_sums_do_not_hold_are_refused():
  with pytest.raises(ValueError, match='3 to 2048 pixels a side, not for 2x40'):
    device_randaugment.make_layers(RandAugment(1), height=2, width=40)
  with pytest.raises(ValueError, match='not for 2049x40'):
    device_randaugment.make_layers(RandAugment(1), height=2049, width=40)


# Crops.


@pytest.mark.parametrize('antialias', [False, True])
@pytest.mark.parametrize('turned', [False, True])
def test_scaled_boxes_are_those_of_tf_data(imagenet, antialias, turned):
  """On photographs, also of boxes of one pixel: never 2 grey levels off, and seldom 1."""
  resize = functools.partial(device_resampling.resize_box, size=_SIZE, antialias=antialias)
  resize = jax.jit(jax.vmap(resize, in_axes=(None, 0, None, 0)))
  off = []
  for index in range(12):
    pixels = decoding.decode(imagenet.read(index)[0], _OPTIONS.rules)
    height, width, _ = pixels.shape
    seeds = np.random.default_rng(index).integers(0, 2**32, (8, 2), np.uint32)
    draws = inception_crop.draw(seeds, InceptionCrop())
    boxes = inception_crop.boxes(draws.uniform, height, width, InceptionCrop())
    boxes[:3] = [0, 0, height, width], [height - 1, width - 1, 1, 1], [2, 3, 2, 40]
    expected = resizing.resize_boxes(
      tf.constant(pixels),
      tf.constant(boxes),
      tf.constant(draws.flip),
      size=_SIZE,
      antialias=antialias,
    )
    # Around the image is something else, which must not be seen.
    canvas = np.full((*_LARGE, 3), 255, np.uint8)
    if turned:
      canvas[:width, :height] = pixels.swapaxes(0, 1)
      boxes = boxes[:, [1, 0, 3, 2]]
    else:
      canvas[:height, :width] = pixels
    found = np.asarray(resize(canvas, boxes, turned, draws.flip))
    off.append(np.abs(found.astype(int) - expected.numpy()))
  assert np.max(off) <= 1
  assert np.mean(off) < 1e-3


@pytest.mark.parametrize('antialias', [False, True])
def test_weights_sum_to_one_within_the_box(antialias):
  weights = device_resampling.bicubic_weights(
    jnp.int32(3), jnp.int32(5), size=7, canvas_size=12, antialias=antialias
  )
  np.testing.assert_allclose(np.sum(weights, axis=1), 1, rtol=1e-6)
  assert not np.any(weights[:, :3]) and not np.any(weights[:, 8:])


def test_images_that_do_not_fit_are_scaled_down(imagenet):
  """Height and width by one factor, until both sides fit; what fits stays as it is."""
  encoded = imagenet.read(0)[0]
  whole = decoding.decode(encoded, _OPTIONS.rules)
  size = whole.shape[:2]
  same, full_size = decoding.decode_to_fit(encoded, tuple(sorted(size)), _OPTIONS)
  np.testing.assert_array_equal(same, whole)
  assert full_size == size
  while_decoding = dataclasses.replace(_OPTIONS, jpeg_scaling=True)  # at a half, a quarter ...
  for sides in ((30, 400), (400, 60), (1, 1)):
    small, full_size = decoding.decode_to_fit(encoded, sides, _OPTIONS)
    scale = min(a / b for a, b in zip(sorted(sides), sorted(size), strict=True))
    assert small.shape[:2] == tuple(max(1, round(side * scale)) for side in size)
    assert full_size == size
    np.testing.assert_allclose(small.mean(), whole.mean(), atol=8 if min(sides) > 1 else 60)
    same, full_size = decoding.decode_to_fit(encoded, sides, while_decoding)
    assert full_size == size and same.shape == small.shape
    # Two filters; half the resolution enlarged again would be 12 off.
    assert np.abs(same.astype(int) - small).mean() < 8


def test_boxes_keep_a_pixel():
  boxes = np.array([[99, 0, 1, 1], [0, 0, 100, 800]], np.int32)
  scaled = image_formats.scale_boxes(boxes, (100, 800), (1, 8))
  assert scaled.tolist() == [[0, 0, 1, 1], [0, 0, 1, 8]]


# Mixing.


def test_mixtures_are_those_of_tf_data():
  """Bit for bit; all weights with all values, and boxes."""
  random = np.random.default_rng(0)
  count, shape = 60, (32, 24, 3)
  images, partners = random.integers(0, 256, (2, count, *shape), dtype=np.uint8)
  kind = np.arange(count, dtype=np.int32) % 3
  weight = random.random(count, np.float32)
  corners = np.sort(random.integers(0, 25, (count, 2, 2)), axis=1).reshape(count, 4)
  box = np.where(kind[:, None] == mixing.CUTMIX, corners, 0).astype(np.int32)
  mix = mixing.Mix(np.arange(count), kind, weight, box)
  found = np.asarray(jax.jit(jax.vmap(device_copies.mix_pair))(images, partners, mix))
  rows = zip(images, partners, kind, weight, box, strict=True)
  expected = [mixing_ops.mix_pair(*map(tf.constant, row)).numpy() for row in rows]
  np.testing.assert_array_equal(found, expected)


# Batches.


def _inputs(source, multiplicity, augmentation=_ALL, *, options=_OPTIONS, canvas=_LARGE, **devices):
  return canvases.CanvasInput(source, multiplicity, augmentation, options, canvas, **devices)


def _made(inputs, start, stop):
  """The batches of a host, made by its devices."""
  make = jax.jit(jax.vmap(inputs.make_images))
  for step in inputs.inputs(start, stop):
    images = np.asarray(make(step.canvases, step.copies))
    yield dict(step.fields, image=images.reshape(-1, *images.shape[2:]))


def _of_tf_data(source, multiplicity, augmentation, start, stop, options=_OPTIONS):
  return pipeline.train_batches(
    source,
    multiplicity,
    augmentation=augmentation,
    start_step=start,
    stop_step=stop,
    read_options=options,
  )


def _assert_same(ours, theirs, *, share_off=2e-3, allowed=1):
  """Identities, labels and weights are equal, and pixels up to rounding."""
  ours, theirs = dict(ours), dict(theirs)
  images, others = (batch.pop('image').astype(int) for batch in (ours, theirs))
  chex.assert_trees_all_equal(ours, theirs, strict=True)
  assert np.mean(np.abs(images - others) > allowed) <= share_off


@pytest.mark.parametrize('augmult', [1, 2, 4])
@pytest.mark.parametrize('placement', PLACEMENTS)
def test_batches_of_crops_are_those_of_tf_data(imagenet, placement, augmult):
  """Over steps from the middle of a group across the border of two epochs, on four devices."""
  multiplicity, augmentation = Multiplicity(40, 12, augmult, 5, placement), Augmentation(_ALL.crop)
  start = 2 * augmult + 1 if placement == 'neighbouring' else 2
  stop = start + 2
  ours = _made(_inputs(imagenet, multiplicity, augmentation, device_count=4), start, stop)
  theirs = _of_tf_data(imagenet, multiplicity, augmentation, start, stop)
  for made, expected in zip(ours, theirs, strict=True):
    # The chroma of a JPEG at the edges of a part that tf.data decodes alone.
    _assert_same(made, expected, share_off=0.02)


@pytest.mark.parametrize('antialias', [False, True])
def test_the_filter_follows_the_options(imagenet, antialias):
  multiplicity, augmentation = Multiplicity(40, 4, 4, 5), Augmentation(_ALL.crop)
  options = dataclasses.replace(_OPTIONS, antialias=antialias)
  (ours,) = _made(_inputs(imagenet, multiplicity, augmentation, options=options), 0, 1)
  (theirs,) = _of_tf_data(imagenet, multiplicity, augmentation, 0, 1, options)
  _assert_same(ours, theirs, share_off=0.02)


@pytest.fixture(scope='module', name='array')
def _array():
  photos = real_images.photos(40, _SIZE, _SIZE)
  return sources.ArraySource(photos, np.arange(40, dtype=np.int32), tuple(map(str, range(40))), 'a')


def _extended(*values):
  return pytest.param(*values, marks=pytest.mark.extended)


@pytest.mark.parametrize(
  ('kind', 'mix_first', 'placement'),
  [
    ('imagenet', True, 'within'),
    ('array', False, 'neighbouring'),
    _extended('imagenet', True, 'neighbouring'),
    _extended('imagenet', False, 'within'),
    _extended('imagenet', False, 'neighbouring'),
    _extended('array', True, 'within'),
    _extended('array', True, 'neighbouring'),
    _extended('array', False, 'within'),
  ],
)
def test_batches_with_everything_are_those_of_tf_data(request, kind, mix_first, placement):
  """Padded crops, mixing and RandAugment in both orders; bit for bit of images held in memory."""
  source = request.getfixturevalue(kind)
  augmentation = dataclasses.replace(_ALL, crop=CropFlip(pad=4), mix_first=mix_first)
  multiplicity = Multiplicity(40, 8, 4, 3, placement)
  ours = _made(_inputs(source, multiplicity, augmentation, device_count=2), 5, 7)
  theirs = _of_tf_data(source, multiplicity, augmentation, 5, 7)
  share_off, allowed = (0, 0) if kind == 'array' else (0.05, 8)
  for made, expected in zip(ours, theirs, strict=True):
    _assert_same(made, expected, share_off=share_off, allowed=allowed)


@pytest.mark.parametrize(
  ('unique', 'augmult', 'placement', 'device_count', 'mix_first'),
  [
    (9, 4, 'within', 4, True),  # some devices need three images, some two
    (16, 2, 'neighbouring', 4, True),
    _extended(16, 1, 'within', 2, True),  # each device is one block
    _extended(16, 4, 'within', 4, True),  # devices share a block
    _extended(4, 4, 'within', 8, True),  # devices share an image
    _extended(9, 4, 'within', 4, False),
  ],
)
def test_batches_do_not_depend_on_hosts_and_devices(
  array, unique, augmult, placement, device_count, mix_first
):
  """One device, several, and several hosts make the same, without exchanging anything."""
  multiplicity = Multiplicity(40, unique, augmult, 2, placement)
  augmentation = dataclasses.replace(_ALL, mix_first=mix_first)
  (whole,) = _made(_inputs(array, multiplicity, augmentation), 3, 4)
  for host_count in (1, 2):
    devices = {'device_count': device_count // host_count, 'host_count': host_count}
    parts = []
    for host_index in range(host_count):
      inputs = _inputs(array, multiplicity, augmentation, host_index=host_index, **devices)
      parts += _made(inputs, 3, 4)
    joined = {key: np.concatenate([part[key] for part in parts]) for key in whole}
    chex.assert_trees_all_equal(joined, whole, strict=True)


def test_all_hosts_send_arrays_of_one_shape(array):
  """Also where devices of one host share blocks, and those of the other do not."""
  multiplicity = Multiplicity(40, 17, 4, 2)
  for mix_first in (True, False):
    augmentation = dataclasses.replace(_ALL, mix_first=mix_first)
    shapes = []
    for host_index in range(2):
      inputs = _inputs(
        array, multiplicity, augmentation, device_count=2, host_index=host_index, host_count=2
      )
      (step,) = inputs.inputs(0, 1)
      shapes.append([leaf.shape for leaf in jax.tree.leaves(step)])
    assert shapes[0] == shapes[1]


def test_canvases_are_sent_once():
  """256 unique images, n = 16, on 1 to 32 devices: each gets its own images and no others."""
  photos = np.zeros((600, 8, 8, 3), np.uint8)
  source = sources.ArraySource(photos, np.zeros(600, np.int32), ('a', 'b'), 'black')
  multiplicity = Multiplicity(600, 256, 16, 1)
  for device_count in (1, 4, 32):
    inputs = _inputs(source, multiplicity, device_count=device_count)
    assert inputs.canvases_per_device == 256 / device_count
    assert inputs.crops_per_device == 4096 / device_count
  # Of half a block a device needs all of it.
  assert _inputs(source, multiplicity, device_count=64).canvases_per_device == 8


def test_a_group_of_batches_shares_canvases(imagenet):
  """With n successive batches of the same images, they are read once."""
  multiplicity = Multiplicity(40, 4, 3, 1, 'neighbouring')
  steps = list(_inputs(imagenet, multiplicity).inputs(1, 7))
  numbers = [id(step.canvases) for step in steps]
  assert [numbers.index(number) for number in numbers] == [0, 0, 2, 2, 2, 5]


def test_cached_images_are_decoded_once(tmp_path, monkeypatch):
  """Over two epochs each file is read once, bad ones too, and the inputs are the same."""
  for number, photo in enumerate(real_images.photos(8, 24, 30)):
    real_images.save(photo, tmp_path / 'train' / 'ab'[number // 4] / f'{number}.png')
  (tmp_path / 'test').mkdir()
  (tmp_path / 'train' / 'a' / '3.png').write_bytes(b'\xff\xd8\xff garbage')
  source = loading.load_source('folder', split='train', data_dir=str(tmp_path))
  multiplicity, read = Multiplicity(8, 4, 2, 0), []
  # Of two threads that need an image at the same time, both would read it.
  monkeypatch.setattr(canvases.os, 'cpu_count', lambda: 1)

  class Counting(_Some):
    def read(self, index):
      read.append(index)
      return super().read(index)

  counting, cache = Counting(source, list(range(8))), {}
  cached = list(_inputs(counting, multiplicity, cache=cache).inputs(0, 4))
  assert sorted(read) == list(range(8))
  chex.assert_trees_all_equal(cached, list(_inputs(source, multiplicity).inputs(0, 4)))
  list(_inputs(counting, multiplicity, cache=cache).inputs(1, 3))
  assert len(read) == 8


@pytest.mark.parametrize('placement', PLACEMENTS)
def test_restart_at_any_step(imagenet, placement):
  multiplicity = Multiplicity(40, 8, 3, 1, placement)
  whole = list(_inputs(imagenet, multiplicity).inputs(0, 8))
  rest = list(_inputs(imagenet, multiplicity).inputs(4, 8))
  chex.assert_trees_all_equal(rest, whole[4:], strict=True)


def test_bad_images_are_no_partners(tmp_path):
  """What does not decode is black and left out, and who would have met it stays unmixed."""
  for number, photo in enumerate(real_images.photos(8, 24, 30)):
    photo = photo.swapaxes(0, 1) if number % 2 else photo
    real_images.save(photo, tmp_path / 'train' / 'ab'[number // 4] / f'{number}.png')
  (tmp_path / 'test').mkdir()
  (tmp_path / 'train' / 'a' / '3.png').write_bytes(b'\xff\xd8\xff garbage')
  source = loading.load_source('folder', split='train', data_dir=str(tmp_path))
  multiplicity = Multiplicity(8, 8, 8, 0)
  (ours,) = _made(_inputs(source, multiplicity), 0, 1)
  (theirs,) = _of_tf_data(source, multiplicity, _ALL, 0, 1)
  _assert_same(ours, theirs, allowed=8)
  assert np.any(ours['partner_index'] == 3) and not ours['mask'].all()
  fail = dataclasses.replace(_OPTIONS, on_bad_image='fail')
  with pytest.raises(sources.BadDataError, match=r'an image does not decode: .*3\.png'):
    list(_inputs(source, multiplicity, options=fail).inputs(0, 1))
