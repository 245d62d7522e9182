"""Writing NFNets for PyTorch: timm's names for `dm_nfnet_f*`, in a safetensors file."""

import json
import os
import re
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from nfnets_augmult.weights.atomic_file import write_atomically
from nfnets_augmult.weights.param_files import flatten

_MODULES = {
  'conv_shortcut': 'downsample.conv',
  'conv0': 'conv1',
  'conv1': 'conv2',
  'conv1b': 'conv2b',
  'conv2': 'conv3',
  'squeeze_excite/linear': 'attn_last.fc1',
  'squeeze_excite/linear_1': 'attn_last.fc2',
  'linear': 'head.fc',
  'final_conv': 'final_conv',
  **{f'stem_conv{i}': f'stem.conv{i + 1}' for i in range(4)},
}
_PARAMETERS = {'w': 'weight', 'b': 'bias', 'bias': 'bias', 'gain': 'gain'}


def _stages(params: Mapping[str, Any]) -> dict[int, str]:
  """Returns timm's prefix for each block number; a projection shortcut opens a stage."""
  numbers = {
    int(match[1] or 0)
    for module in params
    if (match := re.search(r'/nf_block(?:_(\d+))?(/|$)', module))
  }
  prefixes = {}
  stage = block = -1
  for number in sorted(numbers):
    suffix = f'_{number}' if number else ''
    if f'NFNet/~/nf_block{suffix}/~/conv_shortcut' in params:
      stage, block = stage + 1, -1
    block += 1
    prefixes[number] = f'stages.{stage}.{block}.'
  return prefixes


def _to_timm(
  module: str, name: str, value: np.ndarray, stages: dict[int, str]
) -> tuple[str, np.ndarray]:
  """Returns timm's name and array for one parameter."""
  path = '/'.join(part for part in module.split('/')[1:] if part != '~')
  prefix = ''
  if match := re.match(r'nf_block(?:_(\d+))?(?:/|$)', path):
    prefix, path = stages[int(match[1] or 0)], path[match.end() :]
  if name == 'skip_gain' and not path:
    return f'{prefix}skipinit_gain', value
  if path not in _MODULES or name not in _PARAMETERS:
    raise ValueError(f'{module}/{name} has no counterpart in timm; only NFNets have')
  if value.ndim == 4:  # HWIO -> OIHW
    value = value.transpose(3, 2, 0, 1)
  elif name == 'w':  # IO -> OI, and squeeze-excite's are 1x1 convolutions there
    value = value.T if path == 'linear' else value.T[:, :, None, None]
  elif name == 'gain':
    value = value[:, None, None, None]
  return f'{prefix}{_MODULES[path]}.{_PARAMETERS[name]}', value


def timm_state_dict(params: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
  """Returns the parameters of an NFNet under timm's names and in PyTorch's layouts, float32.

  Raises:
    ValueError: a parameter has no counterpart; its name is in the message.
  """
  stages = _stages(params)
  state = {}
  for full_name, leaf in flatten(params).items():
    module, _, name = full_name.rpartition('/')
    key, value = _to_timm(module, name, np.asarray(leaf, np.float32), stages)
    state[key] = np.ascontiguousarray(value).reshape(value.shape)
  return state


def write_safetensors(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
  """Writes float32 `arrays` as a safetensors file, whole or not at all.

  The format is the length of a JSON header in 8 bytes, the header with each array's type, shape
  and place, then the arrays: little to gain from a dependency.
  """
  header: dict[str, Any] = {'__metadata__': {'format': 'pt'}}
  offset = 0
  for name, array in arrays.items():
    if array.dtype != np.float32:
      raise ValueError(f'{name} is of type {array.dtype}, not float32')
    places = [offset, offset + array.nbytes]
    header[name] = {'dtype': 'F32', 'shape': list(array.shape), 'data_offsets': places}
    offset = places[1]
  encoded = json.dumps(header).encode()
  # Spaces so that the arrays start at a multiple of 8 bytes, as the format asks.
  encoded += b' ' * (-len(encoded) % 8)

  def write(file: BinaryIO) -> None:
    file.write(struct.pack('<Q', len(encoded)) + encoded)
    for array in arrays.values():
      file.write(np.ascontiguousarray(array, '<f4').tobytes())

  write_atomically(path, write)


def export_to_timm(path: str | os.PathLike[str], params: Mapping[str, Mapping[str, Any]]) -> None:
  """Writes the parameters of an NFNet as a file that timm's `dm_nfnet_f*` load.

  `timm.create_model('dm_nfnet_f0', checkpoint_path=PATH)` reads it, with the `num_classes` that
  the network was trained for, and a name that ends in `.safetensors`.
  """
  write_safetensors(path, timm_state_dict(params))
