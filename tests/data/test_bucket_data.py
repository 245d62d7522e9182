"""Data sets in a bucket give what the local ones give; single records need an index."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from nfnets_augmult.data import array_files, pipeline, record_index, sources, tfds_source
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.decoding import ReadOptions
from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.ops import files
from tests import buckets
from tests.data import tfds_files
from tests.data.test_record_files import Noise

pytestmark = pytest.mark.extended

_FOLDER = 'imagenet2012/5.1.0'


@pytest.fixture(scope='module', name='bucket')
def _bucket():
  with buckets.in_environment() as bucket:
    yield bucket


@pytest.fixture(scope='module', name='local')
def _local(bucket, tmp_path_factory):
  """The validation sample, without an index."""
  del bucket  # the tests are skipped where there is none
  root = tmp_path_factory.mktemp('tfds')
  tfds_files.prepare_imagenet(root, 'tfrecord')
  return str(root)


@pytest.fixture(scope='module', name='remote')
def _remote(bucket, local):
  """Its copy, with an index that is written there."""
  _copy(local, bucket.url('data'))
  assert record_index.write_index(f'{bucket.url("data")}/{_FOLDER}')[1] > 16
  return bucket.url('data')


def _copy(source, target, folder=_FOLDER):
  for name in os.listdir(f'{source}/{folder}'):
    files.write_whole(f'{target}/{folder}/{name}', files.read(f'{source}/{folder}/{name}'))


def _load(root):
  return tfds_source.tfds_source('imagenet2012', split='validation', data_dir=root)


def test_records_are_those_of_the_local_files(bucket, local, remote):
  ours, theirs = _load(remote), _load(local)
  assert (ours.num_images, ours.class_names) == (theirs.num_images, theirs.class_names)
  assert ours.listing == theirs.listing
  for index in (3, 0, ours.num_images - 1):
    assert ours.read(index) == theirs.read(index)


def test_many_records_are_read_at_a_time(bucket, local, remote):
  """None of eight requests is answered before all have come."""
  ours, theirs = _load(remote), _load(local)
  all_there = threading.Barrier(8)

  def wait(method, path):
    all_there.wait(timeout=60)
    return 0

  with bucket.refusing(wait):
    ours.start_reading(range(8))
    read = [ours.read(index) for index in range(8)]
  assert read == [theirs.read(index) for index in range(8)]


def test_batches_are_those_of_the_local_files(local, remote):
  def batches(root):
    source = _load(root)
    options = ReadOptions(image_size=16)
    multiplicity = Multiplicity(
      num_images=source.num_images, unique_images_per_batch=8, augmult=2, seed=0
    )
    yield from pipeline.train_batches(
      source,
      multiplicity,
      augmentation=Augmentation(),
      start_step=1,
      stop_step=3,
      read_options=options,
    )
    yield from pipeline.evaluation_batches(
      source, batch_size=8, read_options=options, num_images=12
    )

  for ours, theirs in zip(batches(remote), batches(local), strict=True):
    assert ours.keys() == theirs.keys()
    for key in ours:
      np.testing.assert_array_equal(ours[key], theirs[key])


def test_the_index_is_the_same_for_local_files(local, remote, tmp_path):
  """And the program that writes it says what it did."""
  folder = tmp_path / 'copy'
  folder.mkdir()
  for name in os.listdir(f'{local}/{_FOLDER}'):
    (folder / name).symlink_to(f'{local}/{_FOLDER}/{name}')
  done = subprocess.run(
    [sys.executable, '-m', 'nfnets_augmult.index', f'--folder={folder}'],
    capture_output=True,
    text=True,
    check=True,
  )
  ours, theirs = (
    record_index.read_index(str(folder)),
    record_index.read_index(f'{remote}/{_FOLDER}'),
  )
  assert ours.keys() == theirs.keys()
  for name in ours:
    np.testing.assert_array_equal(ours[name], theirs[name])
  num_records = sum(len(starts) - 1 for starts in ours.values())
  assert done.stdout.startswith(f'{num_records} records in {len(ours)} files: ')


def test_without_its_index_says_how_to_write_it(bucket, local):
  root = bucket.url('plain')
  _copy(local, root)
  with pytest.raises(
    ValueError, match=rf'python -m nfnets_augmult.index --folder={root}/{_FOLDER}$'
  ):
    _load(root)


def test_an_index_of_other_files_is_refused(bucket, local):
  root = bucket.url('other')
  _copy(local, root)
  record_index.write_index(f'{root}/{_FOLDER}')
  name = next(n for n in files.list_dir(f'{root}/{_FOLDER}') if '.tfrecord-' in n)
  content = files.read(f'{root}/{_FOLDER}/{name}')
  files.write_whole(f'{root}/{_FOLDER}/{name}', content[:-1])
  with pytest.raises(ValueError, match=f'{name} has another size'):
    _load(root)
  with pytest.raises(ValueError, match=f'{name} is cut off or damaged'):
    record_index.write_index(f'{root}/{_FOLDER}')


def test_array_record_is_refused(bucket, tmp_path):
  tfds_files.prepare_imagenet(tmp_path, 'array_record')
  _copy(str(tmp_path), bucket.url('array_record'))
  with pytest.raises(ValueError, match='prepared as array_record, which is read from file systems'):
    _load(bucket.url('array_record'))


def test_images_of_one_shape_need_no_index(bucket, tmp_path):
  Noise(data_dir=str(tmp_path)).download_and_prepare()
  _copy(str(tmp_path), bucket.url('small'), 'noise/1.0.0')
  source = tfds_source.tfds_source('noise', split='train[4:9]', data_dir=bucket.url('small'))
  np.testing.assert_array_equal(source.images, Noise.IMAGES[4:9])


def test_arrays(bucket):
  train, test = (sources.digits_source(split=split) for split in ('train[:20]', 'test[:10]'))
  array_files.write_data_set(bucket.url('arrays'), name='digits', train=train, test=test)
  read = array_files.array_source(split='test[2:]', data_dir=bucket.url('arrays'))
  np.testing.assert_array_equal(read.images, test.images[2:])
  np.testing.assert_array_equal(read.labels, test.labels[2:])
