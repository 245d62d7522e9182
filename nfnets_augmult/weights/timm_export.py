"""Writing NFNets for PyTorch: a safetensors file with the names of timm's `dm_nfnet_f*`."""

import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from nfnets_augmult.ops import files
from nfnets_augmult.weights import checks
from nfnets_augmult.weights import metadata as metadata_lib
from nfnets_augmult.weights.nfnet_layout import nfnet_name

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
# timm has the published F0 to F6, not F7 or the wider ones; its `nfnet_f*` are other networks.
TIMM_NAMES = tuple(f'dm_nfnet_f{size}' for size in range(7))
_BLOCK = re.compile(r'nf_block(?:_(\d+))?(?:/|$)')
_PARAMETERS = {'w': 'weight', 'b': 'bias', 'bias': 'bias', 'gain': 'gain'}


def _stages(params: Mapping[str, Any]) -> dict[int, str]:
  """Returns timm's prefix for each block number; a projection shortcut begins a stage."""
  numbers = {int(match[1] or 0) for module in params if (match := _BLOCK.search(module))}
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
  if match := _BLOCK.match(path):
    prefix, path = stages[int(match[1] or 0)], path[match.end() :]
  if name == 'skip_gain' and not path:
    return f'{prefix}skipinit_gain', value
  if value.ndim == 4:  # HWIO -> OIHW
    value = value.transpose(3, 2, 0, 1)
  elif name == 'w':  # IO -> OI; squeeze-excite has 1x1 convolutions in timm
    value = value.T if path == 'linear' else value.T[:, :, None, None]
  elif name == 'gain':
    value = value[:, None, None, None]
  return f'{prefix}{_MODULES[path]}.{_PARAMETERS[name]}', value


def timm_name(params: Mapping[str, Mapping[str, Any]]) -> str:
  """Returns the name of timm's network with these parameters, as `'dm_nfnet_f0'`.

  Raises:
    ValueError: timm has no such network.
  """
  name = nfnet_name(params)
  timm = f'dm_{name}'
  if timm not in TIMM_NAMES:
    what = f'the parameters of {name}' if name else 'no parameters of an NFNet as it was published'
    raise ValueError(
      f'these are {what}: timm has {TIMM_NAMES[0]} to {TIMM_NAMES[-1]}, whose names and shapes are '
      f'those of nfnet_f0 to nfnet_f{len(TIMM_NAMES) - 1}; a .npz holds any network'
    )
  return timm


def timm_state_dict(params: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
  """Returns the parameters of an NFNet under timm's names and in PyTorch's layouts, float32.

  Raises:
    ValueError: timm has no such network, or a value is not finite as float32.
  """
  timm_name(params)
  stages = _stages(params)
  state = {}
  plain = checks.check_params(params)
  for module, values in checks.check_params(_as_float32(plain)).items():
    for name, leaf in values.items():
      key, value = _to_timm(module, name, leaf, stages)
      state[key] = np.ascontiguousarray(value).reshape(value.shape)
  return state


def _as_float32(params: checks.Params) -> checks.Params:
  with np.errstate(over='ignore'):  # overflows become infinite and are reported later
    return {
      module: {name: leaf.astype(np.float32, copy=False) for name, leaf in values.items()}
      for module, values in params.items()
    }


def export_to_timm(
  path: str | os.PathLike[str],
  params: Mapping[str, Mapping[str, Any]],
  metadata: Mapping[str, Any] | None = None,
) -> None:
  """Writes the parameters of an NFNet-F0 to F6 as a file that timm's `dm_nfnet_f*` load.

  `timm.create_model(NAME, checkpoint_path=PATH, num_classes=K)` reads it: NAME is `timm_name`, K
  the number of classes, and PATH ends in `.safetensors`. The metadata of the file are NAME and K,
  as `timm_model` and `num_classes`, and `metadata`, with values other than text as JSON.

  Raises:
    ValueError: see `timm_state_dict`; or `metadata` cannot be written.
  """
  name, state = timm_name(params), timm_state_dict(params)
  facts = {'timm_model': name, 'num_classes': len(state['head.fc.bias'])}
  texts = metadata_lib.to_texts({**(metadata or {}), **facts})
  encoded = safetensors.numpy.save(state, metadata={**texts, 'format': 'pt'})
  files.write_whole(path, encoded)
