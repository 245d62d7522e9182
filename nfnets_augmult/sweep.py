"""Runs the points of a sweep one after another, or goes on where an earlier start stopped.

    python -m nfnets_augmult.sweep --config=experiments/figures/fig2_growing_batch.py:small
        [--workdir=DIR] [--config.KEY=VALUE ...] [--shard=I/K] [--together] [--list]

Each point is an ordinary run in `workdir/POINT`. The same command again skips what is finished or
has diverged, goes on with what was interrupted, and tries again what failed.
"""

import contextlib
import dataclasses
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
import jax
import numpy as np
from absl import flags

from nfnets_augmult import assembly, sweep_units, sweeps, train
from nfnets_augmult.ops import console
from nfnets_augmult.training import loop, records

# Below this a compilation is not worth a file.
_LEAST_SECONDS_TO_KEEP_COMPILED = 0.1
# What runs have compiled stays in memory, about 20 MB for a small one, and is cleared after so
# many: the hundred tiny programs that they share are half of the time of a short run.
_RUNS_BETWEEN_CLEARING = 10


@dataclasses.dataclass
class Tally:
  """What became of the points so far, and how long those took that ran here.

  Attributes:
    counts: points by status; `'elsewhere'` for those that another process is running.
    costs_and_seconds: for each run of this process, its relative cost and its wall time.
  """

  counts: dict[str, int] = dataclasses.field(default_factory=dict)
  costs_and_seconds: list[tuple[float, float]] = dataclasses.field(default_factory=list)

  def add(self, status: str) -> None:
    """Counts one more point."""
    self.counts[status] = self.counts.get(status, 0) + 1

  def line(self, left: Sequence[float] = ()) -> str:
    """Returns the state of the sweep; `left` has the relative costs of the points to come."""
    counted = ', '.join(f'{count} {status}' for status, count in self.counts.items())
    if not left or not self.costs_and_seconds:
      return counted
    return f'{counted}; about {_duration(seconds_left(self.costs_and_seconds, left))} left'


def seconds_left(done: Sequence[tuple[float, float]], left: Sequence[float]) -> float:
  """Estimates how long `left` takes, from pairs (cost, seconds) of what is `done`.

  A straight line, constant for compilation and start; through zero if that does not make sense.
  """
  cost, seconds = np.array(done).T
  if len(set(cost)) > 1:
    slope, constant = np.polyfit(cost, seconds, 1)
    if slope > 0 and constant > 0:
      return float(slope * np.sum(left) + constant * len(left))
  return float(np.sum(seconds) / np.sum(cost) * np.sum(left))


def commands(
  sweep: sweeps.Sweep, points: Sequence[sweeps.Point], *, config_path: str, workdir: str
) -> Iterator[str]:
  """Yields the shell commands that run the points one by one.

  Args:
    sweep: with the base as overridden.
    points: of the sweep.
    config_path: what `--config` says.
    workdir: of the sweep.
  """
  plain = sweeps.load_sweep(config_path).base
  for point in points:
    differing = sweeps.difference(sweep.config(point), plain)
    overrides = [f'--config.{key}={value}' for key, value in differing.items()]
    words = ['python', '-m', 'nfnets_augmult.train', f'--config={config_path}', *overrides]
    yield shlex.join([*words, f'--workdir={os.path.join(workdir, sweeps.point_name(point))}'])


def seed_by_seed(points: Sequence[sweeps.Point]) -> list[sweeps.Point]:
  """Returns the points with all of one seed before those of the next.

  So the pictures of a sweep that is going on are whole early, and get their error bars later.
  """
  return sorted(points, key=lambda point: point.get('seed', 0))


def take_shard(points: Sequence[Any], shard: str) -> list[Any]:
  """Returns every K-th of `points`, or of groups of them, from the I-th on, for the shard `'I/K'`.

  Raises:
    ValueError: `shard` is written otherwise, or I is not from 0 to K - 1.
  """
  index, _, count = shard.partition('/')
  if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
    raise ValueError(f'--shard={shard} must be I/K with I from 0 to K - 1, as in 0/4')
  return list(points[int(index) :: int(count)])


def check(sweep: sweeps.Sweep, points: Sequence[sweeps.Point], workdir: str) -> None:
  """Checks the configs of `points`, and that the folders in `workdir` are theirs; writes nothing.

  Raises:
    ValueError: something does not fit; the message names the point.
  """
  for point in points:
    name = sweeps.point_name(point)
    try:
      config = sweep.config(point)
      assembly.check(config)
      train.check_workdir(config, os.path.join(workdir, name))
    except records.DamagedError:
      pass  # that run fails by itself and says so; the others go on
    except ValueError as error:
      raise ValueError(f'{name}: {error}') from error


def run_sweep(
  sweep: sweeps.Sweep,
  todo: Sequence[sweep_units.Unit],
  workdir: str,
  *,
  stop_requested: Callable[[], bool] = lambda: False,
) -> Tally:
  """Runs the points of the sweep that have neither finished nor diverged.

  Args:
    sweep: what `check` has passed and `sweeps.describe` has written to `workdir`.
    todo: the points to run here, one after another; those of one entry train together.
    workdir: of the sweep.
    stop_requested: looked at between steps; when it is true the run is saved and the sweep ends.

  Raises:
    StopRequested: it was asked to stop.
  """
  costs = [sum(assembly.relative_cost(sweep.config(point)) for point in unit) for unit in todo]
  is_open = [not all(sweep_units.is_done(workdir, point) for point in unit) for unit in todo]
  tally = Tally()
  num_run = 0
  for number, unit in enumerate(todo):
    folders = [os.path.join(workdir, sweeps.point_name(point)) for point in unit]
    with contextlib.ExitStack() as claims:
      is_ours = all([claims.enter_context(records.lock_workdir(f)) for f in folders])
      # Another process may have been at it since.
      is_to_run = is_ours and not all(sweep_units.is_done(workdir, point) for point in unit)
      if is_to_run:
        if stop_requested():
          raise loop.StopRequested
        start = time.monotonic()
        is_open[number] = False
        outcome = sweep_units.run_unit(sweep, unit, workdir, stop_requested=stop_requested)
        seconds = time.monotonic() - start
      statuses = [records.read_status(f)[0] if is_ours else 'elsewhere' for f in folders]
    for status in statuses:
      tally.add(status)
    if is_to_run:
      num_run += 1
      if num_run % _RUNS_BETWEEN_CLEARING == 0:
        jax.clear_caches()
      if 'finished' in statuses:  # others end early
        tally.costs_and_seconds.append((costs[number], seconds))
      left = [cost for cost, to_come in zip(costs, is_open, strict=True) if to_come]
      _say(f'[{number + 1}/{len(todo)}] {outcome} in {_duration(seconds)}\n  {tally.line(left)}')
  num_points = sum(map(len, todo))
  _say(f'{num_points} runs: {tally.line()}' if todo else 'there are no runs in this shard')
  return tally


def _keep_compiled_programs(folder: str) -> None:
  """Lets runs of one shape share their compiled programs, also over restarts."""
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    jax.config.update('jax_compilation_cache_dir', folder)
    key = 'jax_persistent_cache_min_compile_time_secs'
    jax.config.update(key, _LEAST_SECONDS_TO_KEEP_COMPILED)


def _duration(seconds: float) -> str:
  minutes, seconds = divmod(round(seconds), 60)
  return f'{minutes // 60}:{minutes % 60:02}:{seconds:02}'


def _say(text: str) -> None:
  print(text, flush=True)


def main() -> None:
  """Reads the flags and runs the sweep, or lists its commands."""
  path = command_line.config_path()
  workdir = flags.FLAGS.workdir or train.default_workdir(path)
  try:
    sweep = sweeps.load_sweep(path).with_base(flags.FLAGS.config)
    points = seed_by_seed(sweep.points)
    if flags.FLAGS.list:
      if flags.FLAGS.together:
        raise ValueError('--list prints commands of single runs: leave --together out')
      console.end_when_nobody_reads()
      shard = take_shard(points, flags.FLAGS.shard)
      for line in commands(sweep, shard, config_path=path, workdir=workdir):
        print(line)
      return
    command_line.check_devices()
    check(sweep, points, workdir)
    todo = [[point] for point in points]
    if flags.FLAGS.together:
      todo = sweep_units.shapes(sweep, points)
    todo = take_shard(todo, flags.FLAGS.shard)
    if flags.FLAGS.together:
      todo = [unit for group in todo for unit in sweep_units.units(sweep, group, workdir)]
      for unit in todo:
        assembly.check(sweep_units.together_config(sweep, unit))
    sweeps.describe(sweep, workdir)
    _keep_compiled_programs(os.path.join(workdir, '.compiled'))
    _say(f'{sweep.title}: {sum(map(len, todo))} of {len(points)} runs, in {workdir}')
    stop_signals = command_line.StopSignals()
    tally = run_sweep(sweep, todo, workdir, stop_requested=stop_signals)
  except ValueError as error:
    command_line.fail(str(error))
  except OSError as error:
    command_line.fail(f'cannot write to {workdir}: {error}')
  except loop.StopRequested:
    _say(f'stopped and saved; the same command goes on from there. Work directory: {workdir}')
    return
  if tally.counts.get('elsewhere'):
    _say('some points are being run by another process; they were left to it')
  _say(f'the report: python -m nfnets_augmult.report --workdir={shlex.quote(workdir)}')
  if failed := tally.counts.get('failed'):
    command_line.fail(f'{failed} runs failed; their status.json and log.txt say why')


if __name__ == '__main__':
  command_line.define_path(
    'workdir', None, 'Directory of the sweep; default: runs/NAME of the config.'
  )
  flags.DEFINE_string('shard', '0/1', 'I/K: only every K-th run, from the I-th on, I from 0.')
  flags.DEFINE_boolean(
    'together', False, "Train seeds and learning rates of one shape in one program; input='device'."
  )
  flags.DEFINE_boolean('list', False, 'Print the command of each run, one a line, and run nothing.')
  command_line.define_config_flag()
  command_line.run(main)
