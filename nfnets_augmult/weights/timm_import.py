"""Reading the parameters of timm's networks, from the state dict of PyTorch."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nfnets_augmult.weights import checks, mismatch, timm_networks
from nfnets_augmult.weights.checks import unflatten

# Put before every name by wrappers: of several devices, compilation, averages and trainers.
_PREFIXES = ('module.', '_orig_mod.', 'model.')
_IMAGENET_CLASSES = 1000


def from_timm(state: Mapping[str, Any], metadata: Mapping[str, Any]) -> checks.Params:
  """Returns the parameters of a timm network under the names and in the layouts of the model here.

  The model computes what timm's network computes. Its parameters are those of the file, float32;
  gains make up for the 1e-5 that timm adds to the variance of a filter. Filters keep the scale of
  the file, unless it was written by `export_to_timm`, which is undone.

  Args:
    state: real arrays by timm's names, maybe all with a prefix such as `module.`.
    metadata: of the file.

  Raises:
    ValueError: not one of timm's networks that are models here; the message is one line, with the
      names that differ from the nearest. Or a value is not finite as float32.
  """
  state = _without_prefixes(state)
  found = {name: tuple(np.shape(value)) for name, value in state.items()}
  classes = found.get('head.fc.bias', ())
  num_classes = classes[0] if len(classes) == 1 else _IMAGENET_CLASSES
  shapes, keys = _nearest_network(found, num_classes)
  scale = _filter_scale(metadata)
  with np.errstate(over='ignore'):  # overflows become infinite and are reported later
    arrays = {
      name: timm_networks.from_timm_layout(np.asarray(state[keys[name]]), shape).astype(np.float32)
      for name, shape in shapes.items()
    }
  for name in [name for name, shape in shapes.items() if len(shape) == 4]:
    gain = name.removesuffix('w') + 'gain'
    arrays[name] /= scale
    ratio = timm_networks.gain_ratio(arrays[name], scale)
    arrays[gain] = (arrays[gain] / ratio).astype(np.float32)
  return checks.check_params(unflatten(arrays))


def _without_prefixes(state: Mapping[str, Any]) -> Mapping[str, Any]:
  """Returns `state` without the prefixes that all names have."""
  while prefix := next((p for p in _PREFIXES if all(n.startswith(p) for n in state)), ''):
    state = {name.removeprefix(prefix): value for name, value in state.items()}
  return state


def _nearest_network(
  found: mismatch.Shapes, num_classes: int
) -> tuple[mismatch.Shapes, dict[str, str]]:
  """Returns the shapes of the model here with the shapes in the file, and timm's names."""
  nearest: tuple[int, str, str] | None = None
  for model, timm in timm_networks.TIMM_NAMES.items():
    shapes, keys = timm_networks.shapes_in_timm(model, num_classes=num_classes)
    wanted = {keys[name]: timm_networks.timm_shape(name, shape) for name, shape in shapes.items()}
    differences = len(wanted.items() ^ found.items())
    if not differences:
      return shapes, keys
    if nearest is None or differences < nearest[0]:
      lines = str(mismatch.compare_shapes(wanted, found)).splitlines()
      nearest = differences, timm, '; '.join(lines)
  raise ValueError(
    f"of timm's networks, {timm_networks.LISTED} are read; nearest is {nearest[1]}, but "
    f'{nearest[2]}'
  )


def _filter_scale(metadata: Mapping[str, Any]) -> float:
  scale = metadata.get('filter_scale', 1.0)
  if not isinstance(scale, int | float) or not math.isfinite(scale) or scale <= 0:
    raise ValueError(f'its filter_scale is {checks.show(str(scale))}, not a positive number')
  return float(scale)
