"""Groups of parameters by readable names, and keeping some of them as they are."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nfnets_augmult.ops.checks import check_int
from nfnets_augmult.ops.param_names import is_classifier

_BLOCK = re.compile(r'nf(?:_res)?_block(?:_(\d+))?')
_STAGE = re.compile(r'stage_(\d+)_block_\d+')


def param_groups(params: Mapping[str, Any]) -> dict[str, str]:
  """Returns the group of each module: `stem`, `stage_1` and so on, `final_conv`, `classifier`.

  Args:
    params: of a network of this package, by module.

  Example:
    >>> from nfnets_augmult import param_groups
    >>> param_groups({'net/stem': {}, 'net/stage_0_block_0/conv_0': {}, 'net/classifier': {}})
    {'net/stem': 'stem', 'net/stage_0_block_0/conv_0': 'stage_1', 'net/classifier': 'classifier'}
  """
  paths = {module: [part for part in module.split('/') if part != '~'] for module in params}
  # Blocks are numbered through the network; the first of a stage has a convolution as shortcut.
  first_blocks = sorted(
    _block_number(path[1]) for path in paths.values() if path[2:] == ['conv_shortcut']
  )

  def group(module: str) -> str:
    path = paths[module]
    part = path[1] if len(path) > 1 else ''
    if is_classifier(module):
      return 'classifier'
    if match := _STAGE.fullmatch(part):
      return f'stage_{int(match[1]) + 1}'
    if _BLOCK.fullmatch(part):
      return f'stage_{sum(first <= _block_number(part) for first in first_blocks)}'
    return 'final_conv' if part == 'final_conv' else 'stem'

  return {module: group(module) for module in params}


def _block_number(part: str) -> int:
  match = _BLOCK.fullmatch(part)
  return int(match[1] or 0) if match else -1


def frozen(params: Mapping[str, Any], names: Sequence[str]) -> Any:
  """Returns a tree of booleans like `params`: True for those in the groups `names`.

  Args:
    params: of a network of this package, by module.
    names: groups of `param_groups`, or `stages` for all stages.

  Raises:
    ValueError: there is no such group, the message lists them; or all parameters are in `names`.
  """
  groups = param_groups(params)
  known = sorted(set(groups.values()))
  if unknown := [name for name in names if name not in (*known, 'stages')]:
    raise ValueError(
      f'freeze={unknown[0]!r} is no group of this network; there is: {", ".join(known)}, and '
      'stages for all of them'
    )
  chosen = {name for name in known if name in names or ('stages' in names and 'stage_' in name)}
  if chosen == set(known):
    raise ValueError(f'freeze={",".join(names)!r} leaves nothing to train')
  return {
    module: jax.tree.map(lambda _, is_frozen=groups[module] in chosen: is_frozen, values)
    for module, values in params.items()
  }


def hold(names: Sequence[str], *, steps: int = 0) -> optax.GradientTransformation:
  """Returns the transformation that makes the updates of some groups zero.

  Args:
    names: see `frozen`.
    steps: for how many updates; 0 for all.

  Raises:
    ValueError: `steps` is negative; `init` raises those of `frozen`.
  """
  check_int('freeze_steps', steps)
  stop = optax.set_to_zero()
  if steps:
    stop = optax.scale_by_schedule(lambda count: jnp.where(count < steps, 0.0, 1.0))
  return optax.masked(stop, lambda params: frozen(params, names))
