"""Image files and their labels as a source, however they were listed."""

import concurrent.futures
import dataclasses
import functools
import os
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nfnets_augmult.data import image_formats
from nfnets_augmult.data.sources import display_name, printable, shorten

# Reading the first bytes waits for the disk, or for the network behind it, most of the time.
_NUM_THREADS = 16
_FILES_PER_TASK = 256

# In place of a format, where a file cannot be opened.
UNREADABLE = 'unreadable'


@dataclasses.dataclass(frozen=True)
class FileSource:
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
    r"""The paths as text; bytes that are not UTF-8 are written `\xff`."""
    return tuple(map(text, self.paths))

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
    return shown(self.folder, self.paths[index])


def formats(folder: bytes, paths: Sequence[bytes], *, unreadable: str = '') -> list[str]:
  """Returns `image_formats.format_of` many files, on several threads.

  Raises:
    ValueError: a file cannot be read, and there is no text `unreadable` that stands for it.
  """

  def kind_of(path: bytes) -> str:
    try:
      return _format(os.path.join(folder, path))
    except ValueError:
      if not unreadable:
        raise
      return unreadable

  return on_threads(kind_of, paths)


def on_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
  """Returns the results of a function that waits for files, called on several threads."""

  def call(start: int) -> list[Any]:
    return [function(item) for item in items[start : start + _FILES_PER_TASK]]

  starts = range(0, len(items), _FILES_PER_TASK)
  with concurrent.futures.ThreadPoolExecutor(_NUM_THREADS) as pool:
    return [result for results in pool.map(call, starts) for result in results]


def note_on_bad(paths: Sequence[bytes]) -> tuple[str, ...]:
  """Returns a line on files that count as images and are none that is read; none if none are."""
  if not paths:
    return ()
  return (
    f'{len(paths):,} with the name of an image but none that is read inside, to be treated as '
    f'on_bad_image says (e.g. {shown(paths[0])})',
  )


def _format(path: bytes) -> str:
  try:
    with open(path, 'rb', buffering=0) as file:
      start = file.read(image_formats.NUM_START_BYTES)
  except OSError as error:
    raise ValueError(f'{shown(path)} cannot be read: {error.strerror}') from error
  return image_formats.format_of(start, text(path))


def argument(name: str, value: bytes) -> str:
  """`name=value` as on a command line."""
  return f'{name}={shlex.quote(printable(text(value)))}'


def listed(names: Sequence[bytes]) -> str:
  """The first few names for a message, and the number of others."""
  return shorten([display_name(text(name)) for name in names])


def text(path: bytes) -> str:
  """A path, or a part of one, as text: the same on every system, and valid in any encoding."""
  return path.decode('utf-8', 'backslashreplace')


def shown(*parts: bytes) -> str:
  """A path for a message, printable."""
  return printable(text(os.path.join(*parts)))
