"""Writing networks for PyTorch: a safetensors file that timm's own network reads."""

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

from nfnets_augmult.ops import files
from nfnets_augmult.weights import checks, timm_networks
from nfnets_augmult.weights import metadata as metadata_lib
from nfnets_augmult.weights.checks import flatten, unflatten
from nfnets_augmult.weights.network_layout import network_name

# The largest number of an exported filter has this exponent of 2: far above what timm adds to the
# variance, and with room to the largest float16, 2**16.
_LARGEST_EXPONENT = 12

# What an NFNet may have been trained with. timm's gelu is the exact one.
_TIMM_OPTIONS = {'activation': ('gelu', 'gelu_exact'), 'alpha': (0.2,)}

# What `export_to_timm` adds to the metadata.
METADATA_KEYS = ('timm_model', 'num_classes', 'filter_scale')


def timm_name(params: Mapping[str, Mapping[str, Any]]) -> str:
  """Returns the name of timm's network with these parameters, as `'dm_nfnet_f0'`.

  Raises:
    ValueError: timm has no such network.
  """
  name = network_name(params)
  if name in timm_networks.TIMM_NAMES:
    return timm_networks.TIMM_NAMES[name]
  what = (
    f'the parameters of {name}' if name else 'no parameters of an NFNet or NF-ResNet known here'
  )
  other = ''
  if f'timm_{name}' in timm_networks.TIMM_NAMES:
    other = f'; what timm calls {name} is another network, here the model timm_{name}'
  raise ValueError(
    f'these are {what}: timm has {timm_networks.LISTED}, of which the dm_* are the published '
    f'networks and the others the models timm_* here{other}; a .npz holds any network'
  )


def timm_state_dict(params: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
  """Returns the parameters under timm's names and in PyTorch's layouts, float32.

  Filters are multiplied by one power of two: the convolution does not depend on their scale, but
  for the 1e-5 that timm adds to their variance, which is of the order of 1e-3. A gain changes only
  if its filter is small even so, or has a norm of less than 1e-2; see `timm_networks.gain_ratio`.

  Raises:
    ValueError: timm has no such network, or a value is not finite as float32.
  """
  return _state_and_scale(params)[0]


def _state_and_scale(
  params: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, np.ndarray], float]:
  """Returns the state dict, and by what its filters are multiplied."""
  timm_name(params)
  arrays = flatten(checks.check_params(_as_float32(checks.check_params(params))))
  filters = [name for name, value in arrays.items() if value.ndim == 4]
  largest = max(float(np.max(np.abs(arrays[name]))) for name in filters)
  scale = math.ldexp(1.0, _LARGEST_EXPONENT - math.frexp(largest)[1]) if largest else 1.0
  for name in filters:
    gain = name.removesuffix('w') + 'gain'
    arrays[gain] = arrays[gain] * timm_networks.gain_ratio(arrays[name], scale)
    arrays[name] = arrays[name] * np.float64(scale)
  arrays = flatten(checks.check_params(_as_float32(unflatten(arrays))))
  keys = timm_networks.timm_keys(arrays)
  state = {keys[name]: timm_networks.to_timm_layout(name, leaf) for name, leaf in arrays.items()}
  return state, scale


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
  """Writes the parameters as a file with which timm's own network computes the same.

  `timm.create_model(NAME, checkpoint_path=PATH, num_classes=K)` reads it: NAME is `timm_name`, K
  the number of classes, and PATH ends in `.safetensors`. The metadata of the file are NAME and K,
  as `timm_model` and `num_classes`, `filter_scale`, and `metadata`, with values other than text as
  JSON. `read_params` gives the parameters back, filters at their own scale.

  Raises:
    ValueError: see `timm_state_dict`; `metadata` cannot be written; or its `model_options` name an
      activation or alpha that timm's network does not have.
  """
  for option, known in _TIMM_OPTIONS.items():
    value = (metadata or {}).get('model_options', {}).get(option, known[0])
    if value not in known:
      raise ValueError(f'the model has {option}={value!r}, and in timm it has {known[0]!r}')
  state, scale = _state_and_scale(params)
  facts = (timm_name(params), len(state['head.fc.bias']), scale)
  texts = metadata_lib.to_texts(
    {**(metadata or {}), **dict(zip(METADATA_KEYS, facts, strict=True))}
  )
  encoded = safetensors.numpy.save(state, metadata={**texts, 'format': 'pt'})
  files.write_whole(path, encoded)
