"""timm's networks that are also models here: names and layouts of parameters, and standardization.

Convolutions standardize their filters, timm's with `sqrt(variance + 1e-5)`, ours with the norm,
`sqrt(variance * fan_in)`, but at least 1e-2. Their gains make up for the difference exactly.
"""

import re
from collections.abc import Iterable

import numpy as np

from nfnets_augmult.weights.network_layout import Shapes, network_shapes

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
  'initial_conv': 'stem.conv',
  **{f'stem_conv{i}': f'stem.conv{i + 1}' for i in range(4)},
}
_BLOCK = re.compile(r'nf_(?:res_)?block(?:_(\d+))?(?:/|$)')
_PARAMETERS = {'w': 'weight', 'b': 'bias', 'bias': 'bias', 'gain': 'gain'}

# From the name of the model here to timm's. What timm calls `nfnet_f*` and `nf_resnet*` is not what
# was published under these names.
TIMM_NAMES = {
  **{f'nfnet_f{size}': f'dm_nfnet_f{size}' for size in range(7)},
  **{
    f'timm_nfnet_{variant}': f'nfnet_{variant}' for variant in [*(f'f{i}' for i in range(8)), 'l0']
  },
  **{f'timm_nf_resnet{depth}': f'nf_resnet{depth}' for depth in (26, 50, 101)},
}
LISTED = 'dm_nfnet_f0 to dm_nfnet_f6, nfnet_f0 to nfnet_f7, nfnet_l0, nf_resnet26, 50 and 101'

# Added to the variance of a filter by timm, and the least norm of a filter here.
_TIMM_EPS = 1e-5
_LEAST_NORM = 1e-2


def timm_keys(names: Iterable[str]) -> dict[str, str]:
  """Returns timm's name for each `module/parameter` of a network.

  Raises:
    KeyError: a parameter is of no network that timm has.
  """
  names = list(names)
  stages = _stages(names)
  keys = {}
  for full_name in names:
    module, _, name = full_name.rpartition('/')
    path = '/'.join(part for part in module.split('/')[1:] if part != '~')
    prefix = ''
    if match := _BLOCK.match(path):
      prefix, path = stages[int(match[1] or 0)], path[match.end() :]
    is_skip_gain = name == 'skip_gain' and not path
    key = 'skipinit_gain' if is_skip_gain else f'{_MODULES[path]}.{_PARAMETERS[name]}'
    keys[full_name] = prefix + key
  return keys


def _stages(names: Iterable[str]) -> dict[int, str]:
  """Returns timm's prefix for each block number; a projection shortcut begins a stage."""
  begins: dict[int, bool] = {}
  for name in names:
    if match := _BLOCK.search(name):
      number = int(match[1] or 0)
      begins[number] = begins.get(number, False) or '/conv_shortcut/' in name
  prefixes = {}
  stage = block = -1
  for number in sorted(begins):
    stage, block = (stage + 1, 0) if begins[number] else (stage, block + 1)
    prefixes[number] = f'stages.{stage}.{block}.'
  return prefixes


def timm_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """Returns PyTorch's shape of the parameter `name`, `module/parameter`, of `shape` here."""
  if len(shape) == 4:  # HWIO -> OIHW
    return shape[3], shape[2], shape[0], shape[1]
  if len(shape) == 2:  # IO -> OI; squeeze-excite has 1x1 convolutions in timm
    return shape[::-1] + ((1, 1) if '/squeeze_excite/' in name else ())
  return (*shape, 1, 1, 1) if name.endswith('/gain') else shape


def to_timm_layout(name: str, value: np.ndarray) -> np.ndarray:
  """Returns the array in PyTorch's layout, in C order."""
  moved = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
  return np.ascontiguousarray(moved).reshape(timm_shape(name, value.shape))


def from_timm_layout(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """Inverts `to_timm_layout`, for an array that has `shape` here."""
  moved = value.transpose(2, 3, 1, 0) if len(shape) == 4 else value.reshape(shape[::-1]).T
  return np.ascontiguousarray(moved).reshape(shape)


def shapes_in_timm(model: str, *, num_classes: int) -> tuple[Shapes, dict[str, str]]:
  """Returns the shapes of a model here by name, and timm's name for each."""
  shapes = network_shapes(model, num_classes=num_classes)
  return shapes, timm_keys(shapes)


def gain_ratio(w: np.ndarray, filter_scale: float) -> np.ndarray:
  """Returns timm's gain over ours, float64 `[O]`, with which both convolutions are the same.

  Args:
    w: our filters `[kh, kw, I / groups, O]`.
    filter_scale: timm's filters over ours. Close to 1 if their variance is far above 1e-5.
  """
  columns = w.reshape(-1, w.shape[-1]).astype(np.float64)
  norm = np.sqrt(np.sum((columns - columns.mean(axis=0)) ** 2, axis=0))
  timm_norm = np.sqrt(norm**2 + len(columns) * _TIMM_EPS / filter_scale**2)
  return timm_norm / np.maximum(norm, _LEAST_NORM)
