"""The table of predictions survives every interruption, and no other file is touched."""

import csv
import pathlib

import pytest

from nfnets_augmult.runs.prediction_files import PredictionFile, Row

_FACTS = {'parameters': 'abc', 'copies': 0}
_NAMES = [
  b'a.jpg',
  b'line\r\nbreak.jpg',
  b'"quoted", with comma.png',
  b'\xff\xfe.gif',
  'ü猫.png'.encode(),
]
_ROWS = [
  Row(path, [('cat', 0.75), ('a "dog", or\nso', 0.125)] if number != 2 else [], error)
  for number, path in enumerate(_NAMES)
  for error in ['its end, is "missing"' if number == 2 else '']
]


def _open(path, top=2, description='run, step 1', **facts):
  return PredictionFile(str(path), facts=_FACTS | facts, description=description, top=top)


def _complete(path):
  table = _open(path)
  done = dict(table.rows)
  table.append([row for row in _ROWS if row.path not in done])
  table.close()
  return done


def test_what_is_in_the_file(tmp_path):
  path = tmp_path / 'p.csv'
  assert not _complete(path)
  text = path.read_bytes().decode('utf-8', 'surrogateescape')
  rows = list(csv.DictReader(text.splitlines(keepends=True)))
  assert [row['path'].encode('utf-8', 'surrogateescape') for row in rows] == _NAMES
  assert list(rows[0].values()) == ['a.jpg', 'cat', '0.75', 'a "dog", or\nso', '0.125', '']
  assert list(rows[2].values())[1:] == ['', '', '', '', 'its end, is "missing"']
  before = path.read_bytes()
  assert list(_complete(path).values()) == _ROWS
  assert path.read_bytes() == before


def test_it_is_completed_after_a_crash_at_any_byte(tmp_path):
  path = tmp_path / 'p.csv'
  _complete(path)
  whole, num_done = path.read_bytes(), set()
  for length in range(len(whole)):
    path.write_bytes(whole[:length])
    num_done.add(len(_complete(path)))
    assert path.read_bytes() == whole, length
  assert num_done == set(range(len(_ROWS)))


def test_the_lines_of_another_program_are_kept(tmp_path):
  """An editor or spreadsheet may have saved the file with its own ends of lines."""
  path = tmp_path / 'p.csv'
  _complete(path)
  saved = b'\n'.join(path.read_bytes().split(b'\r\n'))
  path.write_bytes(saved)
  assert _complete(path).keys() - set(_NAMES) == {b'line\nbreak.jpg'}  # one end was in a name
  assert path.read_bytes().startswith(saved)


def test_other_predictions_are_refused(tmp_path):
  path = tmp_path / 'p.csv'
  _complete(path)
  before = path.read_bytes()
  for options, words in (
    ({'copies': 4}, r'copies \(0 there, 4 now\): give another name, or remove'),
    ({'top': 1}, r'top \(2 there, 1 now\)'),
    (
      {'parameters': 'other', 'description': 'run, step 2'},
      r'predictions of run, step 1, and would go on with those of run, step 2, which differ in par',
    ),
  ):
    with pytest.raises(ValueError, match=words):
      _open(path, **options)
  pathlib.Path(f'{path}.json').unlink()
  with pytest.raises(ValueError, match='nothing says that these are predictions'):
    _open(path)
  assert path.read_bytes() == before


def test_a_file_that_cannot_be_written(tmp_path):
  table = _open(tmp_path / 'p.csv')
  with pytest.raises(ValueError, match='is being written by another process'):
    _open(tmp_path / 'p.csv')
  table.close()
  (tmp_path / 'p.csv').write_text('path,label\r\n1,2\r\n')
  for path, words in (
    (tmp_path / 'none' / 'p.csv', 'cannot be written: No such file'),
    (tmp_path, 'cannot be written: Is a directory'),
    ('gs://bucket/p.csv', 'in a bucket'),
    (tmp_path / 'p.csv', 'its first line is not'),
  ):
    with pytest.raises(ValueError, match=words):
      _open(path)
