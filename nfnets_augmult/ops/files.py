"""Files and folders by path: local ones, and objects in buckets, such as `gs://bucket/run`.

Whatever lies in a work directory, or at a path that a user gives, is read and written through this
module. In a bucket there is no renaming and no appending, and folders are parts of names: objects
are written whole, and nothing has to be made before. Other object stores than `gs://` work as far
as fsspec knows them.

Errors are `OSError`s that name the path. A request to a bucket that fails for a passing reason, as
with status 503, is tried six times within about 30 seconds; one that gets no answer ends after 60
seconds.
"""

import contextlib
import errno
import io
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TextIO

from nfnets_augmult.ops.atomic_file import write_atomically

# Of etils, which Orbax and TensorFlow Datasets open buckets with: not through TensorFlow.
os.environ.setdefault('EPATH_USE_TF', 'false')
# Of gcsfs: no questions about the kind of a bucket, which need further permissions.
os.environ.setdefault('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')

# What grows, such as the metrics of a run, is uploaded again no more often than this.
SECONDS_BETWEEN_UPLOADS = 15.0
_SECONDS_WITHOUT_ANSWER = 60
# Of TensorStore, through which Orbax reads and writes arrays; without them it waits for ever.
for _name in ('CONNECT_TIMEOUT_SECONDS', 'LOW_SPEED_TIME_SECONDS'):
  os.environ.setdefault(f'TENSORSTORE_CURL_{_name}', str(_SECONDS_WITHOUT_ANSWER))
os.environ.setdefault('TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES', '1')


def is_url(path: str | os.PathLike[str]) -> bool:
  """Whether the path is a URL, as of an object in a bucket."""
  return '://' in os.fspath(path)


def exists(path: str) -> bool:
  """Whether there is such a file or folder."""
  if not is_url(path):
    return os.path.exists(path)
  with _on_bucket(path) as (system, name):
    return system.exists(name)


def is_dir(path: str) -> bool:
  """Whether there is such a folder; in a bucket, anything whose name begins with it."""
  if not is_url(path):
    return os.path.isdir(path)
  with _on_bucket(path) as (system, name):
    return system.isdir(name)


def make_dirs(path: str) -> None:
  """Makes a folder and those above it, if they are not there; in a bucket it does nothing."""
  if not is_url(path):
    os.makedirs(path, exist_ok=True)


def list_dir(path: str) -> list[str]:
  """Returns the names of the files and folders in a folder, in no particular order."""
  return os.listdir(path) if not is_url(path) else [name for name, _, _ in _entries(path)]


def walk(path: str) -> Iterator[tuple[str, list[str], list[str]]]:
  """Yields each folder below `path` with its folders and its files, as `os.walk` does."""
  if not is_url(path):
    yield from os.walk(path)
    return
  entries = list(_entries(path))
  folders = [name for name, is_folder, _ in entries if is_folder]
  yield path, folders, [name for name, is_folder, _ in entries if not is_folder]
  for folder in folders:
    yield from walk(os.path.join(path, folder))


def sizes(path: str) -> dict[str, int]:
  """Returns the size in bytes of each file in a folder, by name."""
  if not is_url(path):
    with os.scandir(path) as entries:
      return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
  return {name: size for name, is_folder, size in _entries(path) if not is_folder}


def read(path: str | os.PathLike[str], start: int = 0, stop: int | None = None) -> bytes:
  """Returns the bytes of a file, or those from `start` to before `stop`; from many threads."""
  if not is_url(path):
    with open(path, 'rb') as file:
      file.seek(start)
      return file.read(-1 if stop is None else stop - start)
  with _on_bucket(path) as (system, name):
    if start == 0 and stop is None:
      return system.cat_file(name)
    return system.cat_file(name, start=start, end=stop)


def write_whole(path: str | os.PathLike[str], content: bytes | Callable[[BinaryIO], Any]) -> None:
  """Writes a file so that a reader sees the old one or the new one, never a part.

  Args:
    path: of the file, in a folder that exists.
    content: of the file, or a function that writes it.
  """
  write = content if callable(content) else lambda file: file.write(content)
  if not is_url(path):
    write_atomically(path, write)
    return
  buffer = io.BytesIO()
  write(buffer)
  try:
    with _on_bucket(path) as (system, name):
      system.pipe_file(name, buffer.getvalue())
  except FileNotFoundError as error:
    raise FileNotFoundError(errno.ENOENT, 'there is no such bucket', os.fspath(path)) from error


def remove(path: str) -> None:
  """Removes a file; raises FileNotFoundError if it is not there."""
  if not is_url(path):
    os.unlink(path)
    return
  with _on_bucket(path) as (system, name):
    system.rm_file(name)


def open_log(path: str) -> TextIO:
  """Opens a text file to append to it.

  In a bucket it is a new one, with the time in its name, that is uploaded whole at most every 15
  seconds, and when it is closed.
  """
  if not is_url(path):
    return open(path, 'a', encoding='utf-8')
  root, suffix = os.path.splitext(path)
  return _UploadedText(f'{root}.{time.strftime("%Y%m%d-%H%M%S")}{suffix}')


class _UploadedText(io.StringIO):
  """A text that is uploaded as it grows."""

  def __init__(self, path: str):
    super().__init__()
    self._path = path
    self._clock = UploadClock()

  def write(self, text: str) -> int:
    """Appends `text`, and uploads all of it if that is due; `close` reports what goes wrong."""
    count = super().write(text)
    if self._clock.is_due():
      with contextlib.suppress(OSError):
        self._upload()
    return count

  def _upload(self) -> None:
    self._clock.reset()
    write_whole(self._path, self.getvalue().encode())

  def close(self) -> None:
    """Uploads all of it."""
    if not self.closed:
      try:
        self._upload()
      finally:
        super().close()


class UploadClock:
  """Says when what grows is to be uploaded again."""

  def __init__(self):
    self.reset()

  def reset(self) -> None:
    """Notes that it was uploaded now."""
    self._last = time.monotonic()

  def is_due(self) -> bool:
    """Whether that was at least 15 seconds ago."""
    return time.monotonic() - self._last >= SECONDS_BETWEEN_UPLOADS


def configure() -> None:
  """Configures fsspec; to be called before a library opens a bucket by itself."""
  import aiohttp
  import fsspec

  options = fsspec.config.conf.setdefault('gcs', {})
  # With the cache, what another process has written since is not found.
  options.setdefault('use_listings_cache', False)
  seconds = _SECONDS_WITHOUT_ANSWER
  timeout = aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
  options.setdefault('requests_timeout', timeout)


def _entries(path: str) -> Iterator[tuple[str, bool, int]]:
  """Yields name, whether it is a folder, and size of each entry of a folder of a bucket."""
  with _on_bucket(path) as (system, name):
    listed = system.ls(name, detail=True)
  for entry in sorted(listed, key=lambda entry: entry['name']):
    # Some tools make an object of the folder's own name.
    if (base := entry['name'].rstrip('/').removeprefix(f'{name.strip("/")}/')) != name.strip('/'):
      yield base, entry['type'] == 'directory', entry['size'] or 0


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
  """Makes OSErrors of the errors of what reads a URL without this module; ValueErrors stay."""
  try:
    yield
  except (OSError, ValueError):
    raise
  except Exception as error:  # each library raises its own
    if not is_url(path):
      raise
    raise _os_error(path, error) from error


@contextlib.contextmanager
def _on_bucket(path: str | os.PathLike[str]) -> Iterator[tuple[Any, str]]:
  """Yields the file system of a URL and the name in it; all errors become OSErrors."""
  url = os.fspath(path).rstrip('/')
  try:
    if url.startswith(('gs://', 'gcs://')):
      configure()
    import fsspec

    yield fsspec.core.url_to_fs(url)
  except ImportError as error:
    scheme = url.split('://')[0]
    how = "pip install 'nfnets_augmult[gcs]'" if scheme in ('gs', 'gcs') else str(error)
    raise ImportError(f'{url}: a library for {scheme}:// is not installed: {how}') from error
  except FileNotFoundError as error:
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url) from error
  except Exception as error:
    raise _os_error(url, error) from error


def _os_error(url: str, error: Exception) -> OSError:
  """An error of a library for buckets, as one of the system."""
  text = ' '.join(str(error).split())[:300] or type(error).__name__
  return OSError(errno.EACCES if text.startswith('Forbidden') else errno.EIO, text, url)
