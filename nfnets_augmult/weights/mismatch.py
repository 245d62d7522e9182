"""How names and shapes of loaded parameters differ from those that are wanted."""

import dataclasses
from collections.abc import Mapping, Sequence

from nfnets_augmult.weights import checks

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Mismatch:
  """How the names and shapes of loaded parameters differ from a network's, in sorted order.

  Attributes:
    missing: names that the network has and the file lacks.
    unexpected: names that the file has and the network lacks.
    misshapen: name, the network's shape, the file's shape.
  """

  missing: tuple[str, ...]
  unexpected: tuple[str, ...]
  misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

  def __bool__(self) -> bool:
    return bool(self.missing or self.unexpected or self.misshapen)

  def __str__(self) -> str:
    """Lists the first few differences of each kind and counts the rest, on up to three lines."""
    lines = [
      f'{kind} in the file: {_few([checks.shorten(name) for name in names])}'
      for kind, names in (('missing', self.missing), ('unexpected', self.unexpected))
      if names
    ]
    if self.misshapen:
      rows = [
        f'{checks.shorten(name)} is {found} in the file, in the network {wanted}'
        for name, wanted, found in self.misshapen
      ]
      lines.append(f'wrong shape: {_few(rows, separator="; ")}')
    return '\n'.join(lines) or 'all names and shapes agree'


def _few(texts: Sequence[str], separator: str = ', ') -> str:
  """Returns the first three texts and the number of others."""
  rest = f' and {len(texts) - 3:,} more' if len(texts) > 3 else ''
  return separator.join(texts[:3]) + rest


def compare_shapes(wanted: Shapes, found: Shapes) -> Mismatch:
  """Returns how the shapes that were found in a file differ from those of a network."""
  both = wanted.keys() & found.keys()
  return Mismatch(
    missing=tuple(sorted(wanted.keys() - found.keys())),
    unexpected=tuple(sorted(found.keys() - wanted.keys())),
    misshapen=tuple(
      sorted((name, wanted[name], found[name]) for name in both if wanted[name] != found[name])
    ),
  )
