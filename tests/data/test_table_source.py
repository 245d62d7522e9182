"""A table of images: its text, its columns, its files, its splits, and what is said of them."""

import collections
import random

import numpy as np
import pytest

from nfnets_augmult.data import holding_out, identity, loading
from nfnets_augmult.data.sources import printable
from nfnets_augmult.data.table_source import TableOptions
from tests import real_images


def _images(root, *paths):
  for path, photo in zip(paths, real_images.photos(len(paths), 6, 7), strict=True):
    real_images.save(photo, root / path)


def _load(table, split='train', train_split='train', skip=False, **options):
  return loading.load_source(
    'csv',
    split=split,
    data_dir=str(table),
    train_split=train_split,
    table_options=TableOptions(**options),
    on_bad_image='skip' if skip else 'fail',
  )


def _write(root, text, name='labels.csv', encoding='utf-8'):
  root.mkdir(parents=True, exist_ok=True)
  (root / name).write_bytes(text.encode(encoding))
  return root / name


def _found(source):
  """Path and class of each image."""
  names = source.class_names
  return {str(path, 'utf-8'): names[k] for path, k in zip(source.paths, source.labels, strict=True)}


_PATHS = ('a.png', 'b.png', 'c.png', 'd.png')
_SPLIT = 'file,label,split\na.png,cat,train\nb.png,dog,train\nc.png,cat,test\nd.png,dog,test\n'


@pytest.mark.parametrize(
  ('text', 'encoding'),
  [
    (_SPLIT, 'utf-8'),
    (_SPLIT, 'utf-8-sig'),  # of spreadsheets
    (_SPLIT.replace('\n', '\r\n').rstrip(), 'utf-8'),
    (_SPLIT.replace(',', ';').replace('\n', ';;\n').replace('split;;', 'split'), 'utf-8'),
    (f'\n\n{_SPLIT}\n,,\n'.replace(',', '\t'), 'utf-8'),
    ('sep=|\r\n' + _SPLIT.replace(',', '|'), 'utf-8'),
    (_SPLIT.replace('\n', '\r'), 'utf-8'),  # of old spreadsheets
    ('sep=|\r' + _SPLIT.replace(',', '|').replace('\n', '\r'), 'utf-8'),
    (_SPLIT.replace(',', ' , '), 'utf-8'),
    (_SPLIT.replace('file,label,split', '"Image Path","Class Name",Subset'), 'utf-8'),
    (_SPLIT.replace('file,label,split', 'filename,category,"the, set"'), 'utf-8'),
    (_SPLIT.replace('test', 'Validation').replace('train', 'Train'), 'utf-8'),
    (_SPLIT.replace('file', 'id').replace('.png', ''), 'utf-8'),
    ('id,' + _SPLIT.rstrip().replace('\n', '\n7,'), 'utf-8'),
  ],
)
def test_any_way_to_write_a_table(tmp_path, text, encoding):
  """Marks, ends of lines, separators, names of columns and of splits, missing suffixes."""
  _images(tmp_path, *_PATHS)
  table = _write(tmp_path, text, encoding=encoding)
  options = {'split_column': 'the, set'} if 'the, set' in text else {}
  assert _found(_load(table, **options)) == {'a.png': 'cat', 'b.png': 'dog'}
  test = _load(table, 'test', **options)
  assert _found(test) == {'c.png': 'cat', 'd.png': 'dog'}
  assert test.class_names == ('cat', 'dog') and test.description == 'csv/test'
  assert test.read(1) == ((tmp_path / 'd.png').read_bytes(), 1)


def test_any_name_of_a_file(tmp_path):
  """Separators, quotes, ends of lines and letters in names; backslashes, absolute paths."""
  names = ('x, y.png', 'say "a".png', 'two\nlines.png', 'é/日本.png', 'in/a/b.png', r'lit\eral.png')
  _images(tmp_path, *names)
  absolute = tmp_path / 'in' / 'c.png'
  _images(tmp_path, 'in/c.png')
  written = [name.replace('"', '""') for name in names]
  written[4] = r'in\a\b.png'
  rows = [f'"{name}",{k % 2}' for k, name in enumerate([*written, absolute])]
  source = _load(_write(tmp_path, '\n'.join(['path,label', *rows])), split_column='none')
  test = _load(tmp_path, 'test')
  assert set(source.paths) | set(test.paths) == {
    *(name.encode() for name in names),
    str(absolute).encode(),
  }
  for index in range(source.num_images):
    assert source.read(index)[0].startswith(b'\x89PNG')


def test_the_order_of_rows_does_not_matter(tmp_path):
  """Images are in the order of their paths, and the division is the same; so is the identity."""
  paths = [f'{number}.png' for number in range(30)]
  _images(tmp_path, *paths)
  rows = [f'{path},{number % 3}' for number, path in enumerate(paths)]
  table = _write(tmp_path, '\n'.join(['path,label', *rows]))
  before = [_load(table, split) for split in ('train', 'test')]
  random.Random(0).shuffle(rows)
  _write(tmp_path, '\n'.join(['path,label', *rows]))
  after = [_load(table, split) for split in ('train', 'test')]
  for old, new in zip(before, after, strict=True):
    assert identity.describe_split(old) == identity.describe_split(new)
    assert sorted(old.paths) == list(old.paths)


def test_other_labels_are_another_data_set(tmp_path):
  """Though paths and numbers of images are the same; the folder may be anywhere."""
  described = []
  for folder, labels in (('one', 'cat,dog'), ('two', 'cat,dog'), ('three', 'dog,cat')):
    _images(tmp_path / folder, *_PATHS)
    a, b = labels.split(',')
    text = _SPLIT.replace('a.png,cat', f'a.png,{a}').replace('b.png,dog', f'b.png,{b}')
    described.append(identity.describe_split(_load(_write(tmp_path / folder, text))))
  assert described[0] == described[1] != described[2]
  changes = {'split': 'train', 'class_names': ('cat', 'dog')}
  assert identity.describe_split_changes(described[2], described[0], **changes) == (
    'train: as many images, but other ones or in another order'
  )


@pytest.mark.parametrize(
  ('labels', 'expected'),
  [
    (('10', '2', '1', '2'), ('1', '2', '10')),
    (('10', '2', 'x', '2'), ('10', '2', 'x')),
    (('1.0', '0.0', '1.0', '0.0'), ('0.0', '1.0')),
    (('20000000000000002', '20000000000000001'), ('20000000000000001', '20000000000000002')),
    (('Z', 'a', 'é', 'b'), ('Z', 'a', 'b', 'é')),
    (('none', 'scratch', 'none', 'NA'), ('NA', 'none', 'scratch')),
  ],
)
def test_order_of_classes(tmp_path, labels, expected):
  """Numbers by value, if all are; else by bytes."""
  _images(tmp_path, *_PATHS)
  rows = ''.join(f'{path},{label},train\n' for path, label in zip(_PATHS, labels, strict=False))
  table = _write(tmp_path, f'path,label,split\n{rows}')
  assert _load(table).class_names == expected


def test_tables_by_split(tmp_path):
  """`train.csv` and `test.csv`, or a table in each folder of a split, as of Hugging Face."""
  _images(tmp_path / 'one', *_PATHS)
  _write(tmp_path / 'one', 'path,label\na.png,x\nb.png,y\n', 'train.csv')
  _write(tmp_path / 'one', 'path,label\nc.png,x\nd.png,y\n', 'val.csv')
  _write(tmp_path / 'one', 'id,label\n9,x\n', 'sample_submission.csv')
  _images(tmp_path / 'two', 'train/a.png', 'train/b.png', 'validation/a.png', 'validation/b.png')
  for split in ('train', 'validation'):
    text = 'file_name,label\na.png,x\nb.png,y\n'
    _write(tmp_path / 'two' / split, text, 'metadata.csv')
  assert list(_found(_load(tmp_path / 'one'))) == ['a.png', 'b.png']
  assert list(_found(_load(tmp_path / 'one', 'test'))) == ['c.png', 'd.png']
  assert list(_found(_load(tmp_path / 'two'))) == ['train/a.png', 'train/b.png']
  assert list(_found(_load(tmp_path / 'two', 'test'))) == ['validation/a.png', 'validation/b.png']
  # As of competitions: the table of the test has no labels.
  _write(tmp_path / 'one', 'path\nc.png\n', 'val.csv')
  assert _load(tmp_path / 'one').num_images == 2
  with pytest.raises(ValueError, match=r'val.csv has no column for the label .* data_dir=.*TABLE'):
    _load(tmp_path / 'one', 'test')
  assert _load(tmp_path / 'one' / 'train.csv').num_images == 2


def test_images_in_another_folder(tmp_path):
  """It is found and named if the paths are not there, and taken by the option."""
  _images(tmp_path, *(f'train/{path}' for path in _PATHS))
  table = _write(tmp_path, 'id,label\na,x\nb,y\nc,x\nd,y\n')
  with pytest.raises(
    ValueError, match=r'do not exist, .*/. \(labels.csv, line .\).*image_dir=train'
  ):
    _load(table)
  source = _load(table, image_dir='train', test_fraction=0.5)
  assert any('suffix of their file: 2 (e.g. of ' in note for note in source.notes)
  assert _load(table, image_dir=str(tmp_path / 'train'), test_fraction=0.5).paths == source.paths


def test_missing_files(tmp_path):
  """An error with their number, or left out with a note."""
  _images(tmp_path, *_PATHS)
  table = _write(tmp_path, f'{_SPLIT}e.png,cat,train\nf.png,dog,train\n')
  with pytest.raises(ValueError, match=r'^2 of 4 files do not exist, .*/e.png \(.* line 6\)\. Rem'):
    _load(table)
  source = _load(table, skip=True)
  assert list(_found(source)) == ['a.png', 'b.png']
  assert source.notes[-1].startswith('2 of 4 files do not exist')
  assert _load(table, 'test').num_images == 2
  _write(tmp_path, 'path,label\nhttps://x.org/a.png,1\nb,2\n')
  with pytest.raises(ValueError, match='Addresses of the web are not read'):
    _load(table)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('', 'labels.csv is empty: its first line must name the columns'),
    ('path,label\n', 'no rows besides the names'),
    ('a.png,cat\nb.png,dog\n', r'no column for the path .* it has a.png, cat: .* a row of data'),
    ('path,kind\na.png,1\n', r'no column for the label .* it has path, kind: .*label_column=NAME'),
    ('path,file,label\n', 'several columns that may hold the path: path, file; .* path_column='),
    ('path,label,label\n', 'several columns that may hold the label: label, label'),
    ('path,label,set,split\n', 'hold the split: set, split; .* or split_column=none'),
    ('path,label\na.png\n', 'line 2, has 1 fields, and the first line names 2 columns'),
    ('path,label\na.png,x,y\n', 'line 2, has 3 fields'),
    ('path,label\n"a.png,x\nb.png,y\n', 'line 2, is no row of a table, perhaps for a quotation'),
    ('path,label\na.png,\nb.png,nan\nc.png,x\n', '^rows without a label: 2, .* line 2'),
    ('path,label\n,x\n', 'line 2, has no .path.'),
    ('path,label\na.png,x\na.png,y\n', r"different values of its label: 'x' \(.*2\) and 'y' \(.*3"),
    (_SPLIT + './a.png,cat,test\n', r"different values of its split: 'train' .* 'test'"),
    (_SPLIT + 'e.png,cat,TRAIN\n', "'train' .2. also as 'TRAIN' .1.: write"),
    (_SPLIT + 'e.png,cat,Test\n', "'test' .2. also as 'Test' .1.: write them alike"),
    (_SPLIT.replace('label,split', 'label,group') + 'a.png,cat,x\n', "its group: 'train' .* 'x'"),
    (_SPLIT + 'd,cat,test\n', 'line 6, and .*, line 5, write the path of one file, d.png'),
    ('path,label\na.png,1\nb.png,01\nc.png,1\nd.png,01\n', "'01' and '1' are the same number"),
    ('path,label\na.png,x\nb.png,x\n', "has only one class, x"),
    (_SPLIT.replace(',test', ',fold'), r"^split='test': .* no such split; it has train \(2\)"),
    (_SPLIT.replace('d,test', 'd,val').replace('c.png,cat,test', 'c.png,cat,dev')
     .replace('dog,test', 'dog,val'), r"^split='test': .* several that may be it: say split=dev"),
    (_SPLIT.replace('d.png,dog', 'd.png,cow'), "classes that 'train' lacks: cow"),
  ],
)  # fmt: skip
def test_what_is_wrong_is_told(tmp_path, text, message):
  """With the line or the argument."""
  _images(tmp_path, *_PATHS)
  table = _write(tmp_path, text)
  with pytest.raises(ValueError, match=message):
    _load(table, 'test')


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (
      'path,label\na.png,Löwe\n'.encode('latin-1'),
      r'not in UTF-8: line 2 has the byte 0xf6.*iconv',
    ),
    ('path,label\ra.png,Löwe\r'.encode('latin-1'), 'not in UTF-8: line 2 has'),
    ('path,label\n'.encode('utf-16'), 'in UTF-16: save it'),
    (b'PK\x03\x04rest', 'a spreadsheet or an archive, not a text'),
    (b'path\0,label', 'characters of code 0'),
  ],
)
def test_what_is_no_text_in_utf_8(tmp_path, content, message):
  (tmp_path / 'labels.csv').write_bytes(content)
  with pytest.raises(ValueError, match=message):
    _load(tmp_path)


def test_which_table_of_a_folder(tmp_path):
  _images(tmp_path, *_PATHS)
  with pytest.raises(ValueError, match=r'it has none; say data_dir=.*TABLE.csv'):
    _load(tmp_path)
  _write(tmp_path, _SPLIT, 'photos.tsv')
  assert _load(tmp_path).num_images == 2
  _write(tmp_path, 'nothing', 'other.csv')
  with pytest.raises(ValueError, match=r'several: other.csv, photos.tsv; say data_dir=.*other.csv'):
    _load(tmp_path)
  _write(tmp_path, _SPLIT, 'metadata.csv')
  assert _load(tmp_path).num_images == 2
  with pytest.raises(ValueError, match='neither a table nor a folder'):
    _load(tmp_path / 'absent.csv')


def test_what_is_noted(tmp_path):
  """Columns, repetitions, groups in both splits, classes of one name, files that are no images."""
  _images(tmp_path, *_PATHS)
  (tmp_path / 'e.png').write_text('none')
  rows = ('a.png,cat,train,1', 'a.png,cat,train,1', 'b.png,Cat,train,2', 'e.png,cat,train,3')
  table = _write(
    tmp_path, '\n'.join(['path,label,split,patient', *rows, 'c.png,cat,test,2', 'd.png,Cat,test,4'])
  )
  assert _load(table).notes == (
    'rows that repeat an image, which counts once: 1 (e.g. labels.csv, line 3)',
    'columns: path path, label label, split split, group patient',
    'classes that differ by upper and lower case, blanks or ways to write an accent alone: '
    "'Cat', 'cat'",
    '1 with the name of an image but none that is read inside, to be treated as on_bad_image says '
    '(e.g. e.png)',
  )
  test = _load(table, 'test')
  assert 'groups that are in training, too: 1 (2)' in test.notes
  assert not any('not used' in note for note in test.notes)
  held = _load(table, 'test', split_column='none', test_fraction=0.4)
  assert held.notes[1].startswith(
    '2 of 5 images are held out in whole groups, 1 of them: test_fraction=0.4, and from 33% to 50%'
  )


def test_rows_that_are_not_used_are_counted(tmp_path):
  _images(tmp_path, *_PATHS)
  rows = ('e.png,cat,val', 'f.png,cat,val', 'g.png,cow,', 'h.png,,nan')
  table = _write(tmp_path, _SPLIT + '\n'.join(rows))
  assert _load(table, 'test').notes == (
    'rows of other splits, which are not used: val (2), no split (2)',
  )


@pytest.mark.parametrize('names', [('café', 'cafe\u0301'), ('big  cat', 'big cat')])
def test_classes_that_look_alike_are_noted(tmp_path, names):
  _images(tmp_path, *_PATHS)
  table = _write(
    tmp_path, f'path,label\na.png,{names[0]}\nb.png,{names[1]}\nc.png,x\n', encoding='utf-8'
  )
  (note,) = (note for note in _load(table).notes if 'alone: ' in note)
  assert {f"'{printable(name)}'" for name in names} == set(note.partition('alone: ')[2].split(', '))
  table = _write(tmp_path, f'path,label,group\na.png,x,{names[0]}\nb.png,y,{names[1]}\nc.png,x,\n')
  notes = [note.partition(' that differ')[0] for note in _load(table, 'test').notes]
  assert 'groups' in notes and 'classes' not in notes


@pytest.mark.parametrize('split', ['train', 'test', 'none'])
def test_one_file_in_two_ways(tmp_path, split):
  """In one split or in both; a link to a file is another image."""
  _images(tmp_path, 'in/a.png', 'b.png')
  (tmp_path / 'link.png').symlink_to('b.png')
  (tmp_path / 'same').symlink_to('in')
  column = {'split_column': 'none'} if split == 'none' else {}
  rows = 'path,label,split\nin/a.png,x,train\nb.png,y,train\nlink.png,y,test\n'
  assert _load(_write(tmp_path, rows), 'test', **column).num_images == 1
  for path in (str(tmp_path / 'in' / 'a.png'), r'in\a.png', 'in/a', 'same/a.png'):
    table = _write(tmp_path, f'{rows}{path},x,{split}\n')
    with pytest.raises(ValueError, match=r'line 2.* write the path of one file'):
      _load(table, 'test', **column)
      _load(table, **column)
  (tmp_path / 'in' / 'a.png').unlink()  # the test images may be read without those for training
  assert _load(_write(tmp_path, rows), 'test').num_images == 1


def test_a_group_named_nan_is_no_group(tmp_path):
  _images(tmp_path, *_PATHS)
  rows = ''.join(f'{path},{"xy"[i % 2]},NaN\n' for i, path in enumerate(_PATHS))
  table = _write(tmp_path, f'path,label,group\n{rows}')
  assert _load(table, 'test').num_images == 2


def _division(labels, groups=None, fraction=0.1):
  names = [f'{number}.png' for number in range(len(labels))]
  return holding_out.held_out(names, labels, groups or [''] * len(labels), fraction=fraction)


def test_the_division_is_stratified():
  """Of each class the fraction, rounded, at least one, and never all."""
  sizes = {'a': 1, 'b': 2, 'c': 9, 'd': 36, 'e': 200}
  labels = [name for name, size in sizes.items() for _ in range(size)]
  held = np.array(labels)[_division(labels)]
  assert collections.Counter(held) == {'b': 1, 'c': 1, 'd': 4, 'e': 20}
  assert collections.Counter(np.array(labels)[_division(labels, fraction=0.9)])['b'] == 1


def test_more_images_change_the_division_little():
  """Of the earlier ones all but a few stay where they were."""
  before, after = _division(['a'] * 1000), _division(['a'] * 1100)
  assert (before != after[:1000]).sum() < 20


def test_groups_stay_together():
  """None is in both parts, every class is in both, and the shares are near the fraction."""
  random_ = random.Random(0)
  groups = [f'g{random_.randrange(60)}' for _ in range(600)]
  labels = [random_.choice('abbcccc') for _ in range(600)]
  held = _division(labels, groups)
  test, train = (collections.Counter(np.array(labels)[part]) for part in (held, ~held))
  assert not set(np.array(groups)[held]) & set(np.array(groups)[~held])
  for label in 'abc':
    assert 0.05 < test[label] / (test[label] + train[label]) < 0.2
  # Few large groups: each class has an image in both parts, where groups allow it.
  held = _division(['a'] * 20 + ['b'] * 20, ['1'] * 10 + ['2'] * 10 + ['3'] * 20)
  assert held.sum() == 10 and not held[20:].any()
