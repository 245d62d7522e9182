"""Data sets as plain arrays: what is written is read, and what is not a data set is refused."""

import json

import numpy as np
import pytest

from experiments import cifar100_wrn16_4
from nfnets_augmult.data import array_files, loading, reducing, sources
from nfnets_augmult.data.augmentation import NOTHING
from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.runs.converting import convert
from nfnets_augmult.runs.run import Run
from tests import real_images, shared_data


def _digits(split):
  return loading.load_source('digits', split=split)


@pytest.fixture(name='folder')
def _folder(tmp_path):
  array_files.write_data_set(
    str(tmp_path / 'digits'), name='digits', train=_digits('train'), test=_digits('test')
  )
  return tmp_path / 'digits'


@pytest.mark.parametrize('split', ['train', 'test'])
def test_arrays_are_read_as_they_were_written(folder, split):
  """Images, labels, classes and description; the images are mapped, not read."""
  source = loading.load_source('arrays', split=split, data_dir=str(folder))
  expected = _digits(split)
  assert isinstance(source.images, np.memmap)
  np.testing.assert_array_equal(source.images, expected.images)
  np.testing.assert_array_equal(source.labels, expected.labels)
  assert source.labels.dtype == np.int32
  assert (source.class_names, source.description) == (expected.class_names, f'digits/{split}')
  part = loading.load_source('arrays', split=f'{split}[10:30]', data_dir=str(folder))
  np.testing.assert_array_equal(part.images, expected.images[10:30])
  np.testing.assert_array_equal(part.labels, expected.labels[10:30])


def test_what_is_no_data_set_is_refused(folder, tmp_path):
  """No folder, half a folder, another split, arrays of another kind, and a pickle."""

  def load(**changes):
    return loading.load_source('arrays', **{'split': 'train', 'data_dir': str(folder), **changes})

  with pytest.raises(ValueError, match=r"^data_dir='' is missing"):
    load(data_dir='')
  with pytest.raises(ValueError, match=r'holds no arrays: .*nfnets_augmult.convert'):
    load(data_dir=str(tmp_path))
  with pytest.raises(ValueError, match="no split 'validation'; it has train, test"):
    load(split='validation')
  with pytest.raises(ValueError, match='holds a data set already'):
    array_files.write_data_set(
      str(folder), name='digits', train=_digits('train'), test=_digits('test')
    )
  description = json.loads((folder / 'data_set.json').read_text())
  description['class_names'] = description['class_names'][:9]
  (folder / 'data_set.json').write_text(json.dumps(description))
  with pytest.raises(
    ValueError, match=r"split 'train' of 'digits' has \d+ images with labels outside \[0, 9\), as 9"
  ):
    load()
  np.save(folder / 'train_images.npy', np.zeros((4, 8, 8, 1)))
  with pytest.raises(ValueError, match=r'images must be uint8 .* not float64'):
    load()
  np.save(folder / 'train_images.npy', np.array([{}]), allow_pickle=True)
  with pytest.raises(ValueError, match=r'train_images.npy cannot be read: .*Python objects'):
    load()
  (folder / 'train_images.npy').unlink()
  with pytest.raises(ValueError, match=r'train_images.npy cannot be read: .*No such file'):
    load()


def test_arrays_without_labels_or_images_are_refused(folder):
  """An image labelled -1, and a part that holds nothing."""
  labels = _digits('train').labels
  labels[5] = -1
  np.save(folder / 'train_labels.npy', labels)
  with pytest.raises(ValueError, match=r"'train' of 'digits' has 1 images without a label \(-1\)"):
    loading.load_source('arrays', split='train', data_dir=str(folder))
  with pytest.raises(ValueError, match=r"split 'test\[5:5\]' of 'digits' holds no images"):
    loading.load_source('arrays', split='test[5:5]', data_dir=str(folder))


def test_convert_writes_a_part_of_cifar100(tmp_path):
  """Through the config: splits, labels and class names of the real data set."""
  config = cifar100_wrn16_4.get_config()
  config.dataset.data_dir = shared_data.tfds_dir()
  config.dataset.train_split, config.dataset.test_split = 'test[:50]', 'test[50:80]'
  convert(config, str(tmp_path / 'cifar100'))
  for split, original in (('train', 'test[:50]'), ('test', 'test[50:80]')):
    source = loading.load_source('arrays', split=split, data_dir=str(tmp_path / 'cifar100'))
    expected = loading.load_source('cifar100', split=original, data_dir=shared_data.tfds_dir())
    np.testing.assert_array_equal(source.images, expected.images)
    np.testing.assert_array_equal(source.labels, expected.labels)
    assert source.class_names == expected.class_names


def test_convert_makes_a_smaller_data_set(tmp_path):
  """Two classes of CIFAR-100 at 16 pixels, read back."""
  config = cifar100_wrn16_4.get_config()
  config.dataset.data_dir = shared_data.tfds_dir()
  config.dataset.train_split, config.dataset.test_split = 'test[:200]', 'test[200:]'
  whole = loading.load_source('cifar100', split='test[:200]', data_dir=shared_data.tfds_dir())
  classes = [whole.class_names[label] for label in whole.labels[[3, 0]]]
  convert(config, str(tmp_path / 'two'), classes=classes, image_size=16)
  expected = reducing.shrink(reducing.keep_classes(whole, classes), 16)
  source = loading.load_source('arrays', split='train', data_dir=str(tmp_path / 'two'))
  assert source.images.shape[1:] == (16, 16, 3)
  assert set(source.labels.tolist()) == {0, 1}
  np.testing.assert_array_equal(source.images, expected.images)
  np.testing.assert_array_equal(source.labels, expected.labels)
  assert source.class_names == tuple(classes)


def test_convert_decodes_files(tmp_path):
  """Encoded images become arrays of the size asked for; one that does not decode is left out."""
  photos = real_images.photos(4, 12, 12)
  for number, photo in enumerate(photos):
    for split in ('train', 'test'):
      real_images.save(photo, tmp_path / 'photos' / split / f'class_{number % 2}' / f'{number}.png')
  (tmp_path / 'photos' / 'train' / 'class_0' / 'broken.png').write_bytes(b'no image')
  config = cifar100_wrn16_4.get_config()
  config.dataset.name, config.dataset.data_dir = 'folder', str(tmp_path / 'photos')
  config.dataset.image_size = 12
  with pytest.raises(sources.BadDataError, match=r'broken\.png'):
    convert(config, str(tmp_path / 'arrays'))
  config.dataset.on_bad_image = 'skip'
  train, test = convert(config, str(tmp_path / 'arrays'))
  np.testing.assert_array_equal(train.images, photos[[0, 2, 1, 3]])
  for source in (train, test):
    assert source.labels.tolist() == [0, 0, 1, 1]


def test_converted_images_are_those_that_training_and_evaluation_see(tmp_path):
  """With every key of the reading away from its default, and two resolutions."""
  for number, photo in enumerate(real_images.photos(4, 90, 120)):
    for split in ('train', 'test'):
      real_images.save(photo, tmp_path / 'photos' / split / f'class_{number % 2}' / f'{number}.jpg')
  config = cifar100_wrn16_4.get_config()
  config.batch_size = 2
  config.dataset.update(
    name='folder', data_dir=str(tmp_path / 'photos'), image_size=16, test_image_size=24
  )
  config.dataset.update(antialias=True, jpeg_scaling=False)
  config.evaluation.update(crop='resize_then_crop', crop_padding=4)
  train, test = convert(config, str(tmp_path / 'arrays'))
  run = Run(config)
  multiplicity = Multiplicity(4, 2, 1, 0)
  for batch in run.train_batches(0, 2, multiplicity=multiplicity, augmentation=NOTHING):
    np.testing.assert_array_equal(batch['image'], train.images[batch['image_index']])
  (batch,) = run.evaluation_batches()
  np.testing.assert_array_equal(batch['image'][batch['mask'] > 0], test.images)
