"""Data sets by index: bundled, in a folder, and prepared by TensorFlow Datasets."""

import pathlib
import re
import shutil
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn import datasets

from nfnets_augmult.data import loading, sources
from tests import real_images, shared_data


def test_digits_are_all_there_once():
  """1,437 training and 360 test digits are together scikit-learn's 1,797, with their labels."""
  train, test = (loading.load_source('digits', split=split) for split in ('train', 'test'))
  assert (train.num_images, test.num_images) == (1437, 360)
  digits = datasets.load_digits()
  ours = np.concatenate([train.images, test.images])
  assert ours.shape == (1797, 8, 8, 1) and ours.dtype == np.uint8
  # Exact duplicates do not occur, so a sorted list of (pixels, label) tells any two sets apart.
  labels = np.concatenate([train.labels, test.labels])
  levels = np.round(ours.reshape(1797, 64) * (16 / 255)).astype(int)
  actual = sorted(map(tuple, np.column_stack([levels, labels])))
  expected = sorted(map(tuple, np.column_stack([digits.data.astype(int), digits.target])))
  assert len(set(expected)) == 1797
  assert actual == expected
  assert ours.max() == 255


def test_digits_without_the_file_come_from_the_loader_of_scikit_learn(monkeypatch):
  """Were the file in another place in a later version, the images would be the same."""
  before = loading.load_source('digits', split='test')
  monkeypatch.setattr(pathlib.Path, 'is_file', lambda self: False)
  load_digits = mock.Mock(wraps=datasets.load_digits)
  monkeypatch.setattr(datasets, 'load_digits', load_digits)
  after = loading.load_source('digits', split='test')
  load_digits.assert_called_once()
  np.testing.assert_array_equal(after.images, before.images)
  np.testing.assert_array_equal(after.labels, before.labels)


def test_digits_do_not_import_scikit_learn():
  """Its import takes a second of every start."""
  code = (
    'import sys; from nfnets_augmult.data import sources; '
    "sources.digits_source(split='test'); sys.exit('sklearn' in sys.modules)"
  )
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


@pytest.mark.parametrize('split', ['train', 'test'])
def test_digits_have_all_classes(split):
  """Each of the ten classes is in each split, in about equal numbers."""
  source = loading.load_source('digits', split=split)
  counts = np.bincount(source.labels, minlength=10)
  assert source.labels.dtype == np.int32
  assert len(counts) == 10 == len(source.class_names)
  assert counts.min() > 0.6 * source.num_images / 10


def test_parts_of_the_digits_share_no_image():
  """Written as in TensorFlow Datasets; together two parts are the split, in its order."""
  whole, head, tail = (
    loading.load_source('digits', split=f'train{part}') for part in ('', '[:400]', '[400:]')
  )
  assert (head.num_images, tail.num_images) == (400, 1037)
  np.testing.assert_array_equal(np.concatenate([head.images, tail.images]), whole.images)
  np.testing.assert_array_equal(np.concatenate([head.labels, tail.labels]), whole.labels)
  with pytest.raises(ValueError, match=r"'train\[half\]' of 'digits' is not a split"):
    loading.load_source('digits', split='train[half]')


def test_digits_are_pinned():
  """The division is the same in every version: the first labels of either split."""
  labels = [loading.load_source('digits', split=s).labels[:8].tolist() for s in ('train', 'test')]
  assert labels == [[1, 0, 3, 5, 0, 1, 1, 5], [9, 6, 7, 5, 7, 0, 7, 1]]


def test_cifar100_has_its_images_and_classes():
  """10,000 images in the test split, 100 of each class."""
  source = loading.load_source('cifar100', split='test', data_dir=shared_data.real_tfds_dir())
  np.testing.assert_array_equal(np.bincount(source.labels), np.full(100, 100))
  assert source.class_names[:2] == ('apple', 'aquarium_fish')


def test_cifar100_is_held_in_memory():
  """All images of the test split, in the order and with the labels and classes of tfds."""
  folder = shared_data.tfds_dir()
  source = loading.load_source('cifar100', split='test', data_dir=folder)
  info = tfds.builder('cifar100', data_dir=folder).info
  num_images = info.splits['test'].num_examples
  assert source.images.shape == (num_images, 32, 32, 3) and source.images.dtype == np.uint8
  assert source.labels.shape == (num_images,) and source.labels.dtype == np.int32
  assert source.class_names == tuple(info.features['label'].names)
  assert source.image_name(7) == 'cifar100/test[7]'
  file_order = tfds.ReadConfig(interleave_cycle_length=1)
  examples = tfds.load(
    'cifar100', split='test', data_dir=folder, download=False, read_config=file_order
  )
  for index, example in enumerate(examples.take(100).as_numpy_iterator()):
    np.testing.assert_array_equal(source.images[index], example['image'])
    assert source.labels[index] == example['label']


@pytest.mark.parametrize(('split', 'num_images'), [('train', 256), ('validation', 64)])
def test_imagenet_records_by_index(split, num_images):
  """Record i of an encoded data set is example i of its files in order, byte for byte."""
  folder = shared_data.tfds_dir()
  source = loading.load_source('imagenet2012', split=split, data_dir=folder)
  examples = tfds.load(
    'imagenet2012',
    split=split,
    data_dir=folder,
    download=False,
    decoders={'image': tfds.decode.SkipDecoding()},
    read_config=tfds.ReadConfig(interleave_cycle_length=1),  # one shard after the other
  )
  expected = list(examples.as_numpy_iterator())
  assert source.num_images == len(expected) == num_images
  for index in np.random.default_rng(0).permutation(num_images):
    encoded, label = source.read(index)
    assert encoded == expected[index]['image'], index
    assert label == expected[index]['label'], index
  name = expected[5]['file_name'].decode()
  assert source.image_name(5) == f'{name} (imagenet2012/{split}[5])'
  assert len(source.class_names) == 1000


def test_version_can_be_asked_for(tmp_path):
  """Of several prepared versions the newest is taken, or the one after the colon."""
  for version in ('5.9.0', '5.10.0', '5.2.0'):
    prepared = tmp_path / 'imagenet2012' / version
    prepared.mkdir(parents=True)
    for file in ('dataset_info.json', 'features.json', 'label.labels.txt'):
      shutil.copyfile(f'{shared_data.tfds_dir()}/imagenet2012/5.1.0/{file}', prepared / file)
    info = prepared / 'dataset_info.json'
    info.write_text(re.sub(r'"version": "[\d.]*"', f'"version": "{version}"', info.read_text()))
    names = prepared / 'label.labels.txt'
    names.write_text(names.read_text().replace('n01440764', f'class of {version}'))

  def first_class(name):
    source = loading.load_source(name, split='validation', data_dir=str(tmp_path))
    return source.class_names[0]

  assert first_class('imagenet2012:5.9.0') == 'class of 5.9.0'
  assert first_class('imagenet2012') == 'class of 5.10.0'


@pytest.mark.parametrize(
  ('folder', 'name', 'split', 'message'),
  [
    ('', 'digits', 'validation', "'digits' has no split 'validation'; it has train, test"),
    ('', 'folder', 'train', "^data_dir='' is missing: say where the data set 'folder' is"),
    ('', 'cifar100', 'train', "^data_dir='' is missing: .*'cifar100' is, with data_dir=DIR"),
    ('prepared', 'cifar100', 'validation', "'cifar100' has no split 'validation'; it has train, t"),
    ('prepared', 'imagenet2012', 'test', "'imagenet2012' has no split 'test'; it has train, val"),
    ('prepared', 'cifar1000', 'train', "unknown .*'cifar1000'.* there: cifar100, imagenet2012"),
    ('prepared', 'mnist', 'train', "not prepared .*builder.'mnist'.*prepare.*allow_download=True"),
    ('prepared', 'cifar100:1.0.0', 'train', "'cifar100:1.0.0' is not prepared"),
    (
      'empty',
      'folder',
      'train',
      'has no class folder: data_dir=DIR needs one sub-folder per class',
    ),
    ('empty', 'folder', 'validation', "'folder' has no split 'validation'; it has train, test"),
    ('empty', 'cifar100', 'train', 'is not prepared .*nothing is prepared there.*_prepare'),
    ('absent', 'folder', 'train', "data_dir='.*absent' is not a folder"),
    ('absent', 'cifar100', 'train', "data_dir='.*absent' is not a folder"),
  ],
)
def test_refuses_what_is_not_there(tmp_path, folder, name, split, message):
  """With the wrong argument, what there is, and what to do about it."""
  (tmp_path / 'empty').mkdir()
  data_dir = str(tmp_path / folder) if folder else ''
  if folder == 'prepared':
    data_dir = shared_data.tfds_dir()
  with pytest.raises(ValueError, match=message):
    loading.load_source(name, split=split, data_dir=data_dir)


def test_channel_statistics_equal_numpy():
  """Mean and standard deviation of each channel are NumPy's, in grey levels."""
  images = real_images.photos(5, 20, 30)
  mean, std = sources.channel_statistics(images)
  np.testing.assert_allclose(mean, images.mean(axis=(0, 1, 2)), rtol=1e-12)
  np.testing.assert_allclose(std, images.std(axis=(0, 1, 2)), rtol=1e-9)


def test_channel_statistics_of_a_constant():
  """A channel without variation has a positive deviation, so that dividing by it is safe."""
  _, std = sources.channel_statistics(np.full((2, 3, 3, 1), 7, np.uint8))
  assert 0 < std[0] < 1e-3


def test_changes_of_classes():
  """Missing, new and moved names are told with their labels; of many a few, and how many more."""
  describe = sources.describe_class_changes
  assert describe(('a', 'b'), ('a', 'b')) == ''
  assert describe(('apple', 'pear'), ('pear', 'zapple')) == (
    'missing here: zapple; new here: apple; in another place: pear (1, was 0)'
  )
  assert describe(('a', 'b'), ('b', 'a')) == 'in another place: a (0, was 1), b (1, was 0)'
  assert describe(('a', 'a'), ('a',)) == 'new here: a'
  many = [str(number) for number in range(30)]
  assert describe(many, ()) == 'new here: 0, 1, 2, 3, 4 and 25 more'
  # Names that look alike are not shown alike.
  assert describe(('caf\u00e9', 'a'), ('cafe\u0301', 'a ')) == (
    "missing here: cafe\\u0301, 'a '; new here: caf\u00e9, a"
  )


def test_empty_parts_are_refused():
  """No part of a split without images gets as far as a run."""
  with pytest.raises(ValueError, match=r"split 'train\[9:9\]' of 'digits' holds no images"):
    loading.load_source('digits', split='train[9:9]')
