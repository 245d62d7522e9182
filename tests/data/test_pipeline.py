"""The batches of tf.data, derived again from outside: source image and seed to pixels."""

import collections
import dataclasses
import itertools
import threading

import chex
import numpy as np
import pytest
from PIL import Image

from nfnets_augmult.data import image_files, loading, pipeline, sources
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.data.decoding import ReadOptions
from nfnets_augmult.data.evaluation_crop import EvaluationCrop
from nfnets_augmult.data.multiplicity import PLACEMENTS, Multiplicity
from tests import plain_augmentation, real_images, shared_data

_SIZE = 12
_NUM_IMAGES = 13
_CROP = CropFlip(pad=2)

both_placements = pytest.mark.parametrize('placement', PLACEMENTS)
both_sources = pytest.mark.parametrize('kind', ['array', 'folder'])


class CountingSource(image_files.FileSource):
  """A folder that counts how often each image is read."""

  def __init__(self, source):
    super().__init__(**{f.name: getattr(source, f.name) for f in dataclasses.fields(source)})
    object.__setattr__(self, 'reads', collections.Counter())
    object.__setattr__(self, 'lock', threading.Lock())

  def read(self, index):
    with self.lock:
      self.reads[index] += 1
    return super().read(index)


@pytest.fixture(scope='module', name='photos')
def _photos():
  """Thirteen pieces of photographs, and a label for each that tells them apart."""
  return real_images.photos(_NUM_IMAGES, _SIZE, _SIZE)


@pytest.fixture(scope='module', name='load')
def _load(photos, tmp_path_factory):
  """The same thirteen images held in memory, and as PNG files, which lose nothing."""
  root = tmp_path_factory.mktemp('photos')
  (root / 'test').mkdir()
  for number, photo in enumerate(photos):
    real_images.save(photo, root / 'train' / f'class_{number:02}' / 'photo.png')
  folder = loading.load_source('folder', split='train', data_dir=str(root))
  labels = np.arange(_NUM_IMAGES, dtype=np.int32)
  array = sources.ArraySource(photos, labels, folder.class_names, 'photos/train')
  return {'array': array, 'folder': folder}.get


def _batches(source, multiplicity, start_step, stop_step, *, crop=_CROP, read=(), **options):
  return list(
    pipeline.train_batches(
      source,
      multiplicity,
      start_step=start_step,
      stop_step=stop_step,
      augmentation=Augmentation(crop=crop),
      read_options=ReadOptions(**{'image_size': _SIZE, **dict(read)}),
      **options,
    )
  )


def _evaluation_batches(source, *, batch_size, read=(), **options):
  """All batches of the largest centred squares."""
  return list(
    pipeline.evaluation_batches(
      source,
      batch_size=batch_size,
      crop=EvaluationCrop(padding=0),
      read_options=ReadOptions(**{'image_size': _SIZE, **dict(read)}),
      **options,
    )
  )


def _truncate(file):
  """Cuts a real JPEG file in the middle, as an interrupted copy does."""
  content = file.read_bytes()
  file.write_bytes(content[: len(content) // 2])


@both_placements
@both_sources
def test_batch_contents(photos, load, kind, placement):
  """Every field of every batch, over two epochs, follows from image, label and seed of a slot."""
  multiplicity = Multiplicity(_NUM_IMAGES, 5, 4, 0, placement)
  num_steps = multiplicity.steps_for_epochs(2)
  batches = _batches(load(kind), multiplicity, 0, num_steps)
  assert len(batches) == num_steps
  for step, batch in enumerate(batches):
    slots = multiplicity.slots(step)
    images = photos[slots.image_index]
    expected = slots._asdict() | {
      'image': plain_augmentation.copies(images, slots.seed, _CROP),
      'label': slots.image_index.astype(np.int32),
      'mask': np.ones(multiplicity.batch_size, np.float32),
    }
    chex.assert_trees_all_equal(batch, expected, strict=True)


@both_placements
def test_batch_contents_of_imagenet(placement):
  """Batches of real JPEGs of many sizes hold augmented copies of the right images and labels."""
  folder = shared_data.tfds_dir()
  source = loading.load_source('imagenet2012', split='validation', data_dir=folder)
  (originals,) = _evaluation_batches(source, batch_size=64, read={'image_size': 48})
  assert len(np.unique(originals['image'], axis=0)) == 64
  crop = CropFlip(pad=6, pad_mode='constant')
  multiplicity = Multiplicity(64, 6, 2, 7, placement)
  per_group = 1 if placement == 'within' else 2
  start = 10 * per_group  # group 10, positions 60 to 65, spans two epochs
  batches = _batches(source, multiplicity, start, start + 2, crop=crop, read={'image_size': 48})
  assert len(np.unique(batches[0]['epoch'])) == 2
  for step, batch in enumerate(batches, start=start):
    slots = multiplicity.slots(step)
    np.testing.assert_array_equal(batch['image_index'], slots.image_index)
    np.testing.assert_array_equal(batch['label'], originals['label'][slots.image_index])
    images = originals['image'][slots.image_index]
    expected = plain_augmentation.copies(images, slots.seed, crop)
    np.testing.assert_array_equal(batch['image'], expected)


@both_placements
@both_sources
def test_restart_at_any_step(load, kind, placement):
  """Starting at a later step, also in the middle of a group, gives the batches it would have."""
  multiplicity = Multiplicity(_NUM_IMAGES, 5, 3, 1, placement)
  whole = _batches(load(kind), multiplicity, 0, 10)
  for start in (2, 7, 10):
    rest = _batches(load(kind), multiplicity, start, 10)
    assert len(rest) == 10 - start
    chex.assert_trees_all_equal(rest, whole[start:], strict=True)


@pytest.mark.extended
@pytest.mark.parametrize(
  ('unique', 'augmult', 'placement', 'host_count'),
  [
    (4, 4, 'within', 1),
    (4, 4, 'within', 4),
    (4, 4, 'within', 8),  # two hosts share an image
    (3, 4, 'within', 2),  # host 0 ends, and host 1 begins, in the middle of an image
    (4, 3, 'neighbouring', 1),
    (4, 3, 'neighbouring', 4),
  ],
)
@both_sources
def test_hosts_together_make_the_batch(load, kind, unique, augmult, placement, host_count):
  """The parts of all hosts, one after another, are the batch of a single host."""
  multiplicity = Multiplicity(_NUM_IMAGES, unique, augmult, 2, placement)
  whole = _batches(load(kind), multiplicity, 2, 7)
  hosts = [
    _batches(load(kind), multiplicity, 2, 7, host_index=host, host_count=host_count)
    for host in range(host_count)
  ]
  for expected, *parts in zip(whole, *hosts, strict=True):
    assert all(len(part['label']) == multiplicity.batch_size // host_count for part in parts)
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    chex.assert_trees_all_equal(joined, expected, strict=True)


@pytest.mark.parametrize(
  ('placement', 'start_step', 'stop_step', 'groups'),
  [
    ('within', 0, 3, 3),
    ('within', 2, 3, 1),
    ('neighbouring', 0, 12, 3),
    ('neighbouring', 6, 9, 2),  # steps 6 and 7 are of group 1, step 8 of group 2
  ],
)
def test_image_is_read_once_for_its_copies(load, placement, start_step, stop_step, groups):
  """Each unique image of a group is read once, whatever n, also across n batches."""
  source = CountingSource(load('folder'))
  multiplicity = Multiplicity(_NUM_IMAGES, 4, 4, 0, placement)
  batches = _batches(source, multiplicity, start_step, stop_step)
  # 3 groups of 4 are less than an epoch, so no image comes twice.
  assert sum(source.reads.values()) == 4 * groups
  assert set(source.reads) == set(np.concatenate([b['image_index'] for b in batches]).tolist())


def test_hosts_read_only_their_images(load):
  """Four hosts of a batch of eight unique images read two each."""
  multiplicity = Multiplicity(_NUM_IMAGES - 1, 6, 4, 0)
  for host in range(3):
    source = CountingSource(load('folder'))
    _batches(source, multiplicity, 0, 1, host_index=host, host_count=3)
    assert set(source.reads) == set(multiplicity.slots(0).image_index[8 * host : 8 * host + 8])
    assert sum(source.reads.values()) == 2


@both_placements
@both_sources
def test_one_copy_is_the_plain_pipeline(photos, load, kind, placement):
  """Training with n = 1 is: shuffle every epoch, cut into batches, augment each image once."""
  multiplicity = Multiplicity(_NUM_IMAGES, 5, 1, 3, placement)
  order = np.concatenate([multiplicity.epoch_order(epoch) for epoch in range(3)])
  epoch = np.repeat(np.arange(3), _NUM_IMAGES)
  seeds = multiplicity.seeds(order, epoch, np.zeros_like(order))
  copies = plain_augmentation.copies(photos[order], seeds, _CROP)
  for step, batch in enumerate(_batches(load(kind), multiplicity, 0, 7)):
    np.testing.assert_array_equal(batch['image_index'], order[5 * step : 5 * step + 5])
    np.testing.assert_array_equal(batch['image'], copies[5 * step : 5 * step + 5])


@both_sources
def test_more_copies_leave_the_first(load, kind):
  """Copy 0 of n = 4 is, pixel by pixel, the one copy of n = 1, and the others are not."""
  one, many = (
    _batches(load(kind), Multiplicity(_NUM_IMAGES, 5, augmult, 0), 0, 5) for augmult in (1, 4)
  )
  for single, batch in zip(one, many, strict=True):
    np.testing.assert_array_equal(batch['image'][::4], single['image'])
    copies = batch['image'].reshape(5, 4, -1)
    assert np.any(copies != copies[:, :1])


@pytest.mark.parametrize(('batch_size', 'host_count'), [(1, 1), (5, 1), (13, 1), (20, 1), (4, 2)])
@both_sources
def test_evaluation_sees_every_image_once(photos, load, kind, batch_size, host_count):
  """Over all hosts the mask picks every image once, un-augmented; all batches are full."""
  hosts = [
    _evaluation_batches(load(kind), batch_size=batch_size, host_index=host, host_count=host_count)
    for host in range(host_count)
  ]
  num_batches = -(-_NUM_IMAGES // (batch_size * host_count))
  assert [len(batches) for batches in hosts] == [num_batches] * host_count
  seen = []
  for batch in itertools.chain(*hosts):
    assert batch['image'].shape == (batch_size, _SIZE, _SIZE, 3)
    index = batch['image_index'][batch['mask'] == 1]
    assert np.isin(batch['mask'], [0, 1]).all()
    np.testing.assert_array_equal(batch['image'][batch['mask'] == 1], photos[index])
    np.testing.assert_array_equal(batch['label'][batch['mask'] == 1], index)
    seen.extend(index.tolist())
  assert sorted(seen) == list(range(_NUM_IMAGES))


@both_sources
def test_evaluation_of_the_first_images(load, kind):
  """`num_images` limits evaluation to the first so many, and to those that there are."""
  for num_images, expected in ((6, 6), (100, _NUM_IMAGES)):
    batches = _evaluation_batches(load(kind), batch_size=4, num_images=num_images)
    seen = np.concatenate([batch['image_index'][batch['mask'] == 1] for batch in batches])
    assert sorted(seen) == list(range(expected))


def test_file_formats(tmp_path, photos):
  """Grey, transparent, BMP and GIF files all come as three channels; lossless ones exactly."""
  colour = Image.fromarray(photos[0])
  for name in ('a', 'b'):
    (tmp_path / 'train' / name).mkdir(parents=True)
  (tmp_path / 'test').mkdir()
  for name, image in {
    '0.png': colour.convert('L'),
    '1.png': colour.convert('RGBA'),
    '2.bmp': colour,
    '3.gif': colour,
    '4.jpeg': colour,
  }.items():
    image.save(tmp_path / 'train' / ('b' if name == '4.jpeg' else 'a') / name)
  source = loading.load_source('folder', split='train', data_dir=str(tmp_path))
  (batch,) = _evaluation_batches(source, batch_size=5)
  images = batch['image']
  grey = np.asarray(colour.convert('L'))[..., np.newaxis].repeat(3, axis=-1)
  np.testing.assert_array_equal(images[:3], [grey, photos[0], photos[0]])
  assert np.abs(images[3:].astype(float) - photos[0]).mean() < 20


@pytest.fixture(name='bad_folder')
def _bad_folder(tmp_path):
  """Thirteen JPEG files, of which number 4 is cut off in the middle; and the whole ones."""
  for number, photo in enumerate(real_images.photos(_NUM_IMAGES, 24, 24)):
    for folder in ('good', 'bad'):
      class_name = 'a' if number < 7 else 'b'
      real_images.save(photo, tmp_path / folder / 'train' / class_name / f'{number:02}.jpg')
      (tmp_path / folder / 'test').mkdir(exist_ok=True)
  _truncate(tmp_path / 'bad' / 'train' / 'a' / '04.jpg')
  good, bad = (
    loading.load_source('folder', split='train', data_dir=str(tmp_path / folder))
    for folder in ('good', 'bad')
  )
  return good, bad


@both_placements
def test_bad_image_ends_the_run(bad_folder, placement):
  """Under `fail` an image that does not decode raises an error that names its file."""
  multiplicity = Multiplicity(_NUM_IMAGES, _NUM_IMAGES, 2, 0, placement)
  with pytest.raises(sources.BadDataError, match=r"bad/train/a/04.jpg.*on_bad_image='skip'"):
    _batches(bad_folder[1], multiplicity, 0, 2)


def test_bad_image_ends_the_evaluation(bad_folder):
  """Under `fail` evaluation names the file as well."""
  with pytest.raises(sources.BadDataError, match=r'bad/train/a/04.jpg'):
    _evaluation_batches(bad_folder[1], batch_size=5)


@both_placements
def test_bad_image_is_skipped(bad_folder, caplog, placement):
  """Under `skip` exactly its copies have mask 0, all else stays, and the log names it once."""
  good, bad = bad_folder
  multiplicity = Multiplicity(_NUM_IMAGES, 5, 4, 0, placement)
  num_steps = multiplicity.steps_for_epochs(2)
  expected = _batches(good, multiplicity, 0, num_steps)
  actual = _batches(bad, multiplicity, 0, num_steps, read={'on_bad_image': 'skip'})
  num_masked = 0
  for batch, complete in zip(actual, expected, strict=True):
    is_bad = complete['image_index'] == 4
    num_masked += is_bad.sum()
    np.testing.assert_array_equal(batch['mask'], np.where(is_bad, 0, 1).astype(np.float32))
    assert not batch['image'][is_bad].any()
    image = np.where(is_bad[:, None, None, None], batch['image'], complete['image'])
    expected_batch = complete | {'mask': batch['mask'], 'image': image}
    chex.assert_trees_all_equal(batch, expected_batch, strict=True)
  assert num_masked >= 2 * 4
  warnings = [record.getMessage() for record in caplog.records if '04.jpg' in record.getMessage()]
  assert len(warnings) == 1 and 'does not decode and is left out (1 so far)' in warnings[0]


def test_bad_image_is_left_out_of_evaluation(bad_folder):
  """Under `skip` evaluation sees every other image once."""
  batches = _evaluation_batches(bad_folder[1], batch_size=5, read={'on_bad_image': 'skip'})
  seen = np.concatenate([batch['image_index'][batch['mask'] == 1] for batch in batches])
  assert sorted(seen) == [index for index in range(_NUM_IMAGES) if index != 4]


def test_hosts_must_divide_the_batch(load):
  """A batch that hosts cannot share evenly is refused."""
  with pytest.raises(ValueError, match='3 hosts do not divide batch_size=20'):
    _batches(load('array'), Multiplicity(_NUM_IMAGES, 5, 4, 0), 0, 1, host_count=3)


@both_sources
def test_padding_must_fit_the_images(load, kind):
  """Images too small to be mirrored are refused before the first batch, for either source."""
  with pytest.raises(ValueError, match=r'^pad=12 needs images of more than 12 pixels'):
    pipeline.train_batches(
      load(kind),
      Multiplicity(_NUM_IMAGES, 5, 4, 0),
      augmentation=Augmentation(crop=CropFlip(pad=12)),
      start_step=0,
      stop_step=1,
      read_options=ReadOptions(image_size=_SIZE),
    )


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (dict(image_size=0), r'^image_size=0: .*folder/train differ.*image_size=224'),
    (dict(on_bad_image='hide'), "^on_bad_image='hide' must be one of fail, skip"),
  ],
)
def test_decoder_refuses(load, options, message):
  """A missing image size and an unknown policy are named with what to do."""
  with pytest.raises(ValueError, match=message):
    _batches(load('folder'), Multiplicity(_NUM_IMAGES, 5, 4, 0), 0, 1, read=options)
