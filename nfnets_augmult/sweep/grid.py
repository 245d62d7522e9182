"""Sweeps: a base config and the points of a grid, each an ordinary run.

Files under `experiments/figures/` return a `Sweep` from `get_sweep(argument)`, and its base from
`get_config(argument)`, so that `--config.KEY=VALUE` works as for a single run; `by_argument` makes
both functions from the paper's experiment and its smaller variants.
"""

import collections
import dataclasses
import difflib
import itertools
import os
import re
import runpy
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from nfnets_augmult import configs
from nfnets_augmult.ops import files
from nfnets_augmult.training import records

# Values by dotted config key.
Point = dict[str, Any]

_SEEDS_OF_A_VARIANT = 3


@dataclasses.dataclass(frozen=True)
class Published:
  """A test accuracy in the paper.

  Attributes:
    top_1: test accuracy in percent.
    keys: values of the config keys for which it was measured.
    source: figure, table or section.
    standard_error: in percent; None if not given.
  """

  top_1: float
  keys: Mapping[str, Any]
  source: str
  standard_error: float | None = None


@dataclasses.dataclass(frozen=True)
class Sweep:
  """A set of runs that share a base config.

  Attributes:
    title: of the report.
    base: config of all runs, complete and locked.
    points: values that each run sets in it; see `grid`.
    expected: the paper's finding, in a sentence or two.
    accelerator_hours: an estimate for all runs; the file says how it was made. None for sweeps
      on a CPU.
    metric: name of the recorded test accuracy.
    published: the paper's numbers for these runs, or for those of which this is a small variant.
    is_small: whether this is a small variant, not comparable with the paper's numbers.
  """

  title: str
  base: ml_collections.ConfigDict
  points: Sequence[Point]
  expected: str
  accelerator_hours: float | None = None
  metric: str = 'test/raw/top_1'
  published: Sequence[Published] = ()
  is_small: bool = False

  def __post_init__(self):
    counts = collections.Counter(point_name(point) for point in self.points)
    if repeated := sorted(name for name, count in counts.items() if count > 1):
      raise ValueError(f'the sweep has points twice: {", ".join(repeated)}')
    known = configs.flatten(self.base)
    varied = {key for point in self.points for key in point}
    if unknown := sorted(varied - set(known)):
      raise ValueError(
        f'the sweep varies {", ".join(unknown)}, which its base config does not have'
      )

  def named_points(self) -> dict[str, Point]:
    """Returns the points by name, in order."""
    return {point_name(point): point for point in self.points}

  def config(self, point: Point) -> ml_collections.ConfigDict:
    """Returns the config of one run.

    Raises:
      ValueError: a value is of another type than in the base.
    """
    config = self.base.copy_and_resolve_references()
    try:
      config.update_from_flattened_dict(point)
    except TypeError as error:
      raise ValueError(f'{point_name(point)}: {error}') from error
    return config.lock()

  def with_base(self, base: ml_collections.ConfigDict) -> 'Sweep':
    """Returns the sweep with another base.

    Raises:
      ValueError: `base` differs in a key that the points set.
    """
    new, old = configs.flatten(base), configs.flatten(self.base)
    varied = {key for point in self.points for key in point}
    if clash := sorted(key for key in varied if new[key] != old[key]):
      raise ValueError(
        f'the sweep varies {", ".join(clash)} itself; override other keys only, or start the runs '
        'you want from the commands of --list'
      )
    return dataclasses.replace(self, base=base)

  def description(self) -> dict[str, Any]:
    """Returns the contents of `sweep.json`."""
    return {
      'title': self.title,
      'expected': self.expected,
      'metric': self.metric,
      'is_small': self.is_small,
      'base': configs.flatten(self.base),
      'points': self.named_points(),
      'published': [dataclasses.asdict(number) for number in self.published],
    }


def by_argument(
  paper: Callable[[range], Sweep],
  tiny: Callable[[range], Sweep],
  small: Callable[[range], Sweep] | None = None,
  *,
  seeds: int = 7,
) -> tuple[Callable[..., Sweep], Callable[..., ml_collections.ConfigDict]]:
  """Returns `get_sweep` and `get_config` of a sweep file.

  Both take the text after the colon of `--config=FILE.py:ARGUMENT`, with commas in between: the
  name of a variant, and `seeds=N` for the number of runs of each point. They raise a `ValueError`
  for anything else. A variant has three runs of each point; its name is added to the title, and
  `is_small` is set.

  Args:
    paper: makes the paper's experiment from the seeds of each point.
    tiny: makes a variant that shows in minutes that everything runs.
    small: makes one that can answer the question in hours of a CPU; None if there is none.
    seeds: default number of seeds of the paper's experiment.
  """
  variants = {'small': small, 'tiny': tiny} if small else {'tiny': tiny}

  def get_sweep(argument: str = '') -> Sweep:
    """Returns the sweep; the name of a variant for that, `seeds=N` for N runs of each point."""
    parts = argument.split(',') if argument else []
    named = [part for part in parts if part in variants]
    count = _SEEDS_OF_A_VARIANT if named else seeds
    for part in parts:
      key, _, value = part.partition('=')
      if key == 'seeds' and value.isdigit() and int(value) > 0:
        count = int(value)
      elif part not in named[:1]:
        raise ValueError(
          f'{part!r} after the colon of --config is neither {" nor ".join(variants)} nor seeds=N, '
          'as in tiny,seeds=7'
        )
    if not named:
      return paper(range(count))
    sweep = variants[named[0]](range(count))
    return dataclasses.replace(sweep, title=f'{sweep.title} ({named[0]})', is_small=True)

  def get_config(argument: str = '') -> ml_collections.ConfigDict:
    """Returns the base config of the sweep."""
    return get_sweep(argument).base

  return get_sweep, get_config


def grid(axes: Mapping[str, Iterable[Any]]) -> list[Point]:
  """Returns a point for each combination of values of `axes`, by dotted key; last key fastest."""
  return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def difference(config: ml_collections.ConfigDict, base: ml_collections.ConfigDict) -> Point:
  """Returns the values of `config` that differ from those of `base`."""
  flat_base = configs.flatten(base)
  return {key: value for key, value in configs.flatten(config).items() if value != flat_base[key]}


def powers_of_two(start: float, count: int) -> list[float]:
  """Returns `start`, `2 start`, `4 start` ...: the paper's grid of learning rates (Section 2)."""
  return [start * 2**exponent for exponent in range(count)]


def point_name(point: Point) -> str:
  """Returns the name of a point's work directory, such as `augmult=4,learning_rate=0.1,seed=0`.

  Keys are shortened to their last part.
  """
  pairs = [f'{key.split(".")[-1]}={_value_text(value)}' for key, value in point.items()]
  return re.sub(r'[^\w.=,+-]', '_', ','.join(pairs))


def load_sweep(path: str, axes: Sequence[str] = ()) -> Sweep:
  """Returns the sweep of `FILE.py` or `FILE.py:ARGUMENT`, or a grid over its single run.

  Args:
    path: of a file with `get_sweep`, or with `get_config` alone.
    axes: keys to vary of a single run, as `'KEY=VALUE,VALUE'`.

  Raises:
    ValueError: a single run without axes, a sweep with axes, or an axis that cannot be read.
  """
  file, _, argument = path.partition('.py:')
  file = file if file.endswith('.py') else f'{file}.py'
  members = runpy.run_path(file)
  arguments = [argument] if argument else []
  if 'get_sweep' in members:
    if axes:
      raise ValueError(f'--config={path} is a sweep with a grid of its own: leave --grid out')
    return members['get_sweep'](*arguments)
  if not axes:
    raise ValueError(
      f'--config={path} describes a single run: say what to vary, as in --grid.seed=0,1,2, or '
      'start it with python -m nfnets_augmult.train. Sweeps are in experiments/figures/'
    )
  base = members['get_config'](*arguments)
  values: dict[str, list[Any]] = {}
  for axis in axes:
    key, of_key = _read_axis(axis, configs.flatten(base))
    if key in values:
      raise ValueError(f'--grid.{key} is given twice: put all its values into one')
    values[key] = of_key
  name = os.path.basename(file).removesuffix('.py')
  title = f'{":".join([name, *arguments])}, {" and ".join(values)} varied'
  return Sweep(title=title, base=base, points=grid(values), expected='')


def _read_axis(axis: str, base: Mapping[str, Any]) -> tuple[str, list[Any]]:
  """Returns the key and the values of an axis."""
  key, _, texts = axis.partition('=')
  flag = f'--grid.{key}={texts}'
  if key not in base:
    alike = difflib.get_close_matches(key, base, n=3, cutoff=0.5)
    hint = f': did you mean {" or ".join(alike)}?' if alike else ''
    raise ValueError(f'{flag}: the config has no key {key!r}{hint}')
  default = base[key]
  kind = float if default is None else type(default)
  if kind is list:
    raise ValueError(f'{flag}: {key} has several values itself, and cannot be varied here')
  read = {'True': True, 'False': False}.__getitem__ if kind is bool else kind
  try:
    return key, [read(text) for text in texts.split(',')]
  except (KeyError, ValueError):
    raise ValueError(
      f'{flag}: each of the values between the commas must be {configs.KINDS[kind]}'
    ) from None


def commands(
  sweep: Sweep,
  points: Sequence[Point],
  *,
  original_base: ml_collections.ConfigDict,
  config_path: str,
  workdir: str,
) -> Iterator[str]:
  """Yields the shell commands that run the points one by one.

  Args:
    sweep: with the base as overridden.
    points: of the sweep.
    original_base: the base without overrides.
    config_path: the value of `--config`.
    workdir: of the sweep.
  """
  for point in points:
    values = difference(sweep.config(point), original_base)
    overrides = [f'--config.{key}={value}' for key, value in values.items()]
    words = ['python', '-m', 'nfnets_augmult.train', f'--config={config_path}', *overrides]
    yield shlex.join([*words, f'--workdir={os.path.join(workdir, point_name(point))}'])


def seed_by_seed(points: Sequence[Point]) -> list[Point]:
  """Sorts the points by seed, so that figures of an unfinished sweep have all curves early."""
  return sorted(points, key=lambda point: point.get('seed', 0))


def take_shard(points: Sequence[Any], shard: str) -> list[Any]:
  """Returns every K-th of `points`, or of groups of them, from the I-th on, for the shard `'I/K'`.

  Raises:
    ValueError: `shard` has another form, or I is not from 0 to K - 1.
  """
  index, _, count = shard.partition('/')
  if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
    raise ValueError(f'--shard={shard} must be I/K with I from 0 to K - 1, as in 0/4')
  return list(points[int(index) :: int(count)])


def describe(sweep: Sweep, workdir: str) -> None:
  """Writes `sweep.json`, the description of the sweep in `workdir`.

  Between starts, points may be added, as by more seeds, and points that were not started removed;
  nothing else may change.

  Raises:
    ValueError: `workdir` holds another sweep, or a single run.
  """
  path = os.path.join(workdir, 'sweep.json')
  new, old = sweep.description(), records.read_object(path)
  if old is None:
    if files.exists(os.path.join(workdir, 'config.json')):
      raise ValueError(f'workdir={workdir!r} holds a single run; choose another --workdir')
    files.make_dirs(workdir)
  else:
    if not all(isinstance(old.get(key), dict) for key in ('base', 'points')):
      raise records.DamagedError(f'{path} is damaged: it has no base and points; remove it')
    differ = configs.differences(new['base'], old['base'])
    gone = [
      name
      for name in old['points']
      if name not in new['points']
      and records.read_status(os.path.join(workdir, name))[0] != 'missing'
    ]
    if gone:
      differ.append(f'{len(gone)} points that are not in this one, such as {gone[0]}')
    if differ:
      raise ValueError(
        f'workdir={workdir!r} holds another sweep; it differs in {", ".join(differ)}. Choose '
        'another --workdir, or the config of that sweep'
      )
  if new != old:
    records.write_json(path, new)


def _value_text(value: Any) -> str:
  """Returns a value as text, floats as short as tells them from all others."""
  is_short = isinstance(value, float) and float(f'{value:g}') == value
  return f'{value:g}' if is_short else str(value)
