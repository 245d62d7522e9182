"""Tables of images in CSV files: one row per image, with its path, its label, and perhaps more."""

import csv
import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from nfnets_augmult.data import image_formats
from nfnets_augmult.data.sources import display_name, printable, shorten
from nfnets_augmult.ops import checks

# In place of the name of a column, if none is to be used.
NO_COLUMN = 'none'

_DELIMITERS = (',', ';', '\t', '|')

# The usual names of columns, in lower case and without what is no letter or digit. A name of the
# second group counts only if there is none of the first.
_USUAL_NAMES = {
  'path': (
    {'path', 'file', 'filename', 'filepath', 'image', 'imagepath', 'imagefile', 'imagename'}
    | {'imagefilename', 'img', 'imgpath', 'imgfile', 'imgname'},
    {'id', 'imageid', 'imgid', 'fileid'},
  ),
  'label': (
    {'label', 'labels', 'labelname', 'class', 'classname', 'category', 'categoryname', 'target'},
    {'labelid', 'labelidx', 'classid', 'classidx', 'classindex', 'categoryid', 'targetid'},
  ),
  'split': ({'split', 'set', 'subset', 'partition'},),
  'group': ({'group', 'groupid', 'patient', 'patientid', 'subject', 'subjectid'},),
}

_NO_TABLES = {
  b'PK\x03\x04': 'a spreadsheet or an archive',
  b'\xd0\xcf\x11\xe0': 'a spreadsheet',
  b'PAR1': 'in the format Parquet',
  b'\x1f\x8b': 'compressed',
}

# What stands for no value, in lower case.
_NO_VALUES = ('', 'nan', '<na>', '#n/a')


class Row(NamedTuple):
  """An image in a table.

  Attributes:
    line: of the file, from 1.
    path: as it is written there; '' if there is none.
    label: likewise; '' if there is none.
    split: likewise, '' without a column.
    group: likewise.
  """

  line: int
  path: str
  label: str
  split: str
  group: str


class Table(NamedTuple):
  """The rows of a file, and the names of the columns that were used, by their purpose."""

  rows: list[Row]
  columns: dict[str, str]


def read_table(file: str, columns: Mapping[str, str]) -> Table:
  """Returns the rows of a CSV file whose first line names its columns.

  The text is UTF-8, with or without a mark at its beginning. What separates the columns is that of
  comma, semicolon, tab and bar that the first line has most of.

  Args:
    file: path of the table.
    columns: names of the columns for `path`, `label`, `split` and `group`; '' for one that has a
      usual name, if there is one, and `NO_COLUMN` for none.

  Raises:
    ValueError: the file cannot be read, is no such table, or lacks a column; the message says which
      there are, and the argument that names one.
  """
  records = _records(file, _read_text(file))
  _, header = next(records, (0, []))
  header = [name.strip() for name in header]
  if not header:
    raise ValueError(f'{printable(file)} is empty: its first line must name the columns')
  found = {}
  for purpose in _USUAL_NAMES:
    place = _find_column(file, header, purpose, columns[purpose])
    if place is not None:
      found[purpose] = place
  rows = []
  for line, fields in records:
    if len(fields) < len(header) or any(fields[len(header) :]):
      raise ValueError(
        f'{printable(file)}, line {line:,}, has {len(fields)} fields, and the first line names '
        f'{len(header)} columns; a value that holds a separator must be "in quotation marks"'
      )
    values = {purpose: fields[place].strip() for purpose, place in found.items()}
    label, split, group = (
      '' if values.get(purpose, '').lower() in _NO_VALUES else values[purpose]
      for purpose in ('label', 'split', 'group')
    )
    rows.append(Row(line, values['path'], label, split, group))
  if not rows:
    raise ValueError(f'{printable(file)} has no rows besides the names of its columns')
  return Table(rows, {purpose: header[place] for purpose, place in found.items()})


def _read_text(file: str) -> str:
  try:
    with open(file, 'rb') as opened:
      content = opened.read()
  except OSError as error:
    raise ValueError(f'{printable(file)} cannot be read: {error.strerror}') from error
  name = printable(file)
  for start, kind in _NO_TABLES.items():
    if content.startswith(start):
      raise ValueError(f'{name} is {kind}, not a text: save it as CSV')
  if content.startswith((b'\xff\xfe', b'\xfe\xff')):
    raise ValueError(f'{name} is in UTF-16: save it as CSV in UTF-8')
  try:
    text = content.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    line = len(content[: error.start + 1].splitlines())
    raise ValueError(
      f'{name} is not in UTF-8: line {line:,} has the byte {content[error.start]:#04x}. Save it as '
      '"CSV UTF-8", or, if it was written by a spreadsheet in western Europe, convert it with '
      'iconv -f WINDOWS-1252 -t UTF-8'
    ) from error
  if '\0' in text:
    raise ValueError(f'{name} is not a text: it has characters of code 0')
  return text


def _records(file: str, text: str) -> Iterator[tuple[int, list[str]]]:
  """Yields the line on which each record begins, and its fields; empty ones are left out."""
  lines = io.StringIO(text, newline='')
  stated = re.match(r'sep=(.)[\r\n]', text)  # as spreadsheets write it
  first_line = re.search(r'[^\r\n]*', text.lstrip('\r\n'))[0]
  delimiter = stated[1] if stated else _delimiter(file, first_line)
  skipped = len(list(itertools.islice(lines, 1 if stated else 0)))
  reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
  line = skipped + 1
  try:
    for fields in reader:
      if any(field.strip() for field in fields):
        yield line, fields
      line = skipped + reader.line_num + 1
  except csv.Error as error:
    raise ValueError(
      f'{printable(file)}, line {line:,}, is no row of a table, perhaps for a quotation mark that '
      f'is not closed: {error}'
    ) from error


def _delimiter(file: str, first_line: str) -> str:
  """What separates the columns, of which the first line has the names."""
  counts = {
    delimiter: len(next(csv.reader([first_line], delimiter=delimiter), []))
    for delimiter in _DELIMITERS
  }
  most = max(counts.values())
  likely = [delimiter for delimiter, count in counts.items() if count == most]
  if most > 1 and len(likely) > 1:
    raise ValueError(
      f'the first line of {printable(file)} has as many of {likely[0]!r} as of {likely[1]!r}: put '
      'names of columns that hold one of them "in quotation marks"'
    )
  return likely[0]


def _find_column(file: str, header: Sequence[str], purpose: str, asked: str) -> int | None:
  """The place of the column for a purpose; None if there need not be one."""
  argument, is_needed = f'{purpose}_column', purpose in ('path', 'label')
  names = shorten([display_name(name) for name in header], most=20)
  if asked == NO_COLUMN and not is_needed:
    return None
  if asked:
    if header.count(asked) != 1:
      count = 'no column' if asked not in header else 'several columns'
      raise ValueError(
        f'{argument}={checks.shown(asked)}: {printable(file)} has {count} of that name; it has '
        f'{names}'
      )
    return header.index(asked)
  for usual in _USUAL_NAMES[purpose]:
    places = [
      place for place, name in enumerate(header) if re.sub(r'[\W_]', '', name.lower()) in usual
    ]
    if len(places) == 1:
      return places[0]
    if places:
      several = ', '.join(display_name(header[place]) for place in places)
      none = '' if is_needed else f', or {argument}={NO_COLUMN} for none of them'
      raise ValueError(
        f'{printable(file)} has several columns that may hold the {purpose}: {several}; say which '
        f'with {argument}=NAME{none}'
      )
  if not is_needed:
    return None
  hint = ''
  if any(name.lower().endswith(image_formats.IMAGE_SUFFIXES) for name in header):
    hint = '. That looks like a row of data: the first line must name the columns, as in path,label'
  raise ValueError(
    f'{printable(file)} has no column for the {purpose} of an image under a usual name, such as '
    f'{purpose}; it has {names}: say which with {argument}=NAME{hint}'
  )
