"""Writing NFNets for PyTorch: timm's names for `dm_nfnet_f*`, in a safetensors file."""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from nfnets_augmult.ops.atomic_file import write_atomically
from nfnets_augmult.weights import metadata as metadata_lib
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


def export_to_timm(
  path: str | os.PathLike[str],
  params: Mapping[str, Mapping[str, Any]],
  metadata: Mapping[str, Any] | None = None,
) -> None:
  """Writes the parameters of an NFNet as a file that timm's `dm_nfnet_f*` load.

  `timm.create_model('dm_nfnet_f0', checkpoint_path=PATH)` reads it, with the `num_classes` that
  the network was trained for, and a name that ends in `.safetensors`.
  """
  texts = {**metadata_lib.to_texts(metadata or {}), 'format': 'pt'}
  encoded = safetensors.numpy.save(timm_state_dict(params), metadata=texts)
  write_atomically(path, lambda file: file.write(encoded))
