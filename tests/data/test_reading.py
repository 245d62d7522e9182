"""Images decoded without Python, and those that are left to the reader that keeps account."""

import io
import os
import shutil
import struct
import threading

import chex
import numpy as np
import pytest
from PIL import Image

from nfnets_augmult.data import decoding, loading, pipeline, single_images, sources
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.data.decoding import DecodeError, ImageReader, ReadOptions
from nfnets_augmult.data.evaluation_crop import EvaluationCrop
from nfnets_augmult.data.image_formats import DecodeRules
from nfnets_augmult.data.inception_crop import InceptionCrop
from nfnets_augmult.data.multiplicity import Multiplicity
from tests import real_images

_SIZE = 24
_RULES = DecodeRules(max_pixels=400 * 600)
_TURNED = 6
_BAD = ('broken.jpg', 'cut.jpg', 'empty.jpg', 'oversized.jpg')
_FORGED = 'forged.jpg'


def _encode(image, kind='JPEG', **options):
  content = io.BytesIO()
  image.save(content, format=kind, **options)
  return content.getvalue()


def _with_size(jpeg, height, width):
  """The JPEG with another size in its header."""
  place = jpeg.index(b'\xff\xc0') + 5
  return jpeg[:place] + struct.pack('>HH', height, width) + jpeg[place + 4 :]


def _files():
  """By name: images that TensorFlow decodes, images for the reader, and images that are bad."""
  photo, other = map(Image.fromarray, real_images.photos(2, 120, 180))
  large = photo.resize((600, 400))
  exif = Image.Exif()
  exif[0x0112] = _TURNED
  jpeg = _encode(other, quality=95)
  table = jpeg.index(b'\xff\xc4')
  return {
    'plain.jpg': _encode(photo),
    'progressive.jpg': _encode(other, progressive=True),
    'grey.jpg': _encode(photo.convert('L')),
    'large.jpg': _encode(large),
    'strip.jpg': _encode(photo.resize((400, 5))),
    'pixel.jpg': _encode(photo.resize((1, 1))),
    'cmyk.jpg': _encode(photo.convert('CMYK')),
    'turned.jpg': _encode(photo, exif=exif),
    'more_behind.jpg': jpeg + b'more',
    'rgb.png': _encode(photo, 'PNG'),
    'named_wrongly.jpg': _encode(other, 'PNG'),
    'palette.png': _encode(photo.convert('P'), 'PNG'),
    'palette.gif': _encode(other.convert('P'), 'GIF'),
    'turned.png': _encode(photo, 'PNG', exif=exif),
    # Of another size than it has, but not more than the file has room for: it shows a part.
    'forged_small.jpg': _with_size(jpeg, 60, 90) + b'\xff\xd9',
    # Its header is whole, and so is its end; only decoding finds out.
    'broken.jpg': jpeg[: table + 5] + b'\xff' * 40 + jpeg[table + 45 :],
    'cut.jpg': jpeg[: len(jpeg) // 2],
    'empty.jpg': b'',
    _FORGED: _with_size(jpeg, 360, 540),
    'oversized.jpg': _encode(photo.resize((601, 400))),
  }


@pytest.fixture(scope='module', name='folder')
def _folder(tmp_path_factory):
  root = tmp_path_factory.mktemp('odd')
  for number, (name, content) in enumerate(sorted(_files().items())):
    for split in ('train', 'test'):
      path = root / split / 'ab'[number % 2] / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(content)
  return root


def _load(folder):
  return loading.load_source('folder', split='train', data_dir=str(folder))


def _name(source, index):
  return os.path.basename(source.image_id(index))


def _options(policy='skip', **options):
  return ReadOptions(**{'image_size': _SIZE, 'on_bad_image': policy, 'rules': _RULES} | options)


def _batches(source, multiplicity, crop, options, start=0, stop=2):
  return list(
    pipeline.train_batches(
      source,
      multiplicity,
      augmentation=Augmentation(crop=crop),
      start_step=start,
      stop_step=stop,
      read_options=options,
    )
  )


def _by_reader(source, index, seeds, crop, options):
  """All copies of an image by itself, decoded in Python, and its mask."""
  encoded, _ = source.read(int(index))
  try:
    copies = single_images.augmented_copies(
      encoded, seeds, Augmentation(crop=crop), size=_SIZE, options=options
    )
    return copies, 1.0
  except DecodeError:
    return np.zeros((len(seeds), _SIZE, _SIZE, 3), np.uint8), 0.0


@pytest.mark.parametrize(
  ('crop', 'unique', 'augmult', 'placement', 'scaling'),
  [
    (InceptionCrop(), 20, 1, 'within', True),
    (InceptionCrop((0.9, 1.0)), 7, 2, 'within', False),
    (InceptionCrop(), 3, 5, 'neighbouring', True),
    (CropFlip(pad=3), 7, 2, 'neighbouring', False),
    (CropFlip(pad=3), 20, 1, 'within', True),
  ],
)
def test_pixels_and_account_are_those_of_the_reader(
  folder, caplog, crop, unique, augmult, placement, scaling
):
  """Of files of all kinds, whatever else is in their batch; each bad one is named once."""
  source, options = _load(folder), _options(jpeg_scaling=scaling)
  multiplicity = Multiplicity(source.num_images, unique, augmult, 1, placement)
  bad, good = set(), set()
  steps = multiplicity.steps_for_epochs(1)
  for batch in _batches(source, multiplicity, crop, options, stop=steps):
    rows = zip(*(batch[key] for key in ('image_index', 'epoch', 'copy_index')), strict=True)
    for slot, (index, epoch, copy) in enumerate(rows):
      seeds = multiplicity.seeds(np.int64(index), epoch, np.arange(augmult))
      expected, mask = _by_reader(source, index, seeds, crop, options)
      name = _name(source, index)
      np.testing.assert_array_equal(batch['image'][slot], expected[copy], err_msg=name)
      assert batch['mask'][slot] == mask, name
      assert batch['label'][slot] == source.labels[index]
      (good if mask else bad).add(name)
  assert not good & bad and good | bad == set(_files())
  # A window of a forged size may be within what there is.
  assert bad - {_FORGED} == set(_BAD)
  messages = [record.getMessage() for record in caplog.records]
  for name in bad:
    named = [text for text in messages if f'/{name}: ' in text]
    assert len(named) == 1 and 'does not decode and is left out' in named[0]


@pytest.mark.parametrize('kind', ['crop_then_resize', 'resize_then_crop'])
def test_centres_are_those_of_the_reader(folder, kind):
  """Evaluation reads in the same way."""
  source, options, crop = _load(folder), _options(), EvaluationCrop(kind, padding=4)
  batches = list(pipeline.evaluation_batches(source, batch_size=8, crop=crop, read_options=options))
  joined = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
  num_bad = 0
  for slot, index in enumerate(joined['image_index'][: source.num_images]):
    assert joined['label'][slot] == source.labels[index]
    try:
      expected = single_images.centre(source.read(int(index))[0], crop, options)
    except DecodeError:
      expected, num_bad = 0, num_bad + 1
      assert not joined['mask'][slot]
    np.testing.assert_array_equal(joined['image'][slot], expected, err_msg=_name(source, index))
  assert joined['mask'].sum() == source.num_images - num_bad and num_bad >= len(_BAD)


@pytest.mark.parametrize('name', _BAD)
def test_each_bad_image_ends_the_run(tmp_path, folder, name):
  """Under `fail`, with the reason that the reader gives, whichever way it was found."""
  shutil.copytree(folder, tmp_path / 'one')
  for other in {*_BAD, _FORGED} - {name}:
    for path in (tmp_path / 'one').rglob(other):
      path.unlink()
  source, options = _load(tmp_path / 'one'), _options('fail')
  index = [_name(source, index) for index in range(source.num_images)].index(name)
  with pytest.raises(DecodeError) as reason:
    decoding.decode(source.read(index)[0], _RULES)
  with pytest.raises(sources.BadDataError, match=rf'does not decode: .*/{name}: ') as error:
    _batches(
      source, Multiplicity(source.num_images, source.num_images, 1, 0), InceptionCrop(), options
    )
  assert str(reason.value) in str(error.value)


def test_missing_file_ends_the_run(tmp_path, folder):
  """Under `skip` too: a file that was listed and is gone is no image that does not decode."""
  shutil.copytree(folder, tmp_path / 'gone')
  source = _load(tmp_path / 'gone')
  next((tmp_path / 'gone' / 'train').rglob('rgb.png')).unlink()
  with pytest.raises(sources.BadDataError, match=r'cannot be read: .*rgb.png.*No such file'):
    _batches(
      source, Multiplicity(source.num_images, source.num_images, 1, 0), InceptionCrop(), _options()
    )


@pytest.fixture(name='given')
def _given(monkeypatch):
  """The names of what the reader is given to decode."""
  given, decode = [], ImageReader.decode

  def note(self, index, *arguments):
    given.append(_name(self._source, index))
    return decode(self, index, *arguments)

  monkeypatch.setattr(ImageReader, 'decode', note)
  return given


_PLAIN = ('plain.jpg', 'progressive.jpg', 'grey.jpg', 'large.jpg', 'strip.jpg', 'pixel.jpg')


def test_plain_jpegs_are_decoded_without_python(tmp_path, given):
  """Nothing else is what makes the input fast."""
  for name in _PLAIN:
    path = tmp_path / 'train' / ('a' if name < 'm' else 'b') / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_files()[name])
  (tmp_path / 'test').mkdir()
  source = _load(tmp_path)
  for augmult in (1, 3):
    for crop in (InceptionCrop(), CropFlip(pad=2)):
      _batches(source, Multiplicity(len(_PLAIN), 6, augmult, 0), crop, _options('fail'))
  assert not given
  (tmp_path / 'train' / 'a' / 'grey.jpg').write_bytes(_files()['cmyk.jpg'])
  _batches(source, Multiplicity(len(_PLAIN), 6, 1, 0), InceptionCrop(), _options('fail'))
  assert set(given) == {'grey.jpg'}


def test_a_failure_costs_no_more_than_its_call(folder, given, monkeypatch):
  """The images beside one that does not decode are decoded again, those of other calls are not."""
  monkeypatch.setattr('nfnets_augmult.data.reading._BOXES_PER_CALL', 4)
  source = _load(folder)
  multiplicity = Multiplicity(source.num_images, 20, 1, 0)
  (batch,) = _batches(source, multiplicity, InceptionCrop(), _options(), stop=1)
  names = [_name(source, index) for index in batch['image_index']]
  calls = [names[start : start + 4] for start in range(0, 20, 4)]
  hidden = {'broken.jpg', _FORGED}  # only decoding finds out
  beside = {name for call in calls if hidden & set(call) for name in call}
  plain = {*_PLAIN, 'forged_small.jpg'}
  assert set(names) - plain <= set(given) <= (set(names) - plain) | beside
  assert plain & beside <= set(given) and plain - beside


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason='one processor reads one file at a time')
def test_files_are_read_in_parallel(folder):
  """The first read waits for one of another call."""
  both = threading.Barrier(2)

  class Waiting:
    """A source whose first two reads must overlap."""

    def __init__(self, source):
      self._source = source
      self._reads = iter(range(source.num_images * 10))

    def __getattr__(self, name):
      return getattr(self._source, name)

    def read(self, index):
      if next(self._reads) < 2:
        both.wait(timeout=60)
      return self._source.read(index)

  source = _load(folder)
  multiplicity = Multiplicity(source.num_images, 20, 1, 0)
  waited, expected = (
    _batches(kind, multiplicity, InceptionCrop(), _options()) for kind in (Waiting(source), source)
  )
  chex.assert_trees_all_equal(waited, expected)
