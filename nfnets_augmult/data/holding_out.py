"""Which images are held out for the test, of each class and by group: a function of their names.

The order of the images does not matter. Names are drawn by a hash, so that a few more images change
the choice among the others little.
"""

import collections
import hashlib
from collections.abc import Sequence

import numpy as np


def held_out(
  names: Sequence[str], labels: Sequence[str], groups: Sequence[str], *, fraction: float
) -> np.ndarray:
  """Returns which images are held out, bool `[N]`.

  Of a class with two images or more that is `fraction` of them, rounded, and at least one, and at
  least one is left. Images of a group stay together; the numbers are then as near to this as
  whole groups allow, except that every class keeps an image.

  Args:
    names: of the images, all different.
    labels: of their classes.
    groups: of each, '' for one that is in no group.
    fraction: to hold out, above 0 and below 1.
  """
  members = collections.defaultdict(list)
  for index, (name, group) in enumerate(zip(names, groups, strict=True)):
    members[(1, group) if group else (0, name)].append(index)
  sizes = collections.Counter(labels)
  wanted = {label: min(max(1, round(fraction * size)), size - 1) for label, size in sizes.items()}
  taken = collections.Counter()
  result = np.zeros(len(names), bool)
  units = sorted(members.items(), key=lambda unit: _hash(unit[0][1]))
  counts = [collections.Counter(labels[index] for index in indices) for _, indices in units]

  def take(place: int) -> None:
    result[units[place][1]] = True
    taken.update(counts[place])

  def leaves_some(count: collections.Counter) -> bool:
    return all(taken[label] + more < sizes[label] for label, more in count.items())

  def distance(count: collections.Counter, times: int) -> int:
    return sum(abs(taken[label] + times * more - wanted[label]) for label, more in count.items())

  for place, count in enumerate(counts):
    if leaves_some(count) and distance(count, 1) < distance(count, 0):
      take(place)
  # Groups that are too large for that are taken where a class would have no image otherwise.
  having = collections.defaultdict(list)
  for place, count in enumerate(counts):
    for label in count:
      having[label].append(place)
  for label in sorted(sizes):
    able = [place for place in having[label] if leaves_some(counts[place])]
    if able and wanted[label] and not taken[label]:
      take(min(able, key=lambda place: counts[place].total()))
  return result


def _hash(name: str) -> bytes:
  return hashlib.blake2b(name.encode('utf-8', 'surrogatepass'), digest_size=16).digest()
