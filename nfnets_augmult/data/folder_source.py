"""A folder of images with one sub-folder per class, as a source.

Whether a file is an image is decided by its first bytes, not by its name, and images may be any
number of folders below their class. Whatever is passed over is counted and reported, by reason.
"""

import collections
import os
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nfnets_augmult.data import image_files, image_formats
from nfnets_augmult.data.image_files import FileSource, argument, listed, shown, text
from nfnets_augmult.data.sources import require_data_dir
from nfnets_augmult.data.split_names import split_purpose, split_rank

# Left by archives, file managers and file systems, besides everything that begins with a dot.
_LITTER_FOLDERS = (
  *(b'__macosx', b'__pycache__', b'@eadir', b'$recycle.bin', b'lost+found'),
  b'system volume information',
)
_LITTER_FILES = (b'thumbs.db', b'ehthumbs.db', b'desktop.ini', b'icon\r')

# Reasons to pass something over, as they follow a number.
_NO_IMAGE = 'without an image'
_STRAY = 'outside of the class folders'
_LITTER = 'hidden or left by other programs'
_BROKEN_LINK = 'linked to nothing'
_SECOND_LINK = 'linked to a folder that is read anyway'
_SPECIAL = 'neither a file nor a folder'


def folder_source(*, split: str, data_dir: str, train_split: str = 'train') -> FileSource:
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
        f'{shown(folder)} has classes that {shown(class_root)} lacks: {listed(unknown)}'
      )
    scan = _scan(folder, classes)
    kept = scan.files
  elif split not in ('train', 'test'):
    raise ValueError(
      f"'folder' has no split {split!r}; it has train, test: there is no folder "
      f'{shown(root, asked)}, and data_dir={data_dir!r} holds {listed(folders)}'
    )
  else:
    folder, classes, is_test = root, folders, split == 'test'
    scan = _scan(folder, classes, only_held_out=is_test)
    kept = [file for file in scan.files if _is_held_out(file.path) == is_test]
  if split in ('train', train_split):
    _check_classes(folder, classes, scan, kept, is_undivided=folder == root)
  if not kept:
    raise ValueError(_no_images(split, folder, classes, is_undivided=folder == root))
  return FileSource(
    folder=folder,
    paths=tuple(file.path for file in kept),
    labels=np.array([file.label for file in kept], np.int32),
    class_names=tuple(map(text, classes)),
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
      for path, kind in zip(
        inside, image_files.formats(b'', inside, unreadable=image_files.UNREADABLE), strict=True
      ):
        reason = '' if kind == image_files.UNREADABLE else _reason_to_pass(path, kind)
        (passed_over[reason] if reason else paths).append(path)
    elif os.path.isfile(place):
      paths = [place]
    elif os.path.lexists(place):
      raise ValueError(f'{shown(place)} is neither a file nor a folder')
    else:
      raise ValueError(f'{shown(place)}: there is no such file or folder')
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
  kinds = image_files.formats(folder, [path for _, path in found])
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
  kinds = image_files.formats(folder, strays)
  passed_over[_STRAY] += [name for name, kind in zip(strays, kinds, strict=True) if kind]
  return _Scan(files, passed_over)


def _reason_to_pass(path: bytes, kind: str) -> str:
  """Why a file of this format is passed over; '' if it is an image or has the name of one."""
  is_named_so = text(path).lower().endswith(image_formats.IMAGE_SUFFIXES)
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
    raise ValueError(f'{shown(folder)} cannot be read: {error.strerror}') from error


def _folders(folder: bytes) -> list[bytes]:
  """Names of the folders in `folder` that may be classes or splits, sorted."""
  return [e.name for e in _entries(folder) if e.is_dir() and not _is_litter(e)]


def _is_litter(entry: os.DirEntry[bytes]) -> bool:
  name = entry.name.lower()
  return name.startswith(b'.') or name in (_LITTER_FOLDERS if entry.is_dir() else _LITTER_FILES)


def _is_held_out(path: bytes) -> bool:
  return zlib.crc32(path) % 10 == 0


def _notes(scan: _Scan) -> tuple[str, ...]:
  """What a user should know of a scan, one line for each topic."""
  notes = list(_passed_over_note(scan.passed_over))
  notes += image_files.note_on_bad([file.path for file in scan.files if not file.is_image])
  if below := [file.path for file in scan.files if file.path.count(b'/') > 1]:
    notes.append(
      f'{len(below):,} of {len(scan.files):,} images are in folders below that of their class '
      f'(e.g. {shown(below[0])})'
    )
  return tuple(notes)


def _passed_over_note(passed_over: dict[str, list[bytes]]) -> tuple[str, ...]:
  """A line on what was passed over, by reason; none if that is nothing."""
  # Sorted, so that the text does not depend on the order in which files were found.
  counts = [
    f'{len(paths):,} {reason} (e.g. {shown(min(paths))})'
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
    has = f'only one class, {listed(classes)}' if classes else 'no class folder'
    raise ValueError(
      f'{shown(folder)} has {has}: data_dir=DIR needs one sub-folder per class, two at least, '
      f'directly or below folders for train and test{hint}'
    )
  if empty := [name for label, name in enumerate(classes) if label not in with_images]:
    notes = ''.join(f'. {note}' for note in _notes(scan))
    raise ValueError(
      f'{shown(folder)} has no image for {_class_or_classes(empty)}: add images or remove the '
      f'folder{hint}{notes}'
    )
  in_training = {file.label for file in kept if file.is_image}
  if untrained := [name for label, name in enumerate(classes) if label not in in_training]:
    raise ValueError(
      f'{shown(folder)} has so few images of {_class_or_classes(untrained)} that all of them fall '
      f'into the tenth held out for the test: {_BY_HAND}'
    )


def _check_classes_are_not_splits(
  folder: bytes, classes: Sequence[bytes], *, is_undivided: bool
) -> None:
  """Raises ValueError if what would be taken as classes are splits, or contain splits."""
  if is_undivided:
    for name in classes:
      inside = _folders(os.path.join(folder, name))
      if splits := [inner for inner in inside if split_purpose(text(inner))]:
        raise ValueError(
          f'{shown(folder, name)} holds {listed(splits)}, the name of a split: if classes are '
          f'there, say {argument("data_dir", os.path.join(folder, name))}, else divide '
          'the images as train/CLASS/... and test/CLASS/...'
        )
  elif len(splits := [name for name in classes if split_purpose(text(name))]) > 1:
    raise ValueError(
      f'{shown(folder)} holds {listed(splits)}, which are names of splits, not of classes: say '
      f'{argument("data_dir", folder)}, or give the classes other names'
    )


_BY_HAND = 'add images, or divide them by hand, into train/CLASS/... and test/CLASS/...'


def _hint_one_level_deeper(folder: bytes, only: bytes, *, is_undivided: bool) -> str:
  """What to do if the folders in the only class with images are meant as classes; '' if none."""
  inner = os.path.join(folder, only)
  while len(names := _folders(inner)) == 1:
    inner = os.path.join(inner, names[0])
  if not names:
    return ''
  move = f'move them to {shown(folder)}'
  remedy = f'say {argument("data_dir", inner)}' if is_undivided else move
  return f'. If its folders {listed(names)} are the ones meant, {remedy}'


def _no_images(split: str, folder: bytes, classes: Sequence[bytes], *, is_undivided: bool) -> str:
  """The message for a split without images."""
  if is_undivided:
    return (
      f'{shown(folder)} has no folders train and test, so about a tenth of its images is held out '
      f'for the test, and they are too few for that: none is for {split!r}; {_BY_HAND}'
    )
  return (
    f'no images for split {split!r}: there is none in the class folders of {shown(folder)}, '
    f'{listed(classes) or "of which there are none"}'
  )


def _holds_splits(root: bytes, folders: Sequence[bytes], asked: set[bytes]) -> bool:
  """Whether the folders in `root` are splits, rather than classes.

  They are if one has the name of a split asked for, or a usual name of a split. Only `train` may
  also be a class, beside cars and ships: a folder of files among several other folders.
  """
  splits = [name for name in folders if name in asked or split_purpose(text(name))]
  if splits == [b'train'] and len(folders) > 2:
    inside = [e for e in _entries(os.path.join(root, b'train')) if not _is_litter(e)]
    return not inside or any(entry.is_dir() for entry in inside)
  return bool(splits)


def _no_such_split(root: bytes, folders: Sequence[bytes], split: str, train_split: str) -> str:
  """The message for a split without a folder, with the arguments that fit the folders found."""
  is_train = split == train_split

  def rank_of(folder: bytes) -> int:
    return split_rank(text(folder))

  key = 'train_split' if is_train else 'split'
  usual = [folder for folder in folders if split_purpose(text(folder))]
  trains, tests = (
    [f for f in usual if split_purpose(text(f)) == purpose] for purpose in ('train', 'test')
  )
  if fitting := trains if is_train else tests:
    remedy = f'; say {argument(key, min(fitting, key=rank_of))}'
    if is_train and tests and b'test' not in folders:
      remedy += f', and {listed([min(tests, key=rank_of)])} for the test'
  elif os.fsencode(train_split) in folders:
    remedy = (
      f'; to hold out a tenth of the training images for it, say '
      f'{argument("data_dir", os.path.join(root, os.fsencode(train_split)))}'
    )
  else:
    remedy = f'. If {listed(usual)} is a class, it needs another name' if usual else ''
  return (
    f'{key}={split!r}: there is no folder {shown(root, os.fsencode(split))}; {shown(root)} holds '
    f'{listed(folders)}{remedy}'
  )


def _class_or_classes(names: Sequence[bytes]) -> str:
  return f'{"the class" if len(names) == 1 else f"{len(names):,} classes:"} {listed(names)}'
