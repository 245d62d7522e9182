"""Records of prepared data sets at random, in either file format, whole and damaged."""

import concurrent.futures
import io
import pathlib
import re
import shutil
import struct

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from nfnets_augmult.data import pipeline, sources, tfds_source
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.data.decoding import ReadOptions
from nfnets_augmult.data.image_formats import DecodeRules
from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.data.record_files import RECORD_FILES
from tests import shared_data
from tests.data import tfds_files

_SIZE = 16
_GARBAGE, _TRUNCATED = 9, 37  # one in the first shard, one in the third

both_formats = pytest.mark.parametrize('file_format', tfds_files.FORMATS)


def _load(root, split='validation'):
  return tfds_source.tfds_source('imagenet2012', split=split, data_dir=str(root))


@pytest.fixture(scope='module', name='prepared')
def _prepared(tmp_path_factory):
  """The validation sample in both formats, and with two bad images in both."""

  def spoil(number, record):
    if number == _GARBAGE:
      return tfds_files.change_image(record, lambda _: b'no JPEG at all')
    if number == _TRUNCATED:
      return tfds_files.change_image(record, lambda image: image[: len(image) // 2])
    return record

  root = tmp_path_factory.mktemp('tfds')
  for file_format in tfds_files.FORMATS:
    tfds_files.prepare_imagenet(root / file_format, file_format)
    tfds_files.prepare_imagenet(root / f'bad_{file_format}', file_format, change=spoil)
  return root


@pytest.fixture(name='damage')
def _damage(prepared, tmp_path, file_format):
  """A function that changes the bytes of the second shard of a copy and returns its name."""

  def damage(change):
    shutil.copytree(prepared / file_format, tmp_path, dirs_exist_ok=True)
    shard = sorted(tmp_path.glob(f'imagenet2012/5.1.0/*.{file_format}-*'))[1]
    content = bytearray(shard.read_bytes())
    shard.write_bytes(change(content) or content)
    return shard.name

  return damage


def _batches(source, start_step, stop_step, *, on_bad_image='fail', **options):
  return list(
    pipeline.train_batches(
      source,
      Multiplicity(source.num_images, 8, 2, 3),
      augmentation=Augmentation(crop=CropFlip(pad=2)),
      start_step=start_step,
      stop_step=stop_step,
      read_options=ReadOptions(image_size=_SIZE, on_bad_image=on_bad_image),
      **options,
    )
  )


def _assert_equal(actual, expected):
  assert len(actual) == len(expected) > 0
  for batch, other in zip(actual, expected, strict=True):
    assert batch.keys() == other.keys()
    for key in batch:
      np.testing.assert_array_equal(batch[key], other[key], err_msg=key)


@both_formats
def test_records_by_index(prepared, file_format):
  """Any index, in any order and from many threads, gives the image and label of tfds."""
  source = _load(prepared / file_format)
  examples = tfds.load(
    'imagenet2012',
    split='validation',
    data_dir=shared_data.tfds_dir(),
    download=False,
    decoders={'image': tfds.decode.SkipDecoding()},
    read_config=tfds.ReadConfig(interleave_cycle_length=1),  # one shard after the other
  )
  expected = list(examples.as_numpy_iterator())
  assert source.num_images == len(expected) == 64
  order = np.random.default_rng(0).permutation(np.arange(64).repeat(4))
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    for index, actual in zip(order, pool.map(source.read, order), strict=True):
      assert actual == (expected[index]['image'], expected[index]['label'])
  name = expected[63]['file_name'].decode()
  assert source.image_name(63) == f'{name} (imagenet2012/validation[63])'


@both_formats
def test_part_of_a_split(prepared, file_format):
  """Parts count from zero, also where they begin in the middle of a shard and span several."""
  whole = _load(prepared / file_format)
  for part, expected in {
    'validation[10:40]': range(10, 40),
    'validation[:25%]': range(16),
    'validation[-3:]': range(61, 64),
  }.items():
    source = _load(prepared / file_format, part)
    assert source.num_images == len(expected)
    for index in (0, len(expected) // 2, len(expected) - 1):
      assert source.read(index) == whole.read(expected[index])
    assert source.image_name(2).endswith(f'(imagenet2012/{part}[2])')


@both_formats
@pytest.mark.parametrize('index', [-1, 64])
def test_no_other_index(prepared, file_format, index):
  """An index that the split does not have is an error, not another record."""
  with pytest.raises(IndexError, match=f'has 64 images: no {index}'):
    _load(prepared / file_format).read(index)


@pytest.mark.parametrize('split', ['validation[:0]', 'validation[:', 'validation[a:b]'])
def test_refuses_other_parts(prepared, split):
  """Empty parts and misspelt ones are named."""
  with pytest.raises(ValueError, match=split.replace('[', r'\[')):
    _load(prepared / 'tfrecord', split)


@pytest.mark.parametrize('host_count', [1, pytest.param(2, marks=pytest.mark.extended), 4])
def test_batches_do_not_depend_on_format_and_hosts(prepared, host_count):
  """Over two epochs the parts of all hosts are the batches of one host, in either format."""
  expected = _batches(_load(prepared / 'tfrecord'), 0, 16)
  source = _load(prepared / 'array_record')
  hosts = [
    _batches(source, 0, 16, host_index=host, host_count=host_count) for host in range(host_count)
  ]
  joined = [
    {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    for parts in zip(*hosts, strict=True)
  ]
  _assert_equal(joined, expected)


@pytest.mark.parametrize(
  'file_format', ['tfrecord', pytest.param('array_record', marks=pytest.mark.extended)]
)
def test_resume_reads_nothing_before(prepared, file_format, monkeypatch):
  """From any step on the batches are the same, and only their own images are read."""
  reads = []
  record_file = RECORD_FILES[file_format]
  plain_read = record_file.read

  def read(self, number):
    reads.append(number)
    return plain_read(self, number)

  monkeypatch.setattr(record_file, 'read', read)
  whole = _batches(_load(prepared / file_format), 0, 11)
  source = _load(prepared / file_format)
  for start in (4, 10):
    reads.clear()
    _assert_equal(_batches(source, start, 11), whole[start:])
    assert len(reads) == 8 * (11 - start)
  reads.clear()
  _batches(source, 10**6, 10**6 + 1)
  assert len(reads) == 8


@both_formats
def test_bad_image_is_named(prepared, file_format):
  """Under `fail` the first image that does not decode ends the run with its file name."""
  source = _load(prepared / f'bad_{file_format}')
  names = '|'.join(source.image_name(index).split()[0] for index in (_GARBAGE, _TRUNCATED))
  with pytest.raises(sources.BadDataError, match=rf'({names}) \(imagenet2012/validation\['):
    _batches(source, 0, 8)


@both_formats
def test_bad_images_are_left_out(prepared, file_format):
  """Under `skip` exactly the copies of the two bad images have mask 0; all else stays."""
  expected = _batches(_load(prepared / file_format), 0, 16)
  actual = _batches(_load(prepared / f'bad_{file_format}'), 0, 16, on_bad_image='skip')
  num_masked = 0
  for batch, complete in zip(actual, expected, strict=True):
    is_bad = np.isin(complete['image_index'], [_GARBAGE, _TRUNCATED])
    num_masked += is_bad.sum()
    np.testing.assert_array_equal(batch['mask'], np.where(is_bad, 0, 1))
    complete['mask'] = np.where(is_bad, 0, complete['mask'])
    complete['image'] = np.where(is_bad[:, None, None, None], batch['image'], complete['image'])
  assert num_masked == 2 * 2 * 2  # two images, two copies, two epochs
  _assert_equal(actual, expected)


@both_formats
@pytest.mark.parametrize(
  'change',
  [
    lambda content: content[:-10],
    lambda content: content[: len(content) // 2],
    lambda content: content[:3],
    lambda content: content + bytes(100),
    lambda content: b'garbage' * 10_000,
    lambda content: bytes(len(content)),
  ],
  ids=['end', 'half', 'start', 'longer', 'garbage', 'zeros'],
)
def test_damaged_file_is_named(damage, tmp_path, file_format, change):
  """A file of the wrong length or content is an error that names it; other files still work."""
  name = damage(change)
  source = _load(tmp_path)
  assert source.read(15)
  with pytest.raises(ValueError, match=f'{name} does not hold the 16 whole records'):
    source.read(16)


def _last_record(content):
  """Where the last record of a TFRecord file begins."""
  begin, end = 0, 0
  while end < len(content):
    begin, end = end, end + 16 + struct.unpack_from('<Q', content, end)[0]
  return begin


@pytest.mark.parametrize('file_format', ['tfrecord'])
@pytest.mark.parametrize(
  'change',
  [lambda content: content[: _last_record(content)], lambda content: content + content],
  ids=['one fewer', 'twice'],
)
def test_number_of_records_must_agree(damage, tmp_path, change):
  """A file of whole records, but not as many as `dataset_info.json` says, is named."""
  name = damage(change)
  with pytest.raises(ValueError, match=f'{name} does not hold the 16 whole records'):
    _load(tmp_path).read(16)


@pytest.mark.parametrize('file_format', ['tfrecord'])
@pytest.mark.parametrize('size', [0, 2**40, 2**63, 2**64 - 1])
def test_garbage_size_allocates_nothing(damage, tmp_path, size):
  """A record whose size is garbage is an error that names the file, whatever the size."""

  def change(content):
    content[:8] = struct.pack('<Q', size)

  name = damage(change)
  with pytest.raises(ValueError, match=f'{name} does not hold the 16 whole records'):
    _load(tmp_path).read(20)


@both_formats
def test_a_single_wrong_bit_is_found(damage, tmp_path, file_format):
  """No read returns other bytes than were written: a damaged record raises, naming the file."""

  def change(content):
    content[len(content) // 2] ^= 4

  whole = _load(shared_data.tfds_dir())
  name = damage(change)
  source = _load(tmp_path)
  num_errors = 0
  for index in range(64):
    try:
      assert source.read(index) == whole.read(index)
    except ValueError as error:
      assert name in str(error) and 'is damaged' in str(error)
      num_errors += 1
  # A block of an array_record file may hold parts of two records.
  assert 1 <= num_errors <= 2


@pytest.mark.parametrize('file_format', ['tfrecord'])
def test_damage_ends_the_run_under_either_policy(damage, tmp_path):
  """Nothing of a damaged record can be trusted, so it is not skipped; the file is named."""

  def change(content):
    content[1000] ^= 1

  name = damage(change)
  for policy in sources.BAD_IMAGE_POLICIES:
    with pytest.raises(sources.BadDataError, match=f'{name} is damaged'):
      _batches(_load(tmp_path), 0, 8, on_bad_image=policy)


@both_formats
def test_missing_file_is_named(prepared, tmp_path, file_format):
  """A shard that was not copied is named when it is needed."""
  shutil.copytree(prepared / file_format, tmp_path, dirs_exist_ok=True)
  shard = sorted(tmp_path.glob(f'imagenet2012/5.1.0/*.{file_format}-*'))[1]
  shard.unlink()
  with pytest.raises((ValueError, tf.errors.NotFoundError), match=shard.name):
    _load(tmp_path).read(16)


@both_formats
def test_record_without_image_is_named(tmp_path, file_format):
  """Records that are no examples, or examples without an image, are told by their place."""

  def change(number, record):
    example = tf.train.Example.FromString(record)
    del example.features.feature['image']
    return {3: b'no example at all', 4: example.SerializeToString()}.get(number, record)

  tfds_files.prepare_imagenet(tmp_path, file_format, change=change)
  source = _load(tmp_path)
  with pytest.raises(ValueError, match=r'imagenet2012/validation\[3\] is no tf.train.Example'):
    source.read(3)
  with pytest.raises(ValueError, match=r"imagenet2012/validation\[4\] lacks 'image'"):
    source.read(4)


@both_formats
def test_few_files_are_open(prepared, file_format, monkeypatch):
  """With more files than may be open at a time reading goes on, and gives the same."""
  monkeypatch.setattr(RECORD_FILES[file_format], 'max_open', 2)
  few, all_open = (_load(prepared / file_format) for _ in range(2))
  for index in np.random.default_rng(1).permutation(64):
    assert few.read(index) == all_open.read(index)


def test_conversion_of_the_docs(tmp_path, monkeypatch):
  """The lines that convert to array_record give the same records in the same order."""
  page = pathlib.Path(__file__).parents[2] / 'docs' / 'reproducibility.md'
  (lines,) = re.findall(r'```py\n(.*?)```', page.read_text(encoding='utf-8'), re.DOTALL)
  (tmp_path / 'data').symlink_to(shared_data.tfds_dir())
  monkeypatch.chdir(tmp_path)
  exec(compile(lines, page.name, 'exec'), {})
  for split, num_images in (('train', 256), ('validation', 64)):
    old, new = (_load(tmp_path / folder, split) for folder in ('data', 'array_record'))
    assert new.num_images == num_images
    assert all(new.read(index) == old.read(index) for index in range(num_images))


with tfds.core.registered.skip_registration():

  class Noise(tfds.core.GeneratorBasedBuilder):
    """Thirty small grey images of three classes."""

    VERSION = tfds.core.Version('1.0.0')
    IMAGES = np.random.default_rng(0).integers(0, 256, (30, 5, 7, 1), np.uint8)

    def _info(self):
      features = {
        'image': tfds.features.Image(shape=(5, 7, 1), encoding_format='png'),
        'label': tfds.features.ClassLabel(names=['a', 'b', 'c']),
      }
      return self.dataset_info_from_configs(
        features=tfds.features.FeaturesDict(features),
        supervised_keys=('image', 'label'),
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager):
      return {'train': self._generate_examples()}

    def _generate_examples(self):
      for number, image in enumerate(self.IMAGES):
        yield number, dict(image=image, label=number % 3)


@both_formats
def test_images_of_one_shape_are_held_in_memory(tmp_path, file_format):
  """What TensorFlow Datasets itself writes in either format, images of one shape: as arrays."""
  Noise(data_dir=str(tmp_path), file_format=file_format).download_and_prepare()
  (file,) = tmp_path.glob(f'noise/1.0.0/*{file_format}*')
  for split, part in (('train', slice(30)), ('train[4:9]', slice(4, 9))):
    source = tfds_source.tfds_source('noise', split=split, data_dir=str(tmp_path))
    np.testing.assert_array_equal(source.images, Noise.IMAGES[part])
    np.testing.assert_array_equal(source.labels, np.arange(30)[part] % 3)
    assert source.class_names == ('a', 'b', 'c') and source.labels.dtype == np.int32
  file.write_bytes(file.read_bytes()[:-10])
  with pytest.raises(ValueError, match=r'noise/train in .*noise/1.0.0 is damaged'):
    tfds_source.tfds_source('noise', split='train', data_dir=str(tmp_path))


@both_formats
@pytest.mark.parametrize('in_memory', [True, False])
def test_images_without_a_label_are_refused(tmp_path, file_format, in_memory, monkeypatch):
  """A label of -1, of one image or of all, is counted before any image is used."""
  if not in_memory:
    monkeypatch.setattr(tfds_source, '_MAX_BYTES_IN_MEMORY', 0)
  Noise(data_dir=str(tmp_path), file_format=file_format).download_and_prepare()
  (file,) = tmp_path.glob(f'noise/1.0.0/*{file_format}*')
  records = list(_records(file, file_format))

  def load(labels):
    file.unlink()
    with tfds_files.writer(file, file_format) as writer:
      for record, label in zip(records, labels, strict=True):
        example = tf.train.Example.FromString(record)
        example.features.feature['label'].int64_list.value[:] = [] if label is None else [label]
        writer.write(example.SerializeToString())
    return tfds_source.tfds_source('noise', split='train', data_dir=str(tmp_path))

  good = [number % 3 for number in range(30)]
  assert load(good).num_images == 30
  for labels, message in (
    ([-1] * 30, r"split 'train' of 'noise' has 30 images without a label \(-1\)"),
    ([*good[:29], -1], 'has 1 images without a label'),
    ([*good[:29], None], 'has 1 images without a label'),
    ([*good[:28], 3, 3], r'has 2 images with labels outside \[0, 3\), as 3'),
    ([*good[:29], 2**40], r'has 1 images with labels outside \[0, 3\)'),
  ):
    with pytest.raises(ValueError, match=message):
      load(labels)


@both_formats
def test_every_label_is_checked_when_it_is_read(tmp_path, file_format, monkeypatch):
  """Of a large split some labels are looked at first; a wrong one elsewhere names its image."""
  wrong = 40

  def change(number, record):
    example = tf.train.Example.FromString(record)
    if number == wrong:
      example.features.feature['label'].int64_list.value[:] = [-1]
    return example.SerializeToString()

  tfds_files.prepare_imagenet(tmp_path, file_format, change=change)
  with pytest.raises(ValueError, match='has 1 images without a label'):
    _load(tmp_path)
  for key, value in (('_MOST_RECORDS_LOOKED_AT', 10), ('_STRETCHES', 2), ('_STRETCH', 4)):
    monkeypatch.setattr(tfds_source, key, value)
  source = _load(tmp_path)
  with pytest.raises(ValueError, match=r'imagenet2012/validation\[40\]\) has no label'):
    source.read(wrong)
  with pytest.raises(sources.BadDataError, match=r'validation\[40\]\) has no label'):
    _batches(source, 0, 8, on_bad_image='skip')


@both_formats
def test_images_in_memory_follow_the_same_rules(tmp_path, file_format):
  """Turned and palette images are read as they are from files; a bad or other one is named."""
  Noise(data_dir=str(tmp_path), file_format=file_format).download_and_prepare()
  (file,) = tmp_path.glob(f'noise/1.0.0/*{file_format}*')
  records = list(_records(file, file_format))

  def load(number, encoded, **rules):
    file.unlink()
    with tfds_files.writer(file, file_format) as writer:
      for index, record in enumerate(records):
        change = (lambda _: encoded) if index == number else (lambda image: image)
        writer.write(tfds_files.change_image(record, change))
    return tfds_source.tfds_source(
      'noise', split='train', data_dir=str(tmp_path), rules=DecodeRules(**rules)
    ).images

  def encode(image, **options):
    content = io.BytesIO()
    image.save(content, **options)
    return content.getvalue()

  grey = Image.fromarray(Noise.IMAGES[3, ..., 0])
  exif = Image.Exif()
  exif[0x0112] = 3
  turned = encode(grey, format='PNG', exif=exif)
  np.testing.assert_array_equal(load(3, turned)[3], Noise.IMAGES[3][::-1, ::-1])
  expected = Noise.IMAGES
  np.testing.assert_array_equal(load(3, turned, apply_orientation=False), expected)
  palette = encode(Image.fromarray(Noise.IMAGES[3, ..., 0], 'L').convert('P'), format='BMP')
  np.testing.assert_array_equal(load(3, palette), expected)
  for encoded, message in (
    (turned[:60], r'noise/train.* is damaged.*noise/train\[3\]\): PNG that is cut off'),
    (b'no image', r'noise/train\[3\]\): it is not an image'),
    (encode(grey.resize((9, 9)), format='PNG'), r'train\[3\]\) is \[9, 9, 1\], not \[5, 7, 1\]'),
  ):
    with pytest.raises(ValueError, match=message):
      load(3, encoded)
  with pytest.raises(ValueError, match=r'7 x 5 pixels, more than max_pixels=30'):
    load(3, turned, max_pixels=30)


def _records(file, file_format):
  record_file = RECORD_FILES[file_format](str(file), 30)
  return [bytes(record_file.read(number)) for number in range(30)]
