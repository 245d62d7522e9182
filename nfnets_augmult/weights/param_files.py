"""Parameter files: plain `.npz`, and reading the released pickles and files of PyTorch and timm."""

import contextlib
import io
import json
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np
import safetensors

from nfnets_augmult.ops import files
from nfnets_augmult.weights import (
  checks,
  npz_reader,
  safe_pickle,
  timm_import,
  torch_reader,
  zip_reader,
)
from nfnets_augmult.weights import metadata as metadata_lib
from nfnets_augmult.weights.checks import Params, flatten, unflatten

# Archives with members, and empty ones.
_ZIP_MAGICS = (b'PK\x03\x04', b'PK\x05\x06')
_PICKLE_MAGIC = b'\x80'
_SAFETENSORS_DTYPES = {'F64': '<f8', 'F32': '<f4', 'F16': '<f2', 'BF16': jnp.bfloat16}


def write_npz(
  path: str | os.PathLike[str],
  params: Mapping[str, Mapping[str, Any]],
  metadata: Mapping[str, Any] | None = None,
  *,
  program: bytes | None = None,
) -> None:
  """Writes `params` atomically as a plain `.npz` of arrays named `module/parameter`.

  Dtypes are kept, except that bfloat16 and narrower, which a `.npz` cannot keep, become float32.

  Args:
    path: of the file.
    params: finite real arrays.
    metadata: small JSON-serializable data, stored as text in the member `__metadata__`.
    program: stored as uint8 in the member `__program__`, see `stablehlo`.

  Raises:
    ValueError: `params` do not pass `check_params`, or `metadata` cannot be written.

  Example:
    >>> import os
    >>> import tempfile
    >>> import numpy as np
    >>> from nfnets_augmult import write_npz
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = os.path.join(folder, 'params.npz')
    ...   write_npz(path, {'network/linear': {'w': np.zeros((3, 2), np.float32)}})
    ...   with np.load(path) as file:
    ...     print(file.files)
    ['network/linear/w']
  """
  arrays = flatten(checks.check_params(params))
  if metadata:
    arrays[npz_reader.METADATA_MEMBER] = np.asarray(metadata_lib.to_json(metadata))
  if program is not None:
    arrays[npz_reader.PROGRAM_MEMBER] = np.frombuffer(program, np.uint8)
  # Parameters have a slash in their names, so none collides with the `file` of `savez`.
  files.write_whole(path, lambda file: np.savez(file, **arrays))


def read_params(path: str | os.PathLike[str]) -> Params:
  """Returns the dict of dicts of numpy arrays in a plain `.npz`, a released file or one of timm.

  The format is recognized by content, not by name: the released `F0_haiku.npz` and so on are
  pickles, see `safe_pickle`. A `.safetensors`, or a state dict that PyTorch saved, holds one of
  timm's networks, whose parameters get the names and layouts of the model here, see
  `timm_import.from_timm`. Nothing in a file is executed, and sizes are checked before memory is
  allocated. Arrays own their memory and are in native byte order.

  Raises:
    ValueError: the file cannot be read, has no such format, is damaged or hostile, or holds other
      things than finite real numbers; the message is short and has the path.

  Example:
    >>> import os
    >>> import tempfile
    >>> import numpy as np
    >>> from nfnets_augmult import read_params, write_npz
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = os.path.join(folder, 'params.npz')
    ...   write_npz(path, {'network/linear': {'b': np.array([1.0, 2.0])}})
    ...   read_params(path)
    {'network/linear': {'b': array([1., 2.])}}
  """
  with _opened(path) as (file, start, size):
    if _is_safetensors(path, start, size):
      metadata = _read_safetensors_metadata(file, size)
      return timm_import.from_timm(_read_safetensors(file, size), metadata)
    if start.startswith(_ZIP_MAGICS):
      if zip_reader.has_member(file, torch_reader.PICKLE_MEMBER):
        file.seek(0)
        return timm_import.from_timm(torch_reader.load_state_dict(file, size), {})
      return checks.check_params(unflatten(npz_reader.read_arrays(file, size)))
    if start.startswith(torch_reader.LEGACY_START[:9]):
      return timm_import.from_timm(torch_reader.load_state_dict(file, size), {})
    if start.startswith(_PICKLE_MAGIC):
      return checks.check_params(safe_pickle.load_params(file))
    raise ValueError('neither a .npz nor a pickle of parameters, nor a file of PyTorch')


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Returns the metadata of a `.npz` or `.safetensors`, `{}` if there is none.

  Raises:
    ValueError: the file or its metadata cannot be read; the message has the path.
  """
  with _opened(path) as (file, start, size):
    if _is_safetensors(path, start, size):
      return _read_safetensors_metadata(file, size)
    if start.startswith(_ZIP_MAGICS) and not zip_reader.has_member(
      file, torch_reader.PICKLE_MEMBER
    ):
      return npz_reader.read_metadata(file, size)
    return {}


def read_program(path: str | os.PathLike[str]) -> bytes | None:
  """Returns the program of a `.npz`, None if there is none.

  Raises:
    ValueError: the file cannot be read; the message has the path.
  """
  with _opened(path) as (file, start, size):
    return npz_reader.read_program(file, size) if start.startswith(_ZIP_MAGICS) else None


def _is_safetensors(path: str | os.PathLike[str], start: bytes, size: int) -> bool:
  """Returns whether a file is called so, or begins with a length and that much JSON."""
  begins_so = start[8:9] == b'{' and int.from_bytes(start[:8], 'little') <= size - 8
  return begins_so or os.fspath(path).endswith('.safetensors')


def _read_safetensors(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
  file.seek(0)
  try:
    tensors = safetensors.deserialize(file.read(size))
  except safetensors.SafetensorError as error:
    raise ValueError(f'not a whole .safetensors: {checks.short_message(error)}') from error
  checks.check_count(len(tensors))
  arrays = {}
  for name, tensor in tensors:
    if tensor['dtype'] not in _SAFETENSORS_DTYPES:
      raise ValueError(f'{checks.show(name)} is of type {checks.show(tensor["dtype"])}')
    dtype = np.dtype(_SAFETENSORS_DTYPES[tensor['dtype']])
    buffer = np.frombuffer(tensor['data'], np.uint8)
    arrays[name] = checks.make_array(buffer, dtype, tuple(tensor['shape']), is_fortran=False)
  return arrays


def _read_safetensors_metadata(file: BinaryIO, size: int) -> dict[str, Any]:
  """Reads the header: its length in 8 bytes, then JSON."""
  length = int.from_bytes(file.read(8), 'little')
  # The header has a name, a shape and two offsets per array besides the metadata.
  if length > min(size, 2 * metadata_lib.MAX_CHARACTERS):
    raise ValueError('its header is cut off, or too long')
  try:
    header = json.loads(file.read(length))
  except (ValueError, RecursionError) as error:
    raise ValueError('its header is not JSON') from error
  texts = header.get('__metadata__', {}) if isinstance(header, dict) else None
  if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
    raise ValueError('its header is not that of a .safetensors')
  return metadata_lib.from_texts({key: text for key, text in texts.items() if key != 'format'})


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[BinaryIO, bytes, int]]:
  """Yields a regular file, its first nine bytes, and its size in bytes.

  Raises:
    ValueError: opening or reading it fails; the message is short and has the path.
  """
  try:
    # Opening a pipe or a device may block or have side effects.
    if not files.is_url(path) and not stat.S_ISREG(os.stat(path).st_mode):
      kind = 'a directory' if os.path.isdir(path) else 'a pipe, a socket or a device'
      raise ValueError(f'it is {kind}, not a file of parameters')
    with io.BytesIO(files.read(path)) if files.is_url(path) else open(path, 'rb') as file:
      size = file.seek(0, os.SEEK_END)
      file.seek(0)
      if not size:
        raise ValueError('the file is empty')
      start = file.read(9)
      file.seek(0)
      yield file, start, size
  except MemoryError as error:
    raise ValueError(f'{os.fspath(path)}: it does not fit into memory') from error
  except (OSError, ValueError) as error:
    reason = getattr(error, 'strerror', None) or checks.short_message(error)
    raise ValueError(f'{os.fspath(path)}: {reason}') from error
