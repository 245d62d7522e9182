"""A folder of images with one sub-folder per class, as a source.

Whether a file is an image is decided by its first bytes, not by its name, and images may be any
number of folders below their class. Whatever is passed over is counted and reported, by reason.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import os
import re
import shlex
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nfnets_augmult.data import image_formats
from nfnets_augmult.data.sources import display_name, printable, require_data_dir, shorten

# Reading the first bytes waits for the disk, or for the network behind it, most of the time.
_NUM_THREADS = 16
_FILES_PER_TASK = 256

# Left by archives, file managers and file systems, besides everything that begins with a dot.
_LITTER_FOLDERS = (
  *(b'__macosx', b'__pycache__', b'@eadir', b'$recycle.bin', b'lost+found'),
  b'system volume information',
)
_LITTER_FILES = (b'thumbs.db', b'ehthumbs.db', b'desktop.ini', b'icon\r')

# Words in the usual names of splits, the more usual ones first, and others that go with them.
_TRAIN_WORDS = ('train', 'training', 'trn')
_TEST_WORDS = ('test', 'testing', 'tst', 'val', 'valid', 'validation')
_TEST_WORDS += ('eval', 'evaluation', 'dev', 'holdout')
_OTHER_WORDS = ('', 'set', 'split', 'data', 'image', 'images', 'img', 'imgs', 'photos')

# Reasons to pass something over, as they follow a number.
_NO_IMAGE = 'without an image'
_STRAY = 'outside of the class folders'
_LITTER = 'hidden or left by other programs'
_BROKEN_LINK = 'linked to nothing'
_SECOND_LINK = 'linked to a folder that is read anyway'
_SPECIAL = 'neither a file nor a folder'

# In place of a format, where a file cannot be opened.
_UNREADABLE = 'unreadable'


@dataclasses.dataclass(frozen=True)
class FolderSource:
  """An `EncodedSource` of image files.

  Attributes:
    folder: the folder that `paths` are relative to.
    paths: of the images, as the file system has them.
    labels: int32 `[N]`.
    class_names: one string per class.
    description: for messages, for example `folder/train`.
    notes: lines that a user should see: what was passed over, and why.
  """

  folder: bytes
  paths: Sequence[bytes]
  labels: np.ndarray
  class_names: tuple[str, ...]
  description: str
  notes: tuple[str, ...] = ()

  @property
  def num_images(self) -> int:
    """N."""
    return len(self.paths)

  @functools.cached_property
  def listing(self) -> tuple[str, ...]:
    r"""`class/.../file` of every image in order; bytes that are not UTF-8 are written `\xff`."""
    return tuple(map(_text, self.paths))

  def read(self, index: int) -> tuple[bytes, int]:
    """Returns the bytes of the file and the label.

    Raises:
      ValueError: the file cannot be read; the message names it.
    """
    try:
      with open(os.path.join(self.folder, self.paths[index]), 'rb') as file:
        return file.read(), int(self.labels[index])
    except OSError as error:
      raise ValueError(f'{self.image_name(index)} cannot be read: {error.strerror}') from error

  def image_id(self, index: int) -> str:
    """Returns the path below the folder; bytes that are not UTF-8 are surrogates."""
    return self.paths[index].decode('utf-8', 'surrogateescape')

  def image_name(self, index: int) -> str:
    """Returns the path of the file, printable."""
    return _shown(self.folder, self.paths[index])


def folder_source(*, split: str, data_dir: str, train_split: str = 'train') -> FolderSource:
  """Returns the images of a folder that has one sub-folder per class.

  Either `data_dir/train/CLASS/...` and `data_dir/test/CLASS/...`, or just `data_dir/CLASS/...`. In
  the second layout about one file in ten belongs to `test`: those whose path, beginning with the
  class, has a CRC-32 divisible by 10. Adding or removing files does not move others.

  Classes, and the files of each by their path below it, are ordered by the bytes of their names in
  UTF-8, whatever the language of the system: `10` before `2`, `Z` before `a`. Links are followed,
  except to a folder that was read for the class already or that contains the class. What begins
  with a dot, and what archives and file managers leave behind, is passed over. A file with the name
  of an image but another content counts as an image that does not decode.

  Args:
    split: `train_split` or the name of another folder; `train` or `test` in the second layout.
    data_dir: the folder.
    train_split: the split whose folders are the classes of all splits. If it does not exist, as
      when only test images were copied, the folders of `split` are the classes.

  Raises:
    ValueError: `data_dir` is missing, not a folder, has another layout, or lacks images; the
      message names the folders found and the argument to use.
  """
  require_data_dir('folder', data_dir)
  if '://' in data_dir or not os.path.isdir(data_dir):
    raise ValueError(f'data_dir={data_dir!r} is not a folder of this file system')
  root, asked, train = map(os.fsencode, (data_dir, split, train_split))
  folders = _folders(root)
  if _holds_splits(root, folders, {asked, train}):
    if asked not in folders:
      raise ValueError(_no_such_split(root, folders, split, train_split))
    folder = os.path.join(root, asked)
    class_root = os.path.join(root, train) if train in folders else folder
    classes = _folders(class_root)
    if unknown := sorted(set(_folders(folder)) - set(classes)):
      raise ValueError(
        f'{_shown(folder)} has classes that {_shown(class_root)} lacks: {_listed(unknown)}'
      )
    scan = _scan(folder, classes)
    kept = scan.files
  elif split not in ('train', 'test'):
    raise ValueError(
      f"'folder' has no split {split!r}; it has train, test: there is no folder "
      f'{_shown(root, asked)}, and data_dir={data_dir!r} holds {_listed(folders)}'
    )
  else:
    folder, classes, is_test = root, folders, split == 'test'
    scan = _scan(folder, classes, only_held_out=is_test)
    kept = [file for file in scan.files if _is_held_out(file.path) == is_test]
  if split in ('train', train_split):
    _check_classes(folder, classes, scan, kept, is_undivided=folder == root)
  if not kept:
    raise ValueError(_no_images(split, folder, classes, is_undivided=folder == root))
  return FolderSource(
    folder=folder,
    paths=tuple(file.path for file in kept),
    labels=np.array([file.label for file in kept], np.int32),
    class_names=tuple(map(_text, classes)),
    description=f'folder/{split}',
    notes=_notes(scan),
  )


def find_images(places: Sequence[bytes]) -> tuple[list[bytes], tuple[str, ...]]:
  """Returns the paths of image files, and notes on what was passed over.

  Of a folder these are all that `folder_source` would find, in any number of folders below it and
  in the same order, and files that cannot be read; a file counts whatever is in it. Each has the
  path that it was found by, and comes once, however often it is given.

  Args:
    places: files and folders.

  Raises:
    ValueError: one of them is not there, or a folder cannot be read.
  """
  found: dict[bytes, bytes] = {}  # by its absolute path
  passed_over = collections.defaultdict(list)
  for place in places:
    if os.path.isdir(place):
      inside, paths = _walk(b'', place, os.path.realpath(place), passed_over), []
      for path, kind in zip(inside, _formats(b'', inside, unreadable=_UNREADABLE), strict=True):
        reason = '' if kind == _UNREADABLE else _reason_to_pass(path, kind)
        (passed_over[reason] if reason else paths).append(path)
    elif os.path.isfile(place):
      paths = [place]
    elif os.path.lexists(place):
      raise ValueError(f'{_shown(place)} is neither a file nor a folder')
    else:
      raise ValueError(f'{_shown(place)}: there is no such file or folder')
    for path in paths:
      found.setdefault(os.path.abspath(path), path)
  return list(found.values()), _passed_over_note(passed_over)


class _File(NamedTuple):
  """A file that is an image or has the name of one; `path` begins with the class."""

  label: int
  path: bytes
  is_image: bool


class _Scan(NamedTuple):
  """What class folders contain: files in order, and what was passed over, by reason."""

  files: list[_File]
  passed_over: dict[str, list[bytes]]


def _scan(folder: bytes, classes: Sequence[bytes], *, only_held_out: bool = False) -> _Scan:
  """Finds the images of `folder/CLASS`, whose labels follow the order of `classes`.

  With `only_held_out`, only the tenth for the test is read, and nothing is reported as passed over:
  the scan of the training images does that.
  """
  passed_over = collections.defaultdict(list)
  found = [
    (label, path)
    for label, name in enumerate(classes)
    for path in _find_files(folder, name, passed_over)
    if not only_held_out or _is_held_out(path)
  ]
  files = []
  kinds = _formats(folder, [path for _, path in found])
  for (label, path), kind in zip(found, kinds, strict=True):
    if reason := _reason_to_pass(path, kind):
      passed_over[reason].append(path)
    else:
      files.append(_File(label, path, kind in image_formats.READ_FORMATS))
  if only_held_out:
    return _Scan(files, {})
  entries = _entries(folder)
  passed_over[_LITTER] += [entry.name for entry in entries if _is_litter(entry)]
  strays = [entry.name for entry in entries if entry.is_file() and not _is_litter(entry)]
  kinds = _formats(folder, strays)
  passed_over[_STRAY] += [name for name, kind in zip(strays, kinds, strict=True) if kind]
  return _Scan(files, passed_over)


def _reason_to_pass(path: bytes, kind: str) -> str:
  """Why a file of this format is passed over; '' if it is an image or has the name of one."""
  is_named_so = _text(path).lower().endswith(image_formats.IMAGE_SUFFIXES)
  if kind in image_formats.READ_FORMATS or is_named_so:
    return ''
  return f'in the format {kind}, which is not read' if kind else _NO_IMAGE


def _find_files(root: bytes, name: bytes, passed_over: dict[str, list[bytes]]) -> list[bytes]:
  """Paths below `root` of all files of the class folder `name`, sorted."""
  if not os.path.isdir(os.path.join(root, name)):
    return []  # a class of the training images that this split lacks
  real_class = os.path.realpath(os.path.join(root, name))
  if _contains(real_class, os.path.realpath(root)):
    passed_over[_SECOND_LINK].append(name)
    return []
  return _walk(root, name, real_class, passed_over)


def _walk(
  root: bytes, name: bytes, real_class: bytes, passed_over: dict[str, list[bytes]]
) -> list[bytes]:
  """See `_find_files`; links to `real_class`, or to a folder above it, are not followed."""
  files, folders, links, seen = [], [name], [], set()
  while folders or links:
    # Links last: a folder goes by its own name rather than that of a link to it.
    folder = folders.pop() if folders else links.pop(0)
    status = os.stat(os.path.join(root, folder))
    if (status.st_dev, status.st_ino) in seen:
      passed_over[_SECOND_LINK].append(folder)
      continue
    seen.add((status.st_dev, status.st_ino))
    for entry in _entries(os.path.join(root, folder)):
      path = os.path.join(folder, entry.name)
      if _is_litter(entry):
        passed_over[_LITTER].append(path)
      elif entry.is_file():
        files.append(path)
      elif entry.is_dir() and not entry.is_symlink():
        folders.append(path)
      elif entry.is_dir():
        is_above = _contains(os.path.realpath(entry.path), real_class)
        (passed_over[_SECOND_LINK] if is_above else links).append(path)
      else:
        passed_over[_BROKEN_LINK if entry.is_symlink() else _SPECIAL].append(path)
  return sorted(files)


def _contains(outer: bytes, inner: bytes) -> bool:
  """Whether the folder `inner` is `outer` or is below it."""
  return os.path.join(inner, b'').startswith(os.path.join(outer, b''))


def _entries(folder: bytes) -> list[os.DirEntry[bytes]]:
  """What is in a folder, sorted by name."""
  try:
    with os.scandir(folder) as entries:
      return sorted(entries, key=lambda entry: entry.name)
  except OSError as error:
    raise ValueError(f'{_shown(folder)} cannot be read: {error.strerror}') from error


def _folders(folder: bytes) -> list[bytes]:
  """Names of the folders in `folder` that may be classes or splits, sorted."""
  return [e.name for e in _entries(folder) if e.is_dir() and not _is_litter(e)]


def _is_litter(entry: os.DirEntry[bytes]) -> bool:
  name = entry.name.lower()
  return name.startswith(b'.') or name in (_LITTER_FOLDERS if entry.is_dir() else _LITTER_FILES)


def _is_held_out(path: bytes) -> bool:
  return zlib.crc32(path) % 10 == 0


def _formats(folder: bytes, paths: Sequence[bytes], *, unreadable: str = '') -> list[str]:
  """`image_formats.format_of` many files, on several threads.

  Raises ValueError for a file that cannot be read, unless there is a text that stands for it.
  """

  def kind_of(path: bytes) -> str:
    try:
      return _format(os.path.join(folder, path))
    except ValueError:
      if not unreadable:
        raise
      return unreadable

  def read(start: int) -> list[str]:
    return [kind_of(path) for path in paths[start : start + _FILES_PER_TASK]]

  starts = range(0, len(paths), _FILES_PER_TASK)
  with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
    return [kind for kinds in pool.map(read, starts) for kind in kinds]


def _format(path: bytes) -> str:
  try:
    with open(path, 'rb', buffering=0) as file:
      start = file.read(image_formats.NUM_START_BYTES)
  except OSError as error:
    raise ValueError(f'{_shown(path)} cannot be read: {error.strerror}') from error
  return image_formats.format_of(start, _text(path))


def _notes(scan: _Scan) -> tuple[str, ...]:
  """What a user should know of a scan, one line for each topic."""
  notes = list(_passed_over_note(scan.passed_over))
  if bad := [file.path for file in scan.files if not file.is_image]:
    notes.append(
      f'{len(bad):,} with the name of an image but none that is read inside, to be treated as '
      f'on_bad_image says (e.g. {_shown(bad[0])})'
    )
  if below := [file.path for file in scan.files if file.path.count(b'/') > 1]:
    notes.append(
      f'{len(below):,} of {len(scan.files):,} images are in folders below that of their class '
      f'(e.g. {_shown(below[0])})'
    )
  return tuple(notes)


def _passed_over_note(passed_over: dict[str, list[bytes]]) -> tuple[str, ...]:
  """A line on what was passed over, by reason; none if that is nothing."""
  # Sorted, so that the text does not depend on the order in which files were found.
  counts = [
    f'{len(paths):,} {reason} (e.g. {_shown(min(paths))})'
    for reason, paths in sorted(passed_over.items())
    if paths
  ]
  total = sum(map(len, passed_over.values()))
  files = 'files' if total > 1 else 'file'
  return (f'{total:,} {files} passed over: {", ".join(counts)}',) if counts else ()


def _check_classes(
  folder: bytes, classes: Sequence[bytes], scan: _Scan, kept: Sequence[_File], *, is_undivided: bool
) -> None:
  """Raises ValueError unless there are two classes or more, and each has training images.

  `is_undivided`: `folder` is `data_dir` itself, not the folder of a split.
  """
  _check_classes_are_not_splits(folder, classes, is_undivided=is_undivided)
  with_images = sorted({file.label for file in scan.files if file.is_image})
  hint = ''
  if len(classes) == 1 or len(with_images) == 1:
    only = classes[with_images[0] if with_images else 0]
    hint = _hint_one_level_deeper(folder, only, is_undivided=is_undivided)
  if len(classes) < 2:
    if not classes and (strays := len(scan.passed_over.get(_STRAY, ()))):
      hint = (
        f'. It holds {strays:,} images itself: if these are one class of several, the folder above '
        'is the one to give'
      )
    has = f'only one class, {_listed(classes)}' if classes else 'no class folder'
    raise ValueError(
      f'{_shown(folder)} has {has}: data_dir=DIR needs one sub-folder per class, two at least, '
      f'directly or below folders for train and test{hint}'
    )
  if empty := [name for label, name in enumerate(classes) if label not in with_images]:
    notes = ''.join(f'. {note}' for note in _notes(scan))
    raise ValueError(
      f'{_shown(folder)} has no image for {_class_or_classes(empty)}: add images or remove the '
      f'folder{hint}{notes}'
    )
  in_training = {file.label for file in kept if file.is_image}
  if untrained := [name for label, name in enumerate(classes) if label not in in_training]:
    raise ValueError(
      f'{_shown(folder)} has so few images of {_class_or_classes(untrained)} that all of them fall '
      f'into the tenth held out for the test: {_BY_HAND}'
    )


def _check_classes_are_not_splits(
  folder: bytes, classes: Sequence[bytes], *, is_undivided: bool
) -> None:
  """Raises ValueError if what would be taken as classes are splits, or contain splits."""
  if is_undivided:
    for name in classes:
      inside = _folders(os.path.join(folder, name))
      if splits := [inner for inner in inside if _purpose(inner)]:
        raise ValueError(
          f'{_shown(folder, name)} holds {_listed(splits)}, the name of a split: if classes are '
          f'there, say {_argument("data_dir", os.path.join(folder, name))}, else divide '
          'the images as train/CLASS/... and test/CLASS/...'
        )
  elif len(splits := [name for name in classes if _purpose(name)]) > 1:
    raise ValueError(
      f'{_shown(folder)} holds {_listed(splits)}, which are names of splits, not of classes: say '
      f'{_argument("data_dir", folder)}, or give the classes other names'
    )


_BY_HAND = 'add images, or divide them by hand, into train/CLASS/... and test/CLASS/...'


def _hint_one_level_deeper(folder: bytes, only: bytes, *, is_undivided: bool) -> str:
  """What to do if the folders in the only class with images are meant as classes; '' if none."""
  inner = os.path.join(folder, only)
  while len(names := _folders(inner)) == 1:
    inner = os.path.join(inner, names[0])
  if not names:
    return ''
  move = f'move them to {_shown(folder)}'
  remedy = f'say {_argument("data_dir", inner)}' if is_undivided else move
  return f'. If its folders {_listed(names)} are the ones meant, {remedy}'


def _no_images(split: str, folder: bytes, classes: Sequence[bytes], *, is_undivided: bool) -> str:
  """The message for a split without images."""
  if is_undivided:
    return (
      f'{_shown(folder)} has no folders train and test, so about a tenth of its images is held out '
      f'for the test, and they are too few for that: none is for {split!r}; {_BY_HAND}'
    )
  return (
    f'no images for split {split!r}: there is none in the class folders of {_shown(folder)}, '
    f'{_listed(classes) or "of which there are none"}'
  )


def _holds_splits(root: bytes, folders: Sequence[bytes], asked: set[bytes]) -> bool:
  """Whether the folders in `root` are splits, rather than classes.

  They are if one has the name of a split asked for, or a usual name of a split. Only `train` may
  also be a class, beside cars and ships: a folder of files among several other folders.
  """
  splits = [name for name in folders if name in asked or _purpose(name)]
  if splits == [b'train'] and len(folders) > 2:
    inside = [e for e in _entries(os.path.join(root, b'train')) if not _is_litter(e)]
    return not inside or any(entry.is_dir() for entry in inside)
  return bool(splits)


def _purpose(name: bytes) -> str:
  """'train' or 'test' for a usual name of such a split, as `Train` or `val_images`, else ''."""
  words = {word.rstrip('0123456789') for word in re.split(r'[\W_]+', _text(name).lower())}
  for purpose, usual in (('train', _TRAIN_WORDS), ('test', _TEST_WORDS)):
    if words & set(usual) and words <= {*usual, *_OTHER_WORDS}:
      return purpose
  return ''


def _no_such_split(root: bytes, folders: Sequence[bytes], split: str, train_split: str) -> str:
  """The message for a split without a folder, with the arguments that fit the folders found."""
  is_train = split == train_split
  key = 'train_split' if is_train else 'split'
  usual = [folder for folder in folders if _purpose(folder)]
  trains, tests = ([f for f in usual if _purpose(f) == purpose] for purpose in ('train', 'test'))
  if fitting := trains if is_train else tests:
    remedy = f'; say {_argument(key, min(fitting, key=_rank))}'
    if is_train and tests and b'test' not in folders:
      remedy += f', and {_listed([min(tests, key=_rank)])} for the test'
  elif os.fsencode(train_split) in folders:
    remedy = (
      f'; to hold out a tenth of the training images for it, say '
      f'{_argument("data_dir", os.path.join(root, os.fsencode(train_split)))}'
    )
  else:
    remedy = f'. If {_listed(usual)} is a class, it needs another name' if usual else ''
  return (
    f'{key}={split!r}: there is no folder {_shown(root, os.fsencode(split))}; {_shown(root)} holds '
    f'{_listed(folders)}{remedy}'
  )


def _rank(name: bytes) -> int:
  """Smaller for the more usual name of a split: `test` before `val` before `dev`."""
  usual = _TRAIN_WORDS + _TEST_WORDS
  return min(usual.index(w) for w in re.split(r'[\W_\d]+', _text(name).lower()) if w in usual)


def _argument(name: str, value: bytes) -> str:
  """`name=value` as on a command line."""
  return f'{name}={shlex.quote(printable(_text(value)))}'


def _listed(names: Sequence[bytes]) -> str:
  return shorten([display_name(_text(name)) for name in names])


def _class_or_classes(names: Sequence[bytes]) -> str:
  return f'{"the class" if len(names) == 1 else f"{len(names):,} classes:"} {_listed(names)}'


def _text(path: bytes) -> str:
  """A path, or a part of one, as text: the same on every system, and valid in any encoding."""
  return path.decode('utf-8', 'backslashreplace')


def _shown(*parts: bytes) -> str:
  return printable(_text(os.path.join(*parts)))
