"""Atomic writes of files and folders."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import BinaryIO


def write_atomically(path: str | os.PathLike[str], write: Callable[[BinaryIO], None]) -> None:
  """Calls `write` with a temporary file, which is renamed to `path` when all of it is on disk.

  A reader sees the old file or the new one, never a part; an error leaves the old file and no
  temporary one. The folder must exist.
  """
  target = pathlib.Path(path)
  descriptor, temporary = tempfile.mkstemp(prefix=f'.{target.name}.', dir=target.parent)
  try:
    with os.fdopen(descriptor, 'wb') as file:
      write(file)
      file.flush()
      os.fsync(file.fileno())
    os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files private
    os.replace(temporary, target)
  except BaseException:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(temporary)
    raise
  _sync(target.parent)  # the rename is on disk only once the folder is


@contextlib.contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[str]:
  """Yields an empty folder that is renamed to `path` when all that it then holds is on disk.

  An error leaves neither. There may be nothing at `path` but an empty folder.
  """
  target = pathlib.Path(path)
  temporary = tempfile.mkdtemp(prefix=f'.{target.name}.', dir=target.parent)
  try:
    yield temporary
    for folder, _, names in os.walk(temporary):
      for name in ('', *names):
        _sync(os.path.join(folder, name))
    os.chmod(temporary, 0o777 & ~_umask())  # mkdtemp makes folders private
    os.rename(temporary, target)
  except BaseException:
    shutil.rmtree(temporary, ignore_errors=True)
    raise
  _sync(target.parent)


def _umask() -> int:
  umask = os.umask(0)
  os.umask(umask)
  return umask


def _sync(path: str | os.PathLike[str]) -> None:
  """Waits until a file or the entries of a folder are on disk."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)
