"""Which points of a sweep train in one program: groups that differ in seed and learning rate alone.

Every point ends in its own folder with the records of a single run; `together/NAME` has what is
common to a group, its checkpoints until the end.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence

import numpy as np

from nfnets_augmult.runs.training import GROUP_KEYS
from nfnets_augmult.sweep import grid
from nfnets_augmult.training import hosts, records

# Points that train in one program; a single one trains by itself.
Group = list[grid.Point]

_TOGETHER, _RECORD = 'together', 'group.json'


def by_shape(points: Sequence[grid.Point]) -> list[Group]:
  """Returns the points in groups that differ in seed and learning rate alone, in order."""
  groups: dict[str, Group] = {}
  for point in points:
    groups.setdefault(shape_name(point), []).append(point)
  return list(groups.values())


def shape_name(point: grid.Point) -> str:
  """Returns what the names of runs that can train in one program share; '' if nothing."""
  return grid.point_name({key: value for key, value in point.items() if key not in GROUP_KEYS})


def is_done(workdir: str, point: grid.Point) -> bool:
  """Whether there is nothing left to run: a run that diverged would diverge again."""
  folder = os.path.join(workdir, grid.point_name(point))
  return records.read_status(folder)[0] in ('finished', 'diverged')


def split(points: Group, workdir: str) -> list[Group]:
  """Splits the points of one shape into groups, considering what has been run already.

  Points that were started together go on together, because their checkpoints are common; what is
  done is a group of its own, and all others form one group.

  Raises:
    ValueError: an earlier version of this package was training some of them together.
  """
  left = {grid.point_name(point): point for point in points}
  groups = []
  for names in _started(workdir):
    if set(names) <= set(left) and not all(is_done(workdir, left[name]) for name in names):
      groups.append([left.pop(name) for name in names])
  groups += [[point] for point in left.values() if is_done(workdir, point)]
  if to_do := [point for point in left.values() if not is_done(workdir, point)]:
    groups.append(to_do)
  return groups


def broadcast_from_first_host(groups: Sequence[Group], points: Sequence[grid.Point]) -> list[Group]:
  """Returns the groups that the first host has made of `points`; each host sees files by itself."""
  number_and_place = {
    grid.point_name(point): (number, place)
    for number, group in enumerate(groups)
    for place, point in enumerate(group)
  }
  nowhere = (-1, -1)
  table = [number_and_place.get(grid.point_name(point), nowhere) for point in points]
  table = hosts.broadcast_from_first_host(np.array(table, np.int32).reshape(-1, 2))
  agreed: list[Group] = []
  for index in np.lexsort((table[:, 1], table[:, 0])):
    number, place = table[index]
    if number >= 0:
      if place == 0:
        agreed.append([])
      agreed[-1].append(points[index])
  return agreed


def folder_of(group: Group, workdir: str) -> str:
  """Returns where the checkpoints of a group go until its end: for one point, its own folder."""
  names = [grid.point_name(point) for point in group]
  if len(names) == 1:
    return os.path.join(workdir, names[0])
  digest = hashlib.sha256('\n'.join(names).encode()).hexdigest()[:8]
  name = f'{shape_name(group[0])},{len(names)}_runs_{digest}'.lstrip(',')
  return os.path.join(workdir, _TOGETHER, name)


def write_record(group: Group, folder: str) -> None:
  """Writes which points a group has, in the order of their common state, into its folder."""
  os.makedirs(folder, exist_ok=True)
  names = [grid.point_name(point) for point in group]
  records.write_json(os.path.join(folder, _RECORD), {'points': names})


def _started(workdir: str) -> Iterator[list[str]]:
  """The names of the points of each group that was started, in the order of their state."""
  together = os.path.join(workdir, _TOGETHER)
  for name in sorted(os.listdir(together)) if os.path.isdir(together) else ():
    folder = os.path.join(together, name)
    recorded = records.read_object(os.path.join(folder, _RECORD))
    if recorded is not None:
      yield list(recorded['points'])
    elif os.path.exists(os.path.join(folder, 'config.json')) and not os.path.exists(
      os.path.join(folder, 'result.json')
    ):
      raise ValueError(
        f'{folder} holds runs that an earlier version of this package was training together: let '
        'that version finish them, or remove the folder, and they start anew'
      )
