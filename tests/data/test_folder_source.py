"""A folder of images: which files are images, of which class and split, and what is said of it."""

import io
import os
import shutil
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from nfnets_augmult.data import loading
from nfnets_augmult.data.folder_source import find_images
from tests import real_images

_CLASSES = ('flower', 'tower')


def _write_classes(root, counts=(12, 20)):
  """Saves real images as `CLASS/NUMBER.jpg`, every fourth as PNG."""
  photos = real_images.photos(sum(counts), 9, 13)
  numbers = [(name, i) for name, count in zip(_CLASSES, counts, strict=True) for i in range(count)]
  for photo, (name, number) in zip(photos, numbers, strict=True):
    real_images.save(photo, root / name / f'{number}.{"jpg" if number % 4 else "png"}')


def _load(root, split='train', **options):
  return loading.load_source('folder', split=split, data_dir=str(root), **options)


def _files(root, split):
  return list(_load(root, split).listing)


def test_folder_without_splits_holds_a_tenth_out(tmp_path):
  """Files whose path has a CRC-32 divisible by ten are the test split, all others training."""
  _write_classes(tmp_path)
  held_out = [
    f'{folder.name}/{file.name}'
    for folder in sorted(tmp_path.iterdir())
    for file in sorted(folder.iterdir())
    if zlib.crc32(f'{folder.name}/{file.name}'.encode()) % 10 == 0
  ]
  train, test = _files(tmp_path, 'train'), _files(tmp_path, 'test')
  assert held_out
  assert test == held_out
  assert len(train) == 32 - len(held_out) and not set(train) & set(test)


def test_held_out_files_stay_when_others_come(tmp_path):
  """New files, and a new class in front, do not move a file between the splits."""
  _write_classes(tmp_path)
  before = {split: _files(tmp_path, split) for split in ('train', 'test')}
  for number, photo in enumerate(real_images.photos(10, 9, 9)):
    real_images.save(photo, tmp_path / 'flower' / f'new_{number}.jpg')
    real_images.save(photo, tmp_path / 'almond' / f'{number}.jpg')
  for split, files in before.items():
    assert set(files) <= set(_files(tmp_path, split))


def test_folder_with_splits(tmp_path):
  """`train` and `test` folders are taken as they are; classes and files are in order."""
  _write_classes(tmp_path / 'train', (3, 11))
  _write_classes(tmp_path / 'test', (2, 0))
  train = _load(tmp_path)
  test = _load(tmp_path, 'test')
  assert train.class_names == test.class_names == _CLASSES
  assert train.labels.tolist() == [0] * 3 + [1] * 11
  assert test.labels.tolist() == [0] * 2
  assert _files(tmp_path, 'train')[3:7] == [
    'tower/0.png',
    'tower/1.jpg',
    'tower/10.jpg',
    'tower/2.jpg',
  ]


def test_folder_labels_follow_the_training_classes(tmp_path):
  """A class of which the test split has no image keeps its number, and so do those behind it."""
  photo = real_images.photos(1, 9, 9)[0]
  for path in ('train/a/0.png', 'train/b/0.png', 'test/b/0.png'):
    real_images.save(photo, tmp_path / path)
  test = _load(tmp_path, 'test')
  assert test.class_names == ('a', 'b') and test.labels.tolist() == [1]


def test_folder_third_split(tmp_path):
  """Beside `train` and `test` any other folder is a split, and a missing one is an error."""
  for split in ('train', 'test', 'validation'):
    _write_classes(tmp_path / split, (2, 3))
  assert _files(tmp_path, 'validation')[0] == 'flower/0.png'
  with pytest.raises(ValueError, match=r"^split='extra': there is no folder .*extra"):
    _files(tmp_path, 'extra')


def test_folder_reads_files(tmp_path):
  """`read` gives the file's bytes, which decode to the image that was saved, and its label."""
  _write_classes(tmp_path / 'train', (5, 4))
  (tmp_path / 'test').mkdir()
  source = _load(tmp_path)
  photos = real_images.photos(9, 9, 13)
  assert source.num_images == 9
  for index in range(9):
    encoded, label = source.read(index)
    pixels = np.asarray(Image.open(io.BytesIO(encoded)), np.float32)
    assert label == (index >= 5)
    assert np.abs(pixels - photos[index]).mean() < (0.1 if index in (0, 4, 5) else 12)
    assert source.image_name(index) == f'{tmp_path}/train/{source.listing[index]}'


def test_folder_passes_over_what_is_no_image(tmp_path):
  """Hidden files and folders, other suffixes and files beside the classes change nothing."""
  _write_classes(tmp_path)
  (tmp_path / 'flower' / 'UPPER.JPG').write_bytes((tmp_path / 'flower' / '1.jpg').read_bytes())
  before = {split: _files(tmp_path, split) for split in ('train', 'test')}
  assert any('UPPER.JPG' in file for files in before.values() for file in files)
  shutil.copytree(tmp_path / 'flower', tmp_path / '.cache')
  for number in range(20):
    shutil.copy(tmp_path / 'flower' / '1.jpg', tmp_path / 'flower' / f'._{number}.jpg')
    (tmp_path / 'flower' / f'{number}.txt').write_text('a flower')
    shutil.copy(tmp_path / 'flower' / '1.jpg', tmp_path / f'{number}.jpg')
  assert {split: _files(tmp_path, split) for split in ('train', 'test')} == before
  source = _load(tmp_path)
  assert source.class_names == _CLASSES


def test_folder_refuses_test_classes_that_are_not_trained(tmp_path):
  """A class folder that exists only for the test would be left out in silence otherwise."""
  for path in ('train/a', 'test/a', 'test/b'):
    (tmp_path / path).mkdir(parents=True)
  with pytest.raises(ValueError, match='lacks: b'):
    _load(tmp_path, 'test')


def _make(root, *paths):
  """Writes a photograph as JPEG to each of the paths, each a little different."""
  for path, photo in zip(paths, real_images.photos(len(paths), 9, 13), strict=True):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo).save(root / path, format='JPEG')


_SPLITS = ('train/a/0.jpg', 'train/b/0.jpg', 'test/a/0.jpg', 'test/b/0.jpg')


def test_images_are_known_by_content(tmp_path):
  """Every format that is read counts, under any name; what is none is counted with an example."""
  _make(tmp_path, *_SPLITS)
  photo = Image.fromarray(real_images.photos(1, 9, 13)[0])
  folder = tmp_path / 'train' / 'a'
  for name, kind in {
    'b.webp': 'WEBP',
    'c.jfif': 'JPEG',
    'd.TIF': 'TIFF',
    'e': 'PNG',
    'f.jpg': 'PNG',
    'g.txt': 'GIF',
    'h.bmp': 'BMP',
    'i.ppm': 'PPM',
  }.items():
    photo.save(folder / name, format=kind)
  (folder / 'notes.txt').write_text('P3 is no picture, and BM no bitmap')
  (folder / 'bm.txt').write_text('BMW and other cars, more than fourteen letters')
  (folder / 'z.heic').write_bytes(b'\0\0\0\x18ftypheic\0\0\0\0mif1heic')
  (folder / 'raw.dng').write_bytes(b'II*\0' + bytes(60))
  (folder / 'page.jpg').write_text('<html>not found</html>')
  (folder / '._0.jpg').write_bytes(b'\0\5\x16\7')
  (folder / 'Thumbs.db').write_bytes(b'\xd0\xcf')
  (folder / 'lost.jpg').symlink_to(tmp_path / 'absent')
  (folder / 'x.jpg').mkdir()
  shutil.copy(folder / '0.jpg', tmp_path / 'train' / 'stray')
  source = _load(tmp_path)
  assert [path for path in source.listing if path.startswith('a/')] == [
    'a/0.jpg',
    'a/b.webp',
    'a/c.jfif',
    'a/d.TIF',
    'a/e',
    'a/f.jpg',
    'a/g.txt',
    'a/h.bmp',
    'a/i.ppm',
    'a/page.jpg',
  ]
  passed_over, named_only = source.notes
  assert passed_over.startswith('8 files passed over: ')
  for part in (
    '2 without an image (e.g. a/bm.txt)',
    '1 in the format HEIC, which is not read (e.g. a/z.heic)',
    '1 in the format camera raw, which is not read (e.g. a/raw.dng)',
    '2 hidden or left by other programs (e.g. a/._0.jpg)',
    '1 linked to nothing (e.g. a/lost.jpg)',
    '1 outside of the class folders (e.g. stray)',
  ):
    assert part in passed_over
  assert named_only.startswith('1 with the name of an image') and 'a/page.jpg' in named_only
  assert not _load(tmp_path, 'test').notes


def test_images_below_the_class_folder(tmp_path):
  """They count at any depth and through links, once, and a link in a circle does not matter."""
  _make(tmp_path / 'set', *_SPLITS, 'train/a/2019/0.jpg', 'train/a/2019/x.jpg/1.jpg')
  _make(tmp_path, 'elsewhere/5.jpg', 'elsewhere/deep/6.jpg')
  folder = tmp_path / 'set' / 'train' / 'a'
  (folder / 'linked').symlink_to(tmp_path / 'elsewhere')
  (folder / 'again').symlink_to(folder / '2019')
  (folder / '2019' / 'circle').symlink_to(folder)
  (folder / '2019' / 'all').symlink_to(tmp_path)
  (folder / '9.jpg').symlink_to(folder / '0.jpg')
  source = _load(tmp_path / 'set')
  assert source.listing == (
    'a/0.jpg',
    'a/2019/0.jpg',
    'a/2019/x.jpg/1.jpg',
    'a/9.jpg',
    'a/linked/5.jpg',
    'a/linked/deep/6.jpg',
    'b/0.jpg',
  )
  assert source.labels.tolist() == [0] * 6 + [1]
  assert '3 linked to a folder that is read anyway' in source.notes[0]
  assert source.notes[1].startswith('4 of 7 images are in folders below that of their class')


def test_order_and_tenth_follow_the_path_below_the_class(tmp_path):
  """Sub-folders count in the order, by bytes, and in the CRC-32 that holds files out."""
  paths = [
    f'{name}/{sub}{i}.jpg' for name in 'ab' for sub in ('', 'x/', 'x-', 'Z') for i in range(9)
  ]
  _make(tmp_path, *paths)
  expected = {
    split: [p for p in sorted(paths) if (zlib.crc32(p.encode()) % 10 == 0) == (split == 'test')]
    for split in ('train', 'test')
  }
  assert expected['test']
  assert {split: _files(tmp_path, split) for split in expected} == expected


@pytest.mark.parametrize(
  'name',
  ['A b', ' lead', 'trail ', 'a[1]', 'a*', 'ä', '日本', 'e\u0301', 'a\\b', "it's", '{x}', '-'],
)
def test_any_name_of_a_class(tmp_path, name):
  """Nothing in a name is a pattern or lost."""
  _make(tmp_path, 'train/0/0.jpg', f'train/{name}/[0] *.jpg', 'test/0/0.jpg', f'test/{name}/1.jpg')
  for split in ('train', 'test'):
    source = _load(tmp_path, split)
    assert set(source.class_names) == {'0', name} and source.num_images == 2
    for index in range(2):
      assert source.read(index)[0].startswith(b'\xff\xd8')


def test_names_that_are_no_utf_8(tmp_path):
  """Files and classes are read whatever their bytes are, and named so that it can be printed."""
  _make(tmp_path, *_SPLITS)
  for split in ('train', 'test'):
    folder = os.fsencode(tmp_path / split) + b'/gr\xfcn'
    os.mkdir(folder)
    shutil.copy(os.fsencode(tmp_path / 'train/a/0.jpg'), folder + b'/\xe9.jpg')
  source = _load(tmp_path)
  assert source.class_names == ('a', 'b', r'gr\xfcn')
  assert source.listing[2] == r'gr\xfcn/\xe9.jpg'
  assert source.image_name(2) == rf'{tmp_path}/train/gr\xfcn/\xe9.jpg'
  assert source.read(2)[1] == 2
  '\n'.join((*source.listing, *source.class_names)).encode()


@pytest.mark.parametrize('locale', ['C', 'POSIX'])
def test_reading_does_not_depend_on_the_locale(tmp_path, locale):
  """Under another locale the same files have the same names, order and split."""
  _make(tmp_path, *(f'{name}/{i}é.jpg' for name in ('Zoo', 'apple', 'Äpfel') for i in range(9)))
  code = (
    'import sys; from nfnets_augmult.data import loading as l\n'
    'print(ascii([l.load_source("folder", split=s, data_dir=sys.argv[1]).listing '
    'for s in ("train", "test")]))'
  )
  environment = dict(os.environ, LC_ALL=locale, PYTHONUTF8='0', PYTHONCOERCECLOCALE='0')
  printed = subprocess.run(
    [sys.executable, '-c', code, tmp_path], env=environment, capture_output=True, check=True
  ).stdout.decode()
  expected = [_load(tmp_path, split).listing for split in ('train', 'test')]
  assert printed.strip() == ascii(expected)
  assert [name for name in _load(tmp_path).class_names] == ['Zoo', 'apple', 'Äpfel']


def test_litter_is_no_class(tmp_path):
  """What archives, file managers and file systems leave behind does not change the classes."""
  _make(tmp_path, *_SPLITS, 'train/__MACOSX/a/._0.jpg', 'train/.ipynb_checkpoints/0.jpg')
  _make(tmp_path, 'train/@eaDir/0.jpg', '__MACOSX/train/0.jpg', '.DS_Store', 'train/.DS_Store')
  (tmp_path / 'train' / 'lost+found').mkdir()
  for split in ('train', 'test'):
    assert _load(tmp_path, split).class_names == ('a', 'b')


@pytest.mark.parametrize(
  ('paths', 'split', 'message'),
  [
    (('train/a/0', 'train/b/0', 'val/a/0'), 'test', 'train, val; say split=val'),
    (
      ('Train/a/0', 'Train/b/0', 'Test/a/0'),
      'train',
      'Test, Train; say train_split=Train, and Test for the test',
    ),
    (('train/a/0', 'train/b/0'), 'test', 'holds train; .* data_dir=/.*/train$'),
    (('train/0', 'val/0'), 'train', 'no class folder'),
    (('training/0', 'validation/0'), 'train', 'train_split=training'),
    (('train_images/a/0', 'val_2/a/0'), 'train', 'train_split=train_images'),
    (('cat/0', 'dog/0', 'test/0'), 'train', 'cat, dog, test.* is a class, it needs another name'),
    (('my pics/cat/0', 'my pics/dog/0'), 'train', "cat, dog .* data_dir='/.*/my pics'"),
    (('x/x/cat/0', 'x/x/dog/0'), 'train', 'cat, dog .* data_dir=/.*/x/x$'),
    (('x/train/cat/0', 'x/test/cat/0'), 'train', 'test, train, .* data_dir=/.*/x,'),
    (('x/train/cat/0', 'y/train/cat/0'), 'train', 'x holds train, the name of a split'),
    (('train/train/a/0', 'train/val/a/0', 'test/train/0'), 'train', 'data_dir=/.*/train,'),
    (('train/x/a/0', 'train/x/b/0', 'test/x/a/0'), 'train', 'a, b .* move them to /.*/train$'),
    (('0', '1'), 'train', 'no class folder.* holds 2 images itself.* the folder above'),
    (('cat/0', 'cat/1'), 'train', 'only one class, cat'),
    (('cat/0', 'dog/0', 'none/'), 'train', 'no image for the class none: add images or remove'),
    (('cat/0', 'dog/0', 'none/.hidden'), 'train', 'no image for the class none'),
    (('cat/0', 'dog/0', 'a/b/'), 'train', 'no image for the class a:'),
    (('pics/cat/0', 'pics/dog/0', 'docs/'), 'train', 'class docs.* data_dir=/.*/pics'),
    (('cat/0', 'dog/1'), 'test', 'a tenth .* too few for that: none is for .test.'),
    (('train/a/0', 'train/b/0', 'test/a/'), 'test', "no images for split 'test'"),
  ],
)  # fmt: skip
def test_other_layouts_are_told(tmp_path, paths, split, message):
  """The folders there are and the argument that fits are named; splits never become classes."""
  for path in paths:
    if path.endswith('/'):
      (tmp_path / path).mkdir(parents=True)
    else:
      _make(tmp_path, path)
  with pytest.raises(ValueError, match=message):
    _load(tmp_path, split)


def test_splits_by_other_names(tmp_path):
  """The folder that is trained on names the classes, whatever it is called."""
  _make(tmp_path, 'Train/a/0', 'Train/b/0', 'Val/b/0')
  assert _load(tmp_path, 'Train', train_split='Train').class_names == ('a', 'b')
  test = _load(tmp_path, 'Val', train_split='Train')
  assert test.class_names == ('a', 'b') and test.labels.tolist() == [1]
  # Without it a test split names its own, to be compared with those of the run.
  shutil.rmtree(tmp_path / 'Train')
  _make(tmp_path, 'Val/c/0')
  assert _load(tmp_path, 'Val', train_split='Train').class_names == ('b', 'c')


def test_a_train_may_be_a_class(tmp_path):
  """Beside others, and as a folder of images."""
  _make(tmp_path, *(f'{name}/{i}' for name in ('car', 'ship', 'train') for i in range(9)))
  assert _load(tmp_path).class_names == ('car', 'ship', 'train')


def test_class_that_is_held_out_altogether(tmp_path):
  """A class whose few images all fall into the tenth could not be learnt."""
  held_out = next(f'dog/{i}' for i in range(100) if zlib.crc32(f'dog/{i}'.encode()) % 10 == 0)
  _make(tmp_path, *(f'cat/{i}' for i in range(30)), held_out)
  with pytest.raises(ValueError, match='so few images of the class dog that all of them'):
    _load(tmp_path)


def test_file_that_vanished_is_named(tmp_path):
  """With its path and the reason."""
  _make(tmp_path, *_SPLITS)
  source = _load(tmp_path)
  (tmp_path / 'train' / 'a' / '0.jpg').unlink()
  with pytest.raises(ValueError, match=r'train/a/0\.jpg cannot be read: No such file'):
    source.read(0)


def test_finding_images_anywhere(tmp_path):
  """All that are read below the folders, and the files that are named; each once, in order."""
  photo = real_images.photos(1, 8, 8)[0]
  for name in ('b/z.png', 'b/c/a.jpg', 'a.png', '.hidden/a.png'):
    real_images.save(photo, tmp_path / name)
  (tmp_path / 'b' / 'no_suffix').write_bytes((tmp_path / 'a.png').read_bytes())
  (tmp_path / 'b' / 'broken.jpg').write_text('none')
  (tmp_path / 'b' / 'text.txt').write_text('none')
  (tmp_path / 'b' / 'above').symlink_to(tmp_path)
  (tmp_path / 'b' / 'nowhere.png').symlink_to(tmp_path / 'nothing')
  os.mkfifo(tmp_path / 'pipe')
  folder = os.fsencode(tmp_path)
  given = [b'b/text.txt', b'b', b'b/../a.png', b'.', b'b/c']
  paths, notes = find_images([folder + b'/' + place for place in given])
  found = [path.removeprefix(folder + b'/') for path in paths]
  expected = [b'b/text.txt', b'b/broken.jpg', b'b/c/a.jpg', b'b/no_suffix', b'b/z.png']
  assert found == [*expected, b'b/../a.png']
  (note,) = notes
  for words in ('1 hidden', '2 linked to a folder', '2 linked to nothing', '1 neither a file'):
    assert words in note
  for place, words in (('none.png', 'there is no such file or folder'), ('pipe', 'neither a file')):
    with pytest.raises(ValueError, match=words):
      find_images([os.fsencode(tmp_path / place)])
