"""What tells one data set from another, and labels in the classes of another list."""

import dataclasses

import numpy as np
import pytest

from nfnets_augmult.data import identity, loading
from nfnets_augmult.data.sources import ArraySource
from tests import real_images, shared_data


def _arrays(labels, class_names=('a', 'b', 'c')):
  images = real_images.photos(len(labels), 4, 4)
  return ArraySource(images, np.array(labels, np.int32), class_names, 'arrays/train')


def _folder(root, counts):
  photo = real_images.photos(1, 9, 9)[0]
  for name, count in counts.items():
    for split in ('train', 'test'):
      for number in range(count):
        real_images.save(photo, root / split / name / f'{number}.png')
  return loading.load_source('folder', split='train', data_dir=str(root))


def test_arrays_are_known_by_their_labels():
  source = _arrays([0, 1, 1, 2])
  known = identity.describe_split(source)
  assert known['num_images'] == 4 and known['images_per_class'] == [1, 2, 1]
  assert identity.describe_split(_arrays([0, 1, 1, 2])) == known
  for labels in ([1, 0, 1, 2], [0, 1, 1, 2, 2]):
    assert identity.describe_split(_arrays(labels))['digest'] != known['digest']


def test_folders_are_known_by_their_paths(tmp_path):
  """A file more, and a file renamed, are other data; the folder may be anywhere."""
  source = _folder(tmp_path / 'one', {'cat': 3, 'dog': 2})
  known = identity.describe_split(source)
  assert identity.describe_split(_folder(tmp_path / 'two', {'cat': 3, 'dog': 2})) == known

  def changes(root):
    now = identity.describe_split(loading.load_source('folder', split='train', data_dir=str(root)))
    return identity.describe_split_changes(now, known, split='train', class_names=('cat', 'dog'))

  assert changes(tmp_path / 'one') == ''
  added = tmp_path / 'one' / 'train' / 'dog' / '9.png'
  real_images.save(real_images.photos(1, 9, 9)[0], added)
  assert changes(tmp_path / 'one') == 'train: 6 images, was 5; dog 3, was 2'
  added.unlink()
  cats = tmp_path / 'one' / 'train' / 'cat'
  (cats / '0.png').rename(cats / 'first.png')
  assert changes(tmp_path / 'one') == 'train: as many images, but other ones or in another order'


def test_classes_are_mapped_by_name():
  """Labels of another order count in the list of the run; fewer classes may be there."""
  source = _arrays([0, 1, 2, 0], ('c', 'a', 'b'))
  mapped = identity.map_classes(source, ('a', 'b', 'c'))
  assert mapped.labels.tolist() == [2, 0, 1, 2] and mapped.labels.dtype == np.int32
  assert mapped.class_names == ('a', 'b', 'c')
  assert identity.map_classes(_arrays([1, 0], ('c', 'a')), 'abc').labels.tolist() == [0, 2]


def test_classes_of_folders_are_mapped(tmp_path):
  source = _folder(tmp_path, {'cat': 2, 'dog': 1})
  mapped = identity.map_classes(source, ('dog', 'cow', 'cat'))
  assert [mapped.read(index)[1] for index in range(3)] == [2, 2, 0]
  assert mapped.read(1)[0] == source.read(1)[0]
  assert (mapped.num_images, mapped.image_name(2)) == (3, source.image_name(2))


def test_classes_of_records_are_mapped_when_read():
  source = loading.load_source('imagenet2012', split='validation', data_dir=shared_data.tfds_dir())
  mapped = identity.map_classes(source, source.class_names[::-1])
  for index in (0, 40):
    encoded, label = source.read(index)
    assert mapped.read(index) == (encoded, 999 - label)
    assert mapped.image_name(index) == source.image_name(index)
  assert mapped.class_names == source.class_names[::-1]
  assert identity.describe_split(mapped) == identity.describe_split(source)


@pytest.mark.parametrize(
  ('ours', 'theirs', 'words'),
  [(('a', 'b', 'c'), ('a', 'b'), 'new here: c'), (('a', 'b', 'b'), ('a', 'b', 'c'), 'twice')],
)
def test_what_cannot_be_mapped_is_refused(ours, theirs, words):
  with pytest.raises(ValueError, match=words):
    identity.map_classes(dataclasses.replace(_arrays([0, 1]), class_names=ours), theirs)
