"""Runs the groups of a sweep one after another; a failure does not stop the others."""

import contextlib
import dataclasses
import functools
import itertools
import logging as std_logging
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from nfnets_augmult.ops import compiled_programs, console, files
from nfnets_augmult.runs import training, workdirs
from nfnets_augmult.runs.run import Run
from nfnets_augmult.sweep import grid, groups
from nfnets_augmult.training import hosts, records
from nfnets_augmult.training.progress import format_duration
from nfnets_augmult.training.run_log import DivergedError
from nfnets_augmult.training.watch import StopRequested

# Compiled programs stay in memory, about 20 MB for a small run, until they are cleared: when there
# are those of so many shapes. Not after every run: the seeds of a shape share them, and recompiling
# a hundred tiny programs, which all runs share, would take half of a short run.
_MOST_SHAPES = 10


@dataclasses.dataclass
class Tally:
  """The outcomes of the points so far, and the durations of those that ran here.

  Attributes:
    counts: points by status; `'elsewhere'` for those that another process is running.
    costs_and_seconds: relative cost and wall time of each run of this process.
  """

  counts: dict[str, int] = dataclasses.field(default_factory=dict)
  costs_and_seconds: list[tuple[float, float]] = dataclasses.field(default_factory=list)

  def add(self, status: str) -> None:
    """Counts one more point."""
    self.counts[status] = self.counts.get(status, 0) + 1

  def line(self, left: Sequence[float] = ()) -> str:
    """Returns the state of the sweep; `left` has the relative costs of the remaining groups."""
    counted = ', '.join(f'{count} {status}' for status, count in self.counts.items())
    if not left or not self.costs_and_seconds:
      return counted
    return f'{counted}; about {format_duration(seconds_left(self.costs_and_seconds, left))} left'


def seconds_left(done: Sequence[tuple[float, float]], left: Sequence[float]) -> float:
  """Estimates the seconds that the costs `left` take, from pairs (cost, seconds) of those `done`.

  A linear fit, whose constant is start and compilation; proportional if the fit is not positive.
  """
  cost, seconds = np.array(done).T
  if len(set(cost)) > 1:
    slope, constant = np.polyfit(cost, seconds, 1)
    if slope > 0 and constant > 0:
      return float(slope * np.sum(left) + constant * len(left))
  return float(np.sum(seconds) / np.sum(cost) * np.sum(left))


class _Runs:
  """Makes the runs of a sweep; those that differ in the seed alone share all but their folders.

  A program is traced and compiled once for all seeds, if the programs of all shapes can be kept.
  """

  def __init__(self, sweep: grid.Sweep):
    """Makes nothing yet."""
    self._sweep = sweep
    # By all values but the seed: runs that are never trained themselves, all with the same images.
    self._shared: dict[tuple[Any, ...], Run] = {}
    self._num_in_memory = 0  # shapes whose programs are, also if none shares them any more

  def make(self, point: grid.Point, workdir: str) -> Run:
    """Returns the run of a point; raises ValueError if its config is not valid."""
    config = self._sweep.config(point)
    shape = tuple(item for item in point.items() if item[0] != 'seed')
    if shape not in self._shared:
      shared = Run(config)
      dataset = shared.settings.dataset
      # Decoded images that are kept belong to a program.
      if dataset.is_cached or any(r.settings.dataset != dataset for r in self._shared.values()):
        self._shared.clear()
      if self._num_in_memory == _MOST_SHAPES:
        self._shared.clear()
        self._num_in_memory = 0
        jax.clear_caches()
      for other in self._shared.values():
        shared.data = other.data
      self._shared[shape] = shared
      self._num_in_memory += 1
    return Run(config, workdir, alike=self._shared[shape])

  def load_images(self, points: Iterable[grid.Point]) -> None:
    """Reads the images, if all points have the same; what is wrong with them is one error then.

    Raises:
      ValueError: see `Run.data`.
    """
    points = list(points)
    if points and not any(key.startswith('dataset.') for point in points for key in point):
      _ = self.make(points[0], '').data


def check(
  sweep: grid.Sweep, points: Sequence[grid.Point], workdir: str, *, together: bool = False
) -> None:
  """Checks the configs of `points`, and that their folders hold no other runs; writes nothing.

  Args:
    sweep: with the base as overridden.
    points: to run.
    workdir: of the sweep.
    together: whether points of one shape train in one program.

  Raises:
    ValueError: a point is not valid; the message names it.
  """
  runs = {}
  for point in points:
    name = grid.point_name(point)
    try:
      runs[name] = run = Run(sweep.config(point))
      workdirs.check_workdir(run.config, os.path.join(workdir, name))
    except records.DamagedError:
      pass  # reported when the point is run, so that the others are run, too
    except ValueError as error:
      raise ValueError(f'{name}: {error}') from error
  for group in groups.by_shape(points) if together else ():
    training.check_group([runs[grid.point_name(point)] for point in group])


def prepare(
  sweep: grid.Sweep, workdir: str, *, together: bool = False, shard: str = '0/1'
) -> list[groups.Group]:
  """Checks a sweep, writes its description to `workdir`, and returns the groups to run here.

  Args:
    sweep: with the base as overridden.
    workdir: of the sweep.
    together: whether points of one shape train in one program.
    shard: `'I/K'`, see `grid.take_shard`.

  Raises:
    ValueError: a point or the shard is not valid, or the folder holds another sweep.
    OSError: the description cannot be written.
  """
  points = grid.seed_by_seed(sweep.points)
  with hosts.failing_together():
    check(sweep, points, workdir, together=together)
    shapes = groups.by_shape(points) if together else [[point] for point in points]
    todo = grid.take_shard(shapes, shard)
    if together:
      todo = [group for shape in todo for group in groups.split(shape, workdir)]
  todo = groups.broadcast_from_first_host(todo, points)
  hosts.from_first_host(lambda: grid.describe(sweep, workdir))
  cache_compiled_programs(workdir)
  return todo


def run_sweep(
  sweep: grid.Sweep,
  todo: Sequence[groups.Group],
  workdir: str,
  *,
  command: str = '',
  stop_requested: Callable[[], bool] = lambda: False,
  report: Callable[[str], None] | None = None,
) -> Tally:
  """Runs the points of the sweep that have neither finished nor diverged.

  Args:
    sweep: see `prepare`.
    todo: the groups to run here, one after another.
    workdir: of the sweep.
    command: that started the sweep, to be recorded with each run; '' if there is none.
    stop_requested: called between steps; if it is true, the run is saved and the sweep ends.
    report: is given a text on each group that was run and on what is left; by default `say`.

  Raises:
    StopRequested: `stop_requested` was true.
    ValueError: the images that all runs need cannot be read; none has been started.
  """
  costs = [sum(Run(sweep.config(p)).settings.relative_cost for p in group) for group in todo]
  is_left = [not all(groups.is_done(workdir, point) for point in group) for group in todo]
  tally = Tally()
  runs = _Runs(sweep)
  with hosts.failing_together():
    runs.load_images(itertools.chain.from_iterable(itertools.compress(todo, is_left)))
  for number, group in enumerate(todo):
    folders = [os.path.join(workdir, grid.point_name(point)) for point in group]
    with contextlib.ExitStack() as locks:
      is_ours, is_to_run = hosts.from_first_host(
        functools.partial(_take, group, workdir, folders, locks)
      )
      if is_to_run:
        if hosts.any_host(stop_requested()):
          raise StopRequested
        start = time.monotonic()
        is_left[number] = False
        outcome = _run_group(
          sweep, group, workdir, runs, command=command, stop_requested=stop_requested
        )
        seconds = time.monotonic() - start
      statuses = ['elsewhere'] * len(group)
      if is_ours:
        statuses = hosts.from_first_host(lambda of=folders: [records.read_status(f)[0] for f in of])
    for status in statuses:
      tally.add(status)
    if is_to_run:
      if 'finished' in statuses:  # others end early, and their times mean nothing
        tally.costs_and_seconds.append((costs[number], seconds))
      left = list(itertools.compress(costs, is_left))
      (report or say)(
        f'[{number + 1}/{len(todo)}] {outcome} in {format_duration(seconds)}\n  {tally.line(left)}'
      )
  return tally


def _take(
  group: groups.Group, workdir: str, folders: Sequence[str], locks: contextlib.ExitStack
) -> tuple[bool, bool]:
  """Locks the folders of a group; returns whether they are this process's, and are to be run."""
  is_ours = all([locks.enter_context(records.lock_workdir(folder)) for folder in folders])
  # Another process may have run it in the meantime.
  return is_ours, is_ours and not all(groups.is_done(workdir, point) for point in group)


def _run_group(
  sweep: grid.Sweep,
  group: groups.Group,
  workdir: str,
  runs_of_sweep: _Runs,
  *,
  command: str,
  stop_requested: Callable[[], bool],
) -> str:
  """Runs the points of a group to their ends and returns a line on the outcome.

  A failure is recorded in `status.json`, with the traceback in `log.txt`, and not raised, unless it
  is one of several hosts' own.

  Raises:
    StopRequested: `stop_requested` was true; the state is saved.
  """
  folder = groups.checkpoint_folder(group, workdir)
  is_single = len(group) == 1
  shape = groups.shape_name(group[0]) or sweep.title
  name = grid.point_name(group[0]) if is_single else f'{len(group)} runs of {shape}'
  folders = [os.path.join(workdir, grid.point_name(point)) for point in group]
  files.make_dirs(folder)
  host = jax.process_index()
  log = os.path.join(folder, f'log_host{host}.txt' if host else 'log.txt')
  try:
    with _output_to(log):
      hosts.from_first_host(
        lambda: records.clear_status(folder) if is_single else groups.write_record(group, folder)
      )
      runs = [
        runs_of_sweep.make(point, run_folder).prepare(checkpoint_dir=folder)
        for point, run_folder in zip(group, folders, strict=True)
      ]
      trained = training.train(runs, folder, command=command, stop_requested=stop_requested)
  except StopRequested:
    raise
  except records.TakenOverError as error:
    _raise_own(error)
    return f'{name}: left to a process that was started later'
  except DivergedError as error:
    return f'{name}: diverged ({error})' if is_single else f'{name}: all diverged'
  except Exception as error:
    _raise_own(error)
    message = f'{type(error).__name__}: {error}'
    for point, run_folder in zip(group, folders, strict=True) if host == 0 else ():
      if not groups.is_done(workdir, point):
        records.write_status(run_folder, 'failed', message)
    return f'{name}: failed ({message.splitlines()[0]})'
  finished = [100 * result[sweep.metric] for result in trained.results if result]
  if host > 0:
    return f'{name}: finished'
  if is_single:
    return f'{name}: finished ({sweep.metric} {finished[0]:.2f} %)'
  diverged = len(group) - len(finished)
  ends = f'{sweep.metric} {min(finished):.2f} to {max(finished):.2f} %'
  return f'{name}: {len(finished)} finished ({ends})' + f', {diverged} diverged' * bool(diverged)


def _raise_own(error: Exception) -> None:
  """Raises an error of one of several hosts: the others are elsewhere in the program."""
  if jax.process_count() > 1 and not isinstance(error, hosts.SharedError):
    raise error


@contextlib.contextmanager
def _output_to(path: str) -> Iterator[None]:
  """Appends what a run prints and logs to a file, and the traceback of an error.

  The progress bar stays on the terminal.
  """
  terminal = logging.get_absl_handler()
  with files.open_log(path) as log:
    handler = std_logging.StreamHandler(log)
    handler.setFormatter(console.LOG_FORMATTER)
    for log_filter in terminal.filters:
      handler.addFilter(log_filter)
    logger, level = logging.get_absl_logger(), terminal.level
    logger.addHandler(handler)
    terminal.setLevel(std_logging.WARNING)
    try:
      with contextlib.redirect_stdout(log):
        yield
    except (StopRequested, DivergedError, records.TakenOverError):
      raise
    except Exception:
      traceback.print_exc(file=log)
      raise
    finally:
      logger.removeHandler(handler)
      terminal.setLevel(level)


def cache_compiled_programs(workdir: str) -> None:
  """Keeps compiled programs, for runs of one shape and for restarts.

  They are in the folder `.compiled` of the work directory, or, if that is in a bucket, to which
  every program would be uploaded, in the user's folder of caches.
  """
  is_url = files.is_url(workdir)
  compiled_programs.keep_in(
    compiled_programs.user_folder() if is_url else os.path.join(workdir, '.compiled')
  )


def say(text: str) -> None:
  """Prints a line at once, on the first host only."""
  if jax.process_index() == 0:
    print(text, flush=True)
