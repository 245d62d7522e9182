"""Groups of parameters by readable names, and keeping some of them as they are."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nfnets_augmult.ops.checks import check_choice, check_int
from nfnets_augmult.ops.param_names import is_classifier

_UNFREEZE = ('at_once', 'gradually')

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


def release_steps(
  params: Mapping[str, Any], names: Sequence[str], *, steps: int, unfreeze: str
) -> dict[str, int]:
  """Returns for how many updates each of the groups `names` is held, in the order of release.

  Args:
    params: of a network of this package, by module.
    names: see `frozen`.
    steps: after which all of them are trained.
    unfreeze: see `hold`.
  """
  groups, is_frozen = param_groups(params), frozen(params, names)
  held = {groups[module] for module, values in is_frozen.items() if any(jax.tree.leaves(values))}
  order = sorted(held, key=_depth, reverse=True)
  return {
    group: steps if unfreeze == 'at_once' else round(steps * place / len(order))
    for place, group in enumerate(order, start=1)
  }


def _depth(group: str) -> tuple[int, int]:
  """Larger for what is nearer to the output."""
  part, _, stage = group.partition('_')
  return ('stem', 'stage', 'final', 'classifier').index(part), int(stage) if part == 'stage' else 0


def check_release(freeze_steps: int, unfreeze: str) -> None:
  """Raises ValueError unless these fit together, see `hold`."""
  check_int('freeze_steps', freeze_steps)
  check_choice('unfreeze', unfreeze, _UNFREEZE)
  if unfreeze != 'at_once' and not freeze_steps:
    raise ValueError(
      f'unfreeze={unfreeze!r} needs freeze_steps=STEPS, after which all groups are trained'
    )


def hold(
  names: Sequence[str], *, steps: int = 0, unfreeze: str = 'at_once'
) -> optax.GradientTransformation:
  """Returns the transformation that makes the updates of some groups zero.

  Args:
    names: see `frozen`.
    steps: for how many updates; 0 for all.
    unfreeze: `'at_once'`, all groups after `steps`; or `'gradually'`, one after another at equal
      distances, the one nearest to the output first and the last after `steps`.

  Raises:
    ValueError: `steps` is negative, or 0 with `'gradually'`; `init` raises those of `frozen`.
  Source: gradual unfreezing is of Howard & Ruder 2018, arXiv:1801.06146, Section 3.3.
  """
  check_release(steps, unfreeze)
  if not steps:
    return optax.masked(optax.set_to_zero(), lambda params: frozen(params, names))

  def scale(updates: Any, state: optax.ScaleByScheduleState, params: Any = None) -> tuple[Any, Any]:
    del params
    held = release_steps(updates, names, steps=steps, unfreeze=unfreeze)
    scaled = {}
    for module, group in param_groups(updates).items():
      is_free = state.count >= held.get(group, 0)
      scaled[module] = jax.tree.map(functools.partial(jnp.multiply, is_free), updates[module])
    return scaled, optax.ScaleByScheduleState(optax.safe_increment(state.count))

  release = optax.GradientTransformation(
    lambda params: optax.ScaleByScheduleState(jnp.zeros([], jnp.int32)), scale
  )
  return optax.masked(release, lambda params: frozen(params, names))
