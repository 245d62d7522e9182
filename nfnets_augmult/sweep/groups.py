"""Groups of points that train in one program: they differ only in seed and learning rate.

Every point has its own folder with the records of a single run; `together/NAME` has the checkpoints
of a group until its end.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence

from nfnets_augmult.ops import files
from nfnets_augmult.runs.training import GROUP_KEYS
from nfnets_augmult.sweep import grid
from nfnets_augmult.training import hosts, records

# Points that train in one program; a single one trains by itself.
Group = list[grid.Point]

_TOGETHER, _RECORD = 'together', 'group.json'


def by_shape(points: Sequence[grid.Point]) -> list[Group]:
  """Groups the points that differ only in seed and learning rate, in order."""
  groups: dict[str, Group] = {}
  for point in points:
    groups.setdefault(shape_name(point), []).append(point)
  return list(groups.values())


def shape_name(point: grid.Point) -> str:
  """Returns the name of a point without seed and learning rate; may be ''."""
  return grid.point_name({key: value for key, value in point.items() if key not in GROUP_KEYS})


def is_done(workdir: str, point: grid.Point) -> bool:
  """Whether the run finished or diverged, which it would do again."""
  folder = os.path.join(workdir, grid.point_name(point))
  return records.read_status(folder)[0] in ('finished', 'diverged')


def split(points: Group, workdir: str) -> list[Group]:
  """Splits the points of one shape into groups, depending on what has been run already.

  Points that were started as a group stay one, as they share checkpoints; each point that is done
  is a group by itself, and all others form one group.

  Raises:
    ValueError: some were started as a group by an earlier version of this package, or the record
      of a group is damaged.
  """
  left = {grid.point_name(point): point for point in points}
  groups = []
  for names in _started(workdir):
    if set(names) <= set(left) and not all(is_done(workdir, left[name]) for name in names):
      groups.append([left.pop(name) for name in names])
  groups += [[point] for point in left.values() if is_done(workdir, point)]
  if todo := [point for point in left.values() if not is_done(workdir, point)]:
    groups.append(todo)
  return groups


def broadcast_from_first_host(groups: Sequence[Group], points: Sequence[grid.Point]) -> list[Group]:
  """Returns the first host's groups of `points`, since hosts may see different files."""
  names = hosts.from_first_host(lambda: [list(map(grid.point_name, group)) for group in groups])
  by_name = {grid.point_name(point): point for point in points}
  return [[by_name[name] for name in group] for group in names]


def checkpoint_folder(group: Group, workdir: str) -> str:
  """Returns the folder of the checkpoints of a group until its end: for one point, its own."""
  names = [grid.point_name(point) for point in group]
  if len(names) == 1:
    return os.path.join(workdir, names[0])
  digest = hashlib.sha256('\n'.join(names).encode()).hexdigest()[:8]
  name = f'{shape_name(group[0])},{len(names)}_runs_{digest}'.lstrip(',')
  return os.path.join(workdir, _TOGETHER, name)


def write_record(group: Group, folder: str) -> None:
  """Writes the names of the points of a group, in the order of the axis R, into its folder."""
  files.make_dirs(folder)
  names = [grid.point_name(point) for point in group]
  records.write_json(os.path.join(folder, _RECORD), {'points': names})


def _started(workdir: str) -> Iterator[list[str]]:
  """Yields the names of the points of each group that was started, in the order of the axis R."""
  together = os.path.join(workdir, _TOGETHER)
  for name in sorted(files.list_dir(together)) if files.is_dir(together) else ():
    folder = os.path.join(together, name)
    recorded = records.read_object(os.path.join(folder, _RECORD))
    if recorded is not None:
      if not isinstance(recorded.get('points'), list):
        path = os.path.join(folder, _RECORD)
        raise records.DamagedError(f'{path} is damaged: it has no points; remove the folder')
      yield recorded['points']
    elif files.exists(os.path.join(folder, 'config.json')) and not files.exists(
      os.path.join(folder, 'result.json')
    ):
      raise ValueError(
        f'{folder} holds runs that an earlier version of this package was training together: let '
        'that version finish them, or remove the folder, and they start anew'
      )
