"""What differs between the parameters of a checkpoint and those of a network, for people."""

from collections.abc import Mapping
from typing import Any

from nfnets_augmult.ops.param_names import is_classifier

_MOST_NAMED = 3


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
  """Returns how the parameters of a checkpoint differ in name or shape; '' if they do not.

  Where only the classifier differs, and only in its number of classes, it says so.

  Args:
    ours: of the network: dict of dicts of what has a shape.
    theirs: of the checkpoint, likewise.
  """
  wanted, found = _shapes(ours), _shapes(theirs)
  missing, unexpected = wanted.keys() - found.keys(), found.keys() - wanted.keys()
  misshapen = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
  if not (missing or unexpected or misshapen):
    return ''
  is_of_classes = all(
    is_classifier(module) and wanted[module, name][:-1] == found[module, name][:-1]
    for module, name in misshapen
  )
  if is_of_classes and not (missing or unexpected):
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
  """The shapes by module and name."""
  return {
    (module, name): tuple(array.shape)
    for module, arrays in params.items()
    for name, array in arrays.items()
  }
