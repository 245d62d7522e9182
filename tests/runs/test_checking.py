"""Every image read once before a run: what the report says, and when it is an error."""

import jax
import numpy as np
import pytest
from PIL import Image

from nfnets_augmult import configs, train
from nfnets_augmult.runs import checking
from tests import real_images
from tests.toy_runs import toy_config


def _config(folder, **changes):
  config = configs.default_config()
  config.update(batch_size=2, augmult=1, total_steps=1)
  config.dataset.update(name='folder', data_dir=str(folder), image_size=8, **changes)
  return config


@pytest.fixture(name='folder')
def _folder(tmp_path):
  """Two classes with eight different images for training and two for the test."""
  photos = real_images.photos(10, 9, 13)
  names = [f'train/{name}/{number}.png' for name in ('cat', 'dog') for number in range(4)]
  for name, photo in zip([*names, 'test/cat/0.png', 'test/dog/0.png'], photos, strict=True):
    real_images.save(photo, tmp_path / name)
  return tmp_path


@pytest.fixture(autouse=True)
def _no_device(monkeypatch):
  """Whatever is checked, no device is asked for."""

  def fail(*_):
    raise AssertionError('a device is used')

  monkeypatch.setattr(jax, 'devices', fail)
  monkeypatch.setattr(jax, 'device_count', fail)


def test_all_is_well(folder, capsys):
  train.check(_config(folder))
  lines = capsys.readouterr().out.splitlines()
  assert lines[:3] == ['class  training  test', 'cat           4     1', 'dog           4     1']
  assert lines[3:7] == [
    'training images: 8 (folder/train)',
    '  width  13 to 13 pixels, median 13',
    '  height 9 to 9 pixels, median 9',
    '  8 PNG',
  ]
  assert lines[-1] == 'problems: none'


def test_kinds_of_images(folder):
  """Formats, grey, palette, print, transparency, orientation, several pictures, small ones."""
  photo = Image.fromarray(real_images.photos(1, 20, 30)[0])
  cats = folder / 'train' / 'cat'
  exif = Image.Exif()
  exif[274] = 6
  photo.save(cats / 'turned.jpg', exif=exif)
  photo.convert('L').save(cats / 'grey.jpg')
  photo.convert('CMYK').save(cats / 'print.jpg')
  photo.quantize(16).save(cats / 'palette.png')
  photo.convert('RGBA').save(cats / 'glass.png')
  photo.save(cats / 'film.gif', save_all=True, append_images=[photo.rotate(180)])
  photo.resize((5, 30)).save(cats / 'narrow.bmp')
  split = checking.check(_config(folder)).splits['train']
  assert split.images_per_class == [11, 4]
  assert split.kinds == {'PNG': 10, 'JPEG': 3, 'GIF': 1, 'BMP': 1}
  assert split.traits == {
    'turned or mirrored by EXIF': 1,
    'grey': 1,
    'in the colours of print (CMYK)': 1,
    'with a palette': 2,
    'with transparency': 1,
    'with several pictures, of which the first is read': 1,
  }
  sizes = sorted(zip(split.heights, split.widths, strict=True))
  assert sizes == [(9, 13)] * 8 + [(20, 30)] * 5 + [(30, 5), (30, 20)]
  text = checking.report_text(checking.check(_config(folder)))
  assert '  1 with a side of less than image_size=8' in text


def test_problems(folder, capsys):
  """Unreadable files, the same pixels in both splits or with another label; the status is 1."""
  cut_off = (folder / 'train' / 'cat' / '0.png').read_bytes()[:150]
  (folder / 'train' / 'cat' / 'cut_off.png').write_bytes(cut_off)
  (folder / 'test' / 'dog' / 'page.jpg').write_text('<html>')
  with Image.open(folder / 'train' / 'cat' / '1.png') as image:
    image.save(folder / 'test' / 'dog' / 'cat.bmp')
    image.save(folder / 'train' / 'cat' / 'again.png', compress_level=0)
    image.save(folder / 'train' / 'dog' / 'wrong.ppm')
  with pytest.raises(SystemExit) as ended:
    train.check(_config(folder))
  assert ended.value.code == 1
  text = capsys.readouterr().out
  for line in (
    f'    {folder}/train/cat/cut_off.png: PNG that is cut off',
    f'    {folder}/test/dog/page.jpg: it is not an image',
    '  1 with the pixels of an earlier image of the same class',
    f'  {folder}/test/dog/cat.bmp (dog) is {folder}/train/cat/1.png (cat)',
    f'  {folder}/train/dog/wrong.ppm (dog) is {folder}/train/cat/1.png (cat)',
    'problems: unreadable images: 2; test images that are training images, too: 1; images with the '
    'pixels of another one with another label: 1',
  ):
    assert f'\n{line}' in text
  vanished = checking.check(_config(folder, on_bad_image='skip'))
  assert [len(split.unreadable) for split in vanished.splits.values()] == [1, 1]


def test_what_cannot_be_loaded(folder, capsys):
  with pytest.raises(SystemExit):
    train.check(_config(folder, test_split='dev'))
  assert 'error: dataset.test_split=' in capsys.readouterr().err


def test_arrays_and_many_classes(monkeypatch):
  """Arrays are compared, too; of many classes the largest and the smallest are listed."""
  report = checking.check(toy_config())
  assert not report.problems
  assert sum(report.splits['train'].images_per_class) == 1437
  labels = np.repeat(np.arange(60), np.arange(1, 61))[::-1]
  split = report.splits['train']
  names = tuple(f'class {number}' for number in range(60))
  source = type(split.source)(np.zeros((len(labels), 2, 2, 1)), labels, names, 'many/train')
  many = checking.SplitReport(source, list(range(1, 61)))
  text = checking.report_text(checking.Report({'train': many, 'test': many}, 0, ['x'] * 12, []))
  lines = text.splitlines()
  assert lines[1].split() == ['class', '59', '60', '60']
  assert lines[6] == '... 50 more' and lines[11].split()[:3] == ['class', '0', '1']
  assert '\n  ... 2 more\n' in text
