"""Compiled programs kept on disk from one start to the next, in the compilation cache of JAX."""

import hashlib
import os
import pathlib
import platform
import time
import zlib
from typing import Any

# Programs that take less to compile are not kept, in seconds.
_LEAST_COMPILE_SECONDS = 0.02
# The oldest programs above this go.
_MOST_BYTES = 2**31
# Its time of change is that of the last look at the files.
_STAMP = '.looked_through'
_CPU_FACTS = pathlib.Path('/proc/cpuinfo')  # of Linux
_ZSTANDARD_MAGIC = b'\x28\xb5\x2f\xfd'


def user_folder() -> str:
  """Returns the folder in which programs are kept that belong to no work directory."""
  caches = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
  return os.path.join(caches, 'nfnets_augmult', 'compiled')


def keep_in(folder: str) -> None:
  """Keeps compiled programs in `folder`, if it can be written to.

  Programs of a CPU have the instructions of the one that compiled them, which JAX does not compare:
  every kind of processor has a folder of its own in `folder`. What a start that was killed has left
  half-written there is removed, and the oldest programs above 2 GiB. The folder that the variable
  `JAX_COMPILATION_CACHE_DIR` names is JAX's alone and left as it is.
  """
  if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
    return
  own = pathlib.Path(folder, _kind_of_processor())
  try:
    own.mkdir(parents=True, exist_ok=True)
    _tidy(own)
  except OSError:
    return  # nothing is kept where nothing can be written
  import jax

  jax.config.update('jax_compilation_cache_dir', str(own))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', _LEAST_COMPILE_SECONDS)


def _kind_of_processor() -> str:
  """Returns a short name that differs where processors differ in their instructions."""
  facts = [platform.machine(), platform.processor()]
  wanted = ('vendor_id', 'cpu family', 'model', 'flags', 'CPU implementer', 'CPU part', 'Features')
  try:
    lines = _CPU_FACTS.read_text(encoding='utf-8', errors='replace').splitlines()
    facts += sorted({line for line in lines if line.split('\t')[0].split(':')[0].strip() in wanted})
  except OSError:
    pass
  return hashlib.sha256('\n'.join(facts).encode()).hexdigest()[:12]


def _tidy(folder: pathlib.Path) -> None:
  """Removes programs that are not whole, and the oldest ones above the limit."""
  stamp, now = folder / _STAMP, time.time()
  looked = stamp.stat().st_mtime if stamp.exists() else 0.0
  kept = []
  for path in folder.glob('*-cache'):
    facts = path.stat()
    if facts.st_mtime >= looked and not _is_whole(path.read_bytes()):
      path.unlink(missing_ok=True)
    else:
      kept.append((facts.st_mtime, facts.st_size, path))
  total = sum(size for _, size, _ in kept)
  for _, size, path in sorted(kept):
    if total <= _MOST_BYTES:
      break
    path.unlink(missing_ok=True)
    total -= size
  stamp.touch()
  os.utime(stamp, (now, now))


def _is_whole(data: bytes) -> bool:
  """Returns whether compressed bytes are complete; True if they cannot be examined here."""
  decompressor: Any
  if data.startswith(_ZSTANDARD_MAGIC):
    try:
      import zstandard
    except ImportError:
      return True  # JAX does not read them here, either
    decompressor = zstandard.ZstdDecompressor().decompressobj()
  else:
    decompressor = zlib.decompressobj()
  try:
    decompressor.decompress(data)
  except Exception:  # each library has its own
    return False
  return bool(decompressor.eof)
