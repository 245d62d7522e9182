"""Parameter files: plain `.npz` in and out, the released pickles in."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from nfnets_augmult.ops.atomic_file import write_atomically
from nfnets_augmult.weights.safe_pickle import Params, load_params

_ZIP_MAGIC = b'PK\x03\x04'
_PICKLE_MAGIC = b'\x80'


def flatten(params: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """Returns `{'module/param': array}` of a dict of dicts."""
  return {f'{module}/{name}': leaf for module in params for name, leaf in params[module].items()}


def unflatten(arrays: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Returns the dict of dicts whose `flatten` is `arrays`; the parameter follows the last slash.

  Raises:
    ValueError: a name has no module.
  """
  params: dict[str, dict[str, Any]] = {}
  for full_name, leaf in arrays.items():
    module, slash, name = full_name.rpartition('/')
    if not slash:
      raise ValueError(f'{full_name!r} is not of the form module/parameter')
    params.setdefault(module, {})[name] = leaf
  return params


def write_npz(path: str | os.PathLike[str], params: Mapping[str, Mapping[str, Any]]) -> None:
  """Writes `params` as a plain `.npz` of arrays named `module/parameter`, whole or not at all.

  Raises:
    ValueError: an array is of a type that `.npz` cannot keep, such as bfloat16.
  """
  arrays = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
  for name, array in arrays.items():
    if array.dtype.kind not in 'biuf' or array.dtype.isbuiltin != 1:
      raise ValueError(f'{name} is of type {array.dtype}; convert it to float32 before writing')
  # numpy takes keywords, and one of its own parameters is called `file`; no name of ours is.
  write_atomically(path, lambda file: np.savez(file, **arrays))


def read_params(path: str | os.PathLike[str]) -> Params:
  """Returns the dict of dicts of numpy arrays in a plain `.npz` or in a released file.

  Contents decide, not the name: the released `F0_haiku.npz` and so on are pickles, which are read
  as `safe_pickle` says. Nothing in a file is executed.

  Raises:
    ValueError: neither of both, or unsafe; the message has the path.
  """
  with open(path, 'rb') as file:
    magic = file.read(len(_ZIP_MAGIC))
    file.seek(0)
    try:
      if magic == _ZIP_MAGIC:
        with np.load(file, allow_pickle=False) as arrays:
          return unflatten(dict(arrays))
      if magic.startswith(_PICKLE_MAGIC):
        return load_params(file)
    except ValueError as error:
      raise ValueError(f'{os.fspath(path)}: {error}') from error
  raise ValueError(f'{os.fspath(path)}: neither a .npz nor a pickle of parameters')
