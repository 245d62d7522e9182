"""Batches with Inception crops, Mixup, CutMix and RandAugment, derived again from their parts."""

import dataclasses

import chex
import numpy as np
import pytest
import tensorflow as tf

from nfnets_augmult.data import inception_crop, loading, mixing, pipeline, randaugment, sources
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.data.decoding import ReadOptions
from nfnets_augmult.data.inception_crop import InceptionCrop
from nfnets_augmult.data.mixing import Mixing
from nfnets_augmult.data.multiplicity import PLACEMENTS, Multiplicity
from nfnets_augmult.data.randaugment import RandAugment
from nfnets_augmult.data.randaugment_ops import apply_layers
from tests import real_images, shared_data

_SIZE = 32
_CROP = Augmentation(crop=InceptionCrop())
_MIXED = dataclasses.replace(_CROP, mixing=Mixing(mixup=0.5, cutmix=0.25))
_ALL = dataclasses.replace(_MIXED, randaugment=RandAugment(layers=1, magnitude=15.0))

both_placements = pytest.mark.parametrize('placement', PLACEMENTS)


@pytest.fixture(scope='module', name='imagenet')
def _imagenet():
  return loading.load_source('imagenet2012', split='validation', data_dir=shared_data.tfds_dir())


@pytest.fixture(scope='module', name='array')
def _array():
  photos = real_images.photos(40, _SIZE, _SIZE)
  return sources.ArraySource(photos, np.arange(40, dtype=np.int32), tuple(map(str, range(40))), 'a')


def _batches(source, multiplicity, augmentation, start=0, stop=2, **options):
  read_options = ReadOptions(image_size=_SIZE, jpeg_scaling=False, on_bad_image='skip')
  return list(
    pipeline.train_batches(
      source,
      multiplicity,
      augmentation=augmentation,
      start_step=start,
      stop_step=stop,
      read_options=read_options,
      **options,
    )
  )


@both_placements
def test_crops_follow_from_the_image_and_the_seed(imagenet, placement):
  """Each copy is the drawn part of its decoded JPEG, scaled by TensorFlow's bicubic filter."""
  multiplicity = Multiplicity(64, 6, 2, 7, placement)
  for batch in _batches(imagenet, multiplicity, _CROP):
    draws = inception_crop.draw(batch['seed'], _CROP.crop)
    for slot, index in enumerate(batch['image_index']):
      pixels = tf.io.decode_jpeg(imagenet.read(index)[0], channels=3).numpy()
      box = inception_crop.boxes(draws.uniform[slot : slot + 1], *pixels.shape[:2], _CROP.crop)[0]
      part = pixels[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]
      scaled = tf.image.resize(part, [_SIZE, _SIZE], 'bicubic').numpy()
      scaled = scaled[:, ::-1] if draws.flip[slot] else scaled
      difference = np.abs(batch['image'][slot] - np.clip(scaled, 0, 255))
      # Rounding; and the chroma of a JPEG at the edges of a part that is decoded alone.
      assert difference.mean() < 0.5 and np.quantile(difference, 0.99) <= 1


@both_placements
@pytest.mark.parametrize('kind', ['imagenet', 'array'])
def test_mixtures_follow_from_the_crops(request, kind, placement):
  """Mixed batches are the unmixed ones put together by partners, weights and boxes."""
  source = request.getfixturevalue(kind)
  crop = CropFlip(pad=4) if kind == 'array' else InceptionCrop()
  mixed = dataclasses.replace(_MIXED, crop=crop)
  multiplicity = Multiplicity(source.num_images, 8, 4, 3, placement)
  plain = _batches(source, multiplicity, Augmentation(crop=crop), 5, 7)
  for step, batch, crops in zip(
    (5, 6), _batches(source, multiplicity, mixed, 5, 7), plain, strict=True
  ):
    mix = mixing.mix_slots(
      multiplicity, mixed.mixing, step, 0, multiplicity.batch_size, height=_SIZE, width=_SIZE
    )
    expected = crops['image'].astype(np.float64)
    partners = expected[mix.partner_slot]
    for slot in range(multiplicity.batch_size):
      if mix.kind[slot] == mixing.MIXUP:
        weight = mix.weight[slot]
        expected[slot] = weight * expected[slot] + (1 - weight) * partners[slot]
      top, left, bottom, right = mix.box[slot]
      expected[slot, top:bottom, left:right] = partners[slot, top:bottom, left:right]
    assert np.abs(batch['image'] - expected).max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(batch['mix_weight'], mix.weight)
    np.testing.assert_array_equal(batch['partner_index'], crops['image_index'][mix.partner_slot])
    np.testing.assert_array_equal(batch['partner_label'], crops['label'][mix.partner_slot])
    assert np.all(batch['partner_index'] != batch['image_index'])
    for key in ('label', 'image_index', 'seed', 'mask'):
      np.testing.assert_array_equal(batch[key], crops[key])


@pytest.mark.parametrize('mix_first', [True, False])
def test_order_of_mixing_and_randaugment(array, mix_first):
  """RandAugment gets the mixtures, or the mixtures are of what it made."""
  multiplicity = Multiplicity(40, 8, 2, 3)
  crop, options = CropFlip(pad=4), RandAugment(layers=2, magnitude=15.0)
  mixup = Mixing(mixup=1.0)
  both = Augmentation(crop=crop, mixing=mixup, randaugment=options, mix_first=mix_first)
  off = {'randaugment': RandAugment()} if mix_first else {'mixing': Mixing()}
  first = dataclasses.replace(both, **off)
  (batch,), (half,) = (_batches(array, multiplicity, a, 1, 2) for a in (both, first))
  images = half['image']
  if mix_first:
    draws = randaugment.draw(half['seed'], options)
    rows = zip(images, *draws, strict=True)
    expected = [apply_layers(*map(tf.constant, row), options).numpy() for row in rows]
  else:
    mix = mixing.mix_slots(multiplicity, mixup, 1, 0, 16, height=_SIZE, width=_SIZE)
    weight = mix.weight[:, None, None, None]
    expected = weight * images + (1 - weight) * images[mix.partner_slot]
  assert np.abs(batch['image'] - np.stack(expected)).max() <= 0.5 + 1e-3
  assert np.any(images != batch['image'])


@pytest.mark.extended
@pytest.mark.parametrize(
  ('kind', 'unique', 'augmult', 'placement', 'host_count'),
  [
    ('imagenet', 16, 1, 'within', 2),  # each host is one block
    ('imagenet', 4, 2, 'within', 2),  # hosts share a block
    ('imagenet', 3, 4, 'within', 2),  # hosts share an image
    ('imagenet', 4, 2, 'neighbouring', 2),
    ('array', 4, 2, 'within', 2),
    ('array', 4, 2, 'neighbouring', 2),
  ],
)
def test_hosts_together_make_the_batch(request, kind, unique, augmult, placement, host_count):
  """With everything switched on the batch does not depend on the number of hosts."""
  source = request.getfixturevalue(kind)
  multiplicity = Multiplicity(source.num_images, unique, augmult, 2, placement)
  whole = _batches(source, multiplicity, _ALL, 1, 3)
  hosts = [
    _batches(source, multiplicity, _ALL, 1, 3, host_index=host, host_count=host_count)
    for host in range(host_count)
  ]
  for expected, *parts in zip(whole, *hosts, strict=True):
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    chex.assert_trees_all_equal(joined, expected, strict=True)


@pytest.mark.parametrize(
  'placement', ['within', pytest.param('neighbouring', marks=pytest.mark.extended)]
)
def test_restart_at_any_step(imagenet, placement):
  """With everything switched on a later start gives the batches that it would have given."""
  multiplicity = Multiplicity(64, 8, 3, 1, placement)
  whole = _batches(imagenet, multiplicity, _ALL, 0, 5)
  rest = _batches(imagenet, multiplicity, _ALL, 4, 5)
  chex.assert_trees_all_equal(rest, whole[4:], strict=True)


def test_more_copies_leave_the_first(imagenet):
  """Crop and RandAugment of copy 0 of n = 4 are those of the one copy of n = 1."""
  augmentation = dataclasses.replace(_ALL, mixing=Mixing())
  (one,), (four,) = (
    _batches(imagenet, Multiplicity(64, 8, augmult, 1), augmentation, 0, 1) for augmult in (1, 4)
  )
  np.testing.assert_array_equal(four['image_index'][::4], one['image_index'])
  difference = np.abs(four['image'][::4].astype(int) - one['image'])
  # n = 1 decodes a window of the JPEG, n = 4 another one.
  assert difference.mean() < 1


def test_bad_image_is_no_partner(tmp_path):
  """What does not decode is left out, and whoever would have met it stays unmixed."""
  for number, photo in enumerate(real_images.photos(8, 24, 24)):
    real_images.save(photo, tmp_path / 'train' / 'ab'[number // 4] / f'{number}.jpg')
  (tmp_path / 'test').mkdir()
  (tmp_path / 'train' / 'a' / '3.jpg').write_bytes(b'\xff\xd8\xff garbage')
  source = loading.load_source('folder', split='train', data_dir=str(tmp_path))
  multiplicity = Multiplicity(8, 8, 8, 0)
  (batch,) = _batches(source, multiplicity, _MIXED, 0, 1)
  (unmixed,) = _batches(source, multiplicity, _CROP, 0, 1)
  met = batch['partner_index'] == 3
  np.testing.assert_array_equal(batch['image'][met], unmixed['image'][met])
  assert met.any()
  np.testing.assert_array_equal(batch['mix_weight'][met], 1)
  np.testing.assert_array_equal(batch['mask'] == 0, batch['image_index'] == 3)
  assert np.mean(batch['mix_weight'][~met] < 1) > 0.5


def test_too_few_unique_images(array):
  """A batch without another image to mix with is refused before the first batch."""
  with pytest.raises(ValueError, match='unique_images_per_batch=1: Mixup and CutMix need'):
    _batches(array, Multiplicity(40, 1, 16, 0), _MIXED)
