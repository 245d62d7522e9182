"""Describes how the parameters of a checkpoint differ from those of a network."""

from collections.abc import Mapping
from typing import Any

from nfnets_augmult.ops.param_names import is_classifier

_MOST_NAMED = 3


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
  """Returns how the parameters of a checkpoint differ in name or shape; '' if they do not.

  If only the number of classes differs, it says so.

  Args:
    ours: of the network, a dict of dicts of objects with a shape.
    theirs: of the checkpoint, likewise.
  """
  wanted, found = _shapes(ours), _shapes(theirs)
  missing, unexpected = wanted.keys() - found.keys(), found.keys() - wanted.keys()
  misshapen = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
  if not (missing or unexpected or misshapen):
    return ''
  only_classes_differ = all(
    is_classifier(module) and wanted[module, name][:-1] == found[module, name][:-1]
    for module, name in misshapen
  )
  if only_classes_differ and not (missing or unexpected):
    name = misshapen[0]
    return f'it has {found[name][-1]:,} classes, and the data have {wanted[name][-1]:,}'
  parts = []
  for names, what in (
    (missing, 'are missing in it'),
    (unexpected, 'are in it that the network lacks'),
    (misshapen, 'have another shape'),
  ):
    if names:
      first = ', '.join('/'.join(name) for name in sorted(names)[:_MOST_NAMED])
      parts.append(f'{len(names)} arrays {what}, such as {first}')
  return f'it is of another network: {"; ".join(parts)}'


def _shapes(params: Mapping[str, Any]) -> dict[tuple[str, str], tuple[int, ...]]:
  """Returns the shapes by (module, name)."""
  return {
    (module, name): tuple(array.shape)
    for module, arrays in params.items()
    for name, array in arrays.items()
  }
