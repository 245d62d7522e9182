"""Atomic writes of files."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Callable
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
    # mkstemp makes files private; give this one the usual permissions.
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o666 & ~umask)
    os.replace(temporary, target)
  except BaseException:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(temporary)
    raise
  # The rename is on disk only once the folder is.
  folder = os.open(target.parent, os.O_RDONLY)
  try:
    os.fsync(folder)
  finally:
    os.close(folder)
