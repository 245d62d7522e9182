"""Images that a table of paths and labels lists, as a source."""

import collections
import dataclasses
import decimal
import functools
import os
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nfnets_augmult.data import holding_out, image_files, image_formats, table_files
from nfnets_augmult.data.image_files import FileSource, argument, shown, text
from nfnets_augmult.data.sources import display_name, printable, require_data_dir, shorten
from nfnets_augmult.data.split_names import split_purpose
from nfnets_augmult.ops import checks

_SUFFIXES = ('.csv', '.tsv')
# Names of the table of a folder of images, without a suffix.
_USUAL_TABLES = ('metadata', 'labels')

_NUMBER = re.compile(r'[+-]?\d+(\.\d+)?')


@dataclasses.dataclass(frozen=True)
class TableOptions:
  """How a table of images is read.

  Attributes:
    path_column: name of the column with the file of each image; '' for a usual name.
    label_column: likewise of its class.
    split_column: likewise of the split that it belongs to; `'none'` for no column.
    group_column: likewise of what it shares with images that must be in the same split.
    image_dir: the folder that paths are relative to, itself relative to that of the table.
    test_fraction: share of the images that is held out for the test, if the table names no splits.
  """

  path_column: str = ''
  label_column: str = ''
  split_column: str = ''
  group_column: str = ''
  image_dir: str = ''
  test_fraction: float = 0.1

  def __post_init__(self):
    checks.check_number('test_fraction', self.test_fraction, above=0, below=1)


@dataclasses.dataclass(frozen=True)
class TableSource(FileSource):
  """A `FileSource` whose paths do not tell the classes."""

  @functools.cached_property
  def listing(self) -> tuple[str, ...]:
    """Class and path of every image in order."""
    pairs = zip(self.labels.tolist(), self.paths, strict=True)
    return tuple(f'{self.class_names[label]}\t{text(path)}' for label, path in pairs)


class _Image(NamedTuple):
  """A row of a table; `path` is relative to `root`, `place` says where the row is."""

  path: str
  label: str
  split: str
  group: str
  place: str


def table_source(
  *,
  split: str,
  data_dir: str,
  train_split: str = 'train',
  options: TableOptions | None = None,
  on_bad_image: str = 'fail',
) -> TableSource:
  """Returns the images of a split that a CSV file lists, see `table_files.read_table`.

  Paths are relative to the folder of the table, or absolute; backslashes may separate folders, and
  the suffix may be missing. Images are ordered by path, classes by the bytes of their names in
  UTF-8, or by value if all are numbers; the order of the rows does not matter.

  The splits are those of a column, in which a usual name, as `val`, stands for another, as `test`,
  unless there are several; else those of tables named `train.csv` and `test.csv`, or in folders
  named so; else `test` is what `holding_out.held_out` chooses, and `train` the rest.

  Args:
    split: one of those.
    data_dir: the table; or its folder, if that has one table, or one named metadata or labels.
    train_split: the split that has the classes of all splits. If there is no such split, those of
      `split` are the classes.
    options: how the table is read.
    on_bad_image: under `'skip'`, files that do not exist are left out, unless all are missing.

  Raises:
    ValueError: there is no such table or split, files are missing, rows have no label, or one image
      is there twice with different labels or in different splits; the message names the argument.
  """
  require_data_dir('csv', data_dir)
  options = options or TableOptions()
  root, tables = _tables(data_dir, options.image_dir)
  if tables[0].split:
    named = _split_names([table.split for table in tables], split, train_split, data_dir)
    tables = [table for table in tables if table.split in named]
  read = [_read(data_dir, table, options) for table in tables]
  columns = read[0][1]
  images, notes = _merge(image for found, _ in read for image in found)
  if tables[0].split or 'split' in columns:
    names = _split_names([image.split for image in images], split, train_split, data_dir)
    chosen, training = ([i for i in images if i.split == name] for name in names)
    if split != train_split:
      notes += _note_on_unused([image.split for image in images if image.split not in names])
  else:
    training, tests = _divide(images, split, data_dir, options.test_fraction)
    chosen = tests if split == 'test' else training
    if split == 'test':
      notes += (_note_on_division(training, tests, options.test_fraction),)
  if split == train_split:
    used = ', '.join(f'{purpose} {display_name(name)}' for purpose, name in columns.items())
    notes += (f'columns: {used}',)
  for some in (training, chosen):
    _check_labels(some)
  class_names = sorted({image.label for image in training}, key=_class_order(training))
  if unknown := sorted({image.label for image in chosen} - set(class_names)):
    raise ValueError(
      f'split {split!r} of {data_dir} has classes that {train_split!r} lacks: '
      f'{shorten([display_name(name) for name in unknown])}'
    )
  notes += _notes_on_names(class_names, training, chosen if split != train_split else ())
  chosen, paths, more = _find_files(root, sorted(chosen), skip=on_bad_image == 'skip')
  others = [image for image in training if split != train_split]
  _check_listed_once(root, [*others, *chosen], [*_locate(root, others)[0], *paths])
  kinds = image_files.formats(root, paths)
  pairs = zip(paths, kinds, strict=True)
  bad = [path for path, kind in pairs if kind not in image_formats.READ_FORMATS]
  label_of = {name: label for label, name in enumerate(class_names)}
  return TableSource(
    folder=root,
    paths=tuple(paths),
    labels=np.array([label_of[image.label] for image in chosen], np.int32),
    class_names=tuple(class_names),
    description=f'csv/{split}',
    notes=(*notes, *more, *image_files.note_on_bad(bad)),
  )


class _TableFile(NamedTuple):
  """A table, the split that it has, '' if it has several, and what its paths begin with."""

  file: str
  split: str
  prefix: str


def _tables(data_dir: str, image_dir: str) -> tuple[bytes, list[_TableFile]]:
  """Returns the folder that the paths of the images are relative to, and the tables."""
  if os.path.isfile(data_dir):
    folder = os.path.dirname(data_dir)
    return _encoded(os.path.join(folder, image_dir)), [_TableFile(data_dir, '', '')]
  if '://' in data_dir or not os.path.isdir(data_dir):
    raise ValueError(f'data_dir={data_dir!r} is neither a table nor a folder of this file system')
  files = _tables_in(data_dir)
  if usual := _only_table(files):
    return _tables(os.path.join(data_dir, usual), image_dir)
  of_splits = [file for file in files if split_purpose(os.path.splitext(file)[0])]
  if {split_purpose(os.path.splitext(file)[0]) for file in of_splits} == {'train', 'test'}:
    tables = [(os.path.join(data_dir, file), os.path.splitext(file)[0]) for file in of_splits]
    root = os.path.join(data_dir, image_dir)
    return _encoded(root), [_TableFile(file, of_split, '') for file, of_split in tables]
  inside = {
    folder: _only_table(_tables_in(os.path.join(data_dir, folder)))
    for folder in sorted(os.listdir(data_dir))
    if split_purpose(folder) and os.path.isdir(os.path.join(data_dir, folder))
  }
  if not files and inside and all(inside.values()):
    return _encoded(data_dir), [
      _TableFile(os.path.join(data_dir, folder, file), folder, os.path.join(folder, image_dir))
      for folder, file in inside.items()
    ]
  has = f'several: {shorten(files)}' if files else 'none'
  raise ValueError(
    f'data_dir={data_dir!r} holds no table by itself: of {" and ".join(_SUFFIXES)} it has {has}; '
    f'say {argument("data_dir", _encoded(os.path.join(data_dir, (files or ["TABLE.csv"])[0])))}'
  )


def _tables_in(folder: str) -> list[str]:
  return sorted(
    name
    for name in os.listdir(folder)
    if name.lower().endswith(_SUFFIXES) and not name.startswith('.')
  )


def _only_table(files: Sequence[str]) -> str:
  """The one that is there, or the one of a usual name; '' if neither is."""
  usual = [file for file in files if os.path.splitext(file)[0].lower() in _USUAL_TABLES]
  return files[0] if len(files) == 1 else usual[0] if len(usual) == 1 else ''


def _split_names(
  names: Sequence[str], split: str, train_split: str, data_dir: str
) -> tuple[str, str]:
  """The names here of the split that is asked for, and of the one with the classes.

  Each is its own, or that of the only split of the same purpose; if there is none for training, the
  classes are those of `split`.

  Args:
    names: of the splits that there are, one for each of their images or tables.
    split: asked for.
    train_split: see `table_source`.
    data_dir: for messages.
  """
  counts = collections.Counter(names)

  def fitting(asked: str) -> list[str]:
    purpose = split_purpose(asked)
    alike = [name for name in counts if purpose and split_purpose(name) == purpose]
    return [asked] if asked in counts else alike

  if len(found := fitting(split)) != 1:
    key = 'train_split' if split == train_split else 'split'
    has = shorten([f'{display_name(name)} ({count:,})' for name, count in counts.most_common()])
    what = (
      f'several that may be it: say {key}={found[0]}, for example' if found else 'no such split'
    )
    raise ValueError(f'{key}={split!r}: {printable(data_dir)} has {what}; it has {has}')
  training = fitting(train_split)
  result = found[0], training[0] if len(training) == 1 else found[0]
  for name in result:
    if others := [other for other in counts if other != name and other.lower() == name.lower()]:
      raise ValueError(
        f'{printable(data_dir)} writes the split {name!r} ({counts[name]:,}) also as '
        f'{others[0]!r} ({counts[others[0]]:,}): write them alike'
      )
  return result


def _note_on_unused(splits: Sequence[str]) -> tuple[str, ...]:
  """A line on rows whose splits are neither for training nor asked for; none without any."""
  counts = collections.Counter(splits)
  has = [
    f'{display_name(name) if name else "no split"} ({count:,})'
    for name, count in counts.most_common()
  ]
  return (f'rows of other splits, which are not used: {shorten(has)}',) if has else ()


def _read(
  data_dir: str, table: _TableFile, options: TableOptions
) -> tuple[list[_Image], dict[str, str]]:
  """Returns the images of a table, and the names of the columns that were used."""
  columns = {what: getattr(options, f'{what}_column') for what in ('path', 'label', 'group')}
  columns['split'] = table_files.NO_COLUMN if table.split else options.split_column
  try:
    rows, found = table_files.read_table(table.file, columns)
  except ValueError as error:
    if not table.split:
      raise
    raise ValueError(
      f'{error}. It was taken for the split {table.split!r}: to hold out a part of another table '
      f'instead, say {argument("data_dir", _encoded(os.path.join(data_dir, "TABLE.csv")))}'
    ) from error
  name = os.path.relpath(table.file, data_dir) if table.split else os.path.basename(table.file)
  images = []
  for row in rows:
    place = f'{printable(name)}, line {row.line:,}'
    if not row.path:
      raise ValueError(f'{place}, has no {found["path"]!r}')
    path = posixpath.normpath(posixpath.join(table.prefix, row.path))
    images.append(_Image(path, row.label, table.split or row.split, row.group, place))
  return images, found


def _merge(images: Iterable[_Image]) -> tuple[list[_Image], tuple[str, ...]]:
  """Returns the images, each once, and a note on those that are listed several times."""
  by_path: dict[str, _Image] = {}
  repeated = []
  for image in images:
    first = by_path.setdefault(image.path, image)
    if first is image:
      continue
    repeated.append(image)
    for what in ('label', 'split', 'group'):
      ours, theirs = getattr(image, what), getattr(first, what)
      if ours != theirs:
        raise ValueError(
          f'{printable(image.path)} is listed with two different values of its {what}: {theirs!r} '
          f'({first.place}) and {ours!r} ({image.place})'
        )
  if not repeated:
    return list(by_path.values()), ()
  note = f'rows that repeat an image, which counts once: {len(repeated):,}'
  return list(by_path.values()), (f'{note} (e.g. {repeated[0].place})',)


def _divide(
  images: Sequence[_Image], split: str, data_dir: str, fraction: float
) -> tuple[list[_Image], list[_Image]]:
  """Returns the images for training, and those that are held out."""
  if split not in ('train', 'test'):
    raise ValueError(
      f"'csv' has no split {split!r}; it has train, test: {printable(data_dir)} has no column for "
      'the split under a usual name; say which with split_column=NAME'
    )
  _check_labels(images)
  paths, labels, _, groups, _ = zip(*images, strict=True)
  is_held = holding_out.held_out(paths, labels, groups, fraction=fraction).tolist()
  divided = ([], [])
  for image, is_test in zip(images, is_held, strict=True):
    divided[is_test].append(image)
  return divided


def _note_on_division(training: list[_Image], tests: list[_Image], fraction: float) -> str:
  """How many images are held out, and by which shares of the classes."""
  left, held = (collections.Counter(image.label for image in some) for some in (training, tests))
  shares = [held[label] / (held[label] + left[label]) for label in left]
  groups = {image.group for image in tests if image.group}
  whole = f' in whole groups, {len(groups):,} of them' if groups else ''
  return (
    f'{len(tests):,} of {len(training) + len(tests):,} images are held out{whole}: test_fraction='
    f'{fraction:g}, and from {min(shares):.0%} to {max(shares):.0%} of each class'
  )


def _check_labels(images: Sequence[_Image]) -> None:
  if unlabelled := [image for image in images if not image.label]:
    raise ValueError(
      f'rows without a label: {len(unlabelled):,}, the first in {unlabelled[0].place}; label these '
      'images, or remove the rows'
    )


def _class_order(images: Sequence[_Image]) -> Callable[[str], Any]:
  """The key by which names of classes are sorted: their value if all are numbers."""
  names = {image.label for image in images}
  if not all(_NUMBER.fullmatch(name) for name in names):
    return lambda name: name.encode('utf-8')
  by_value: dict[decimal.Decimal, str] = {}
  for name in sorted(names):
    if (other := by_value.setdefault(decimal.Decimal(name), name)) != name:
      raise ValueError(f'the labels {other!r} and {name!r} are the same number: write them alike')
  return decimal.Decimal


def _notes_on_names(
  class_names: Sequence[str], training: Sequence[_Image], tests: Sequence[_Image]
) -> tuple[str, ...]:
  """Lines on classes and groups whose names look alike, and on groups that are in two splits."""
  notes = []
  groups = [{image.group for image in some if image.group} for some in (training, tests)]
  for what, names in (('classes', class_names), ('groups', sorted(groups[0] | groups[1]))):
    by_look = collections.defaultdict(list)
    for name in names:
      by_look[' '.join(unicodedata.normalize('NFKC', name).casefold().split())].append(name)
    alike = [some for some in by_look.values() if len(some) > 1]
    if alike:
      listed = shorten([', '.join(f"'{printable(name)}'" for name in some) for some in alike])
      notes.append(
        f'{what} that differ by upper and lower case, blanks or ways to write an accent alone: '
        f'{listed}'
      )
  if shared := sorted(groups[0] & groups[1]):
    listed = shorten([display_name(group) for group in shared])
    notes.append(f'groups that are in training, too: {len(shared):,} ({listed})')
  return tuple(notes)


def _find_files(
  root: bytes, images: Sequence[_Image], *, skip: bool
) -> tuple[list[_Image], list[bytes], tuple[str, ...]]:
  """Returns the images whose files exist, their paths below `root`, and notes on the others."""
  paths, completed = _locate(root, images)
  notes = ()
  if completed:
    notes += (
      f'paths without the suffix of their file: {len(completed):,} (e.g. of {text(completed[0])})',
    )
  missing = [image for image, path in zip(images, paths, strict=True) if not path]
  if missing:
    first = missing[0]
    what = (
      f'{len(missing):,} of {len(images):,} files do not exist, the first '
      f'{shown(root, _encoded(first.path))} ({first.place})'
    )
    if not skip or len(missing) == len(images):
      raise ValueError(f'{what}{_hint_on_missing(root, first.path, len(missing) < len(images))}')
    notes += (f'{what}: left out, as on_bad_image says',)
  pairs = [(image, path) for image, path in zip(images, paths, strict=True) if path]
  return [image for image, _ in pairs], [path for _, path in pairs], notes


def _locate(root: bytes, images: Sequence[_Image]) -> tuple[list[bytes], list[bytes]]:
  """Returns the path of each image, b'' if it has no file, and those found by their suffix."""
  paths = image_files.on_threads(functools.partial(_as_written, root), [i.path for i in images])
  completed, listed = [], {}
  for place, image in enumerate(images):
    if not paths[place]:
      paths[place] = _with_suffix(root, image, listed)
      completed += filter(None, [paths[place]])
  return paths, completed


def _check_listed_once(root: bytes, images: Sequence[_Image], paths: Sequence[bytes]) -> None:
  """Raises ValueError if two rows mean one file, as one may that has an absolute path.

  `paths`: of the images, b'' for one without a file. Links to files are files of their own.
  """
  real_folder = functools.cache(os.path.realpath)
  by_file: dict[bytes, _Image] = {}
  for image, path in zip(images, paths, strict=True):
    folder, name = os.path.split(os.path.join(root, path))
    file = os.path.join(real_folder(folder), name)
    if path and (other := by_file.setdefault(file, image)) is not image:
      raise ValueError(
        f'{other.place}, and {image.place}, write the path of one file, {printable(text(path))}, '
        'in two ways: leave one of them out'
      )


def _as_written(root: bytes, path: str) -> bytes:
  """The path of a file that exists, with slashes if need be; b'' if there is none."""
  for written in dict.fromkeys((path, posixpath.normpath(path.replace('\\', '/')))):
    if os.path.isfile(os.path.join(root, _encoded(written))):
      return _encoded(written)
  return b''


def _with_suffix(
  root: bytes, image: _Image, listed: dict[bytes, dict[bytes, list[bytes]]]
) -> bytes:
  """The path of the only image file that has this path and a suffix; b'' if there is none.

  `listed` remembers the files of each folder, by their name without the suffix.
  """
  folder, name = os.path.split(_encoded(posixpath.normpath(image.path.replace('\\', '/'))))
  if folder not in listed:
    listed[folder] = collections.defaultdict(list)
    if os.path.isdir(os.path.join(root, folder)):
      for file in sorted(os.listdir(os.path.join(root, folder))):
        stem, suffix = os.path.splitext(file)
        if text(suffix).lower() in (*image_formats.IMAGE_SUFFIXES, '.avif'):
          listed[folder][stem].append(file)
  found = listed[folder].get(name, [])
  if len(found) > 1:
    raise ValueError(
      f'{image.place}: {printable(image.path)} may be {text(found[0])} or {text(found[1])}: write '
      'the suffix'
    )
  return os.path.join(folder, found[0]) if found else b''


def _hint_on_missing(root: bytes, path: str, some_exist: bool) -> str:
  """What to do about missing files, as far as it can be told from the first of them."""
  if re.match(r'\w+:/', path):
    return '. Addresses of the web are not read: download the images first'
  if some_exist:
    return ". Remove these rows, or leave such images out with on_bad_image='skip'"
  folders = [e.name for e in os.scandir(root) if e.is_dir()] if os.path.isdir(root) else []
  for folder in sorted(folders):
    image = _Image(posixpath.join(text(folder), path), '', '', '', '')
    below = os.path.join(root, folder)
    if _as_written(below, path) or _with_suffix(root, image, {}):
      return f'. There is such a file in {shown(below)}: say {argument("image_dir", folder)}'
  return '. Say which folder the paths are relative to, with image_dir=DIR'


def _encoded(path: str) -> bytes:
  """A path of a table, which is text, as the file system has it, whatever the language is."""
  return path.encode('utf-8', 'surrogateescape')
