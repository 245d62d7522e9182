"""Runs the points of a sweep one after another, or goes on where an earlier start stopped.

    python -m nfnets_augmult.sweep --config=experiments/figures/fig2_growing_batch.py:small
        [--workdir=DIR] [--config.KEY=VALUE ...] [--shard=I/K] [--list]

Each point is an ordinary run in `workdir/POINT`. The same command again skips what is finished or
has diverged, goes on with what was interrupted, and tries again what failed.
"""

import contextlib
import dataclasses
import logging as std_logging
import os
import shlex
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

from nfnets_augmult import front_door  # first: it quietens libraries before they are imported

# isort: split
import jax
import ml_collections
import numpy as np
from absl import flags, logging

from nfnets_augmult import assembly, configs, sweeps, train
from nfnets_augmult.training import loop, records

# Statuses after which there is nothing left to run.
_DONE = ('finished', 'diverged')
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
  plain = configs.flatten(sweeps.load_sweep(config_path).base)
  for point in points:
    ours = configs.flatten(sweep.config(point))
    overrides = [f'--config.{key}={value}' for key, value in ours.items() if value != plain[key]]
    words = ['python', '-m', 'nfnets_augmult.train', f'--config={config_path}', *overrides]
    yield shlex.join([*words, f'--workdir={os.path.join(workdir, sweeps.point_name(point))}'])


def seed_by_seed(points: Sequence[sweeps.Point]) -> list[sweeps.Point]:
  """Returns the points with all of one seed before those of the next.

  So the pictures of a sweep that is going on are whole early, and get their error bars later.
  """
  return sorted(points, key=lambda point: point.get('seed', 0))


def take_shard(points: Sequence[sweeps.Point], shard: str) -> list[sweeps.Point]:
  """Returns every K-th of `points`, from the I-th on, for the shard `'I/K'`.

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
  points: Sequence[sweeps.Point],
  workdir: str,
  *,
  stop_requested: Callable[[], bool] = lambda: False,
) -> Tally:
  """Runs `points` of the sweep that have neither finished nor diverged.

  Args:
    sweep: what `check` has passed and `sweeps.describe` has written to `workdir`.
    points: those to run here.
    workdir: of the sweep.
    stop_requested: looked at between steps; when it is true the run is saved and the sweep ends.

  Raises:
    StopRequested: it was asked to stop.
  """
  run_configs = [sweep.config(point) for point in points]
  folders = [os.path.join(workdir, sweeps.point_name(point)) for point in points]
  costs = [assembly.relative_cost(config) for config in run_configs]
  tally = Tally()
  num_run = 0
  for number, folder in enumerate(folders):
    with records.only_process_in(folder) as is_ours:
      status = records.read_status(folder)[0] if is_ours else 'elsewhere'
      is_to_run = is_ours and status not in _DONE
      if is_to_run and stop_requested():
        raise loop.StopRequested
      if is_to_run:
        start = time.monotonic()
        status, message = _run_point(run_configs[number], folder, sweep.metric, stop_requested)
        seconds = time.monotonic() - start
    tally.add(status)
    if is_to_run:
      num_run += 1
      if num_run % _RUNS_BETWEEN_CLEARING == 0:
        jax.clear_caches()
      if status == 'finished':  # others end early
        tally.costs_and_seconds.append((costs[number], seconds))
      later = zip(costs[number + 1 :], folders[number + 1 :], strict=True)
      left = [cost for cost, folder in later if records.read_status(folder)[0] not in _DONE]
      name = f'[{number + 1}/{len(points)}] {os.path.basename(folder)}'
      _say(f'{name}: {status} {message} in {_duration(seconds)}\n  {tally.line(left)}')
  _say(f'{len(points)} runs: {tally.line()}' if points else 'there are no runs in this shard')
  return tally


def _run_point(
  config: ml_collections.ConfigDict,
  folder: str,
  metric: str,
  stop_requested: Callable[[], bool],
) -> tuple[str, str]:
  """Runs one point to its end and returns what became of it; only StopRequested comes out."""
  records.clear_status(folder)
  try:
    with _output_to(os.path.join(folder, 'log.txt')):
      _, result = train.train(train.prepare(config, folder), stop_requested=stop_requested)
  except loop.StopRequested:
    raise
  except loop.DivergedError as error:
    return 'diverged', f'({error})'
  except Exception as error:
    # Whatever it is, the other points are to run; the log has the traceback.
    with open(os.path.join(folder, 'log.txt'), 'a', encoding='utf-8') as log:
      traceback.print_exc(file=log)
    message = f'{type(error).__name__}: {error}'
    records.write_status(folder, 'failed', message)
    return 'failed', f'({message.splitlines()[0]})'
  return 'finished', f'({metric} {100 * result[metric]:.2f} %)'


@contextlib.contextmanager
def _output_to(path: str) -> Iterator[None]:
  """Sends what a run prints and logs to the end of a file; a bar stays on the terminal."""
  console = logging.get_absl_handler()
  with open(path, 'a', encoding='utf-8') as log:
    handler = std_logging.StreamHandler(log)
    handler.setFormatter(front_door.LOG_FORMATTER)
    for is_for_users in console.filters:
      handler.addFilter(is_for_users)
    logger, level = logging.get_absl_logger(), console.level
    logger.addHandler(handler)
    console.setLevel(std_logging.WARNING)
    try:
      with contextlib.redirect_stdout(log):
        yield
    finally:
      logger.removeHandler(handler)
      console.setLevel(level)


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
  path = front_door.config_path()
  workdir = flags.FLAGS.workdir or train.default_workdir(path)
  try:
    sweep = sweeps.load_sweep(path).with_base(flags.FLAGS.config)
    points = take_shard(seed_by_seed(sweep.points), flags.FLAGS.shard)
    if flags.FLAGS.list:
      signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # for `| head`, like other programs
      for line in commands(sweep, points, config_path=path, workdir=workdir):
        print(line)
      return
    check(sweep, points, workdir)
    sweeps.describe(sweep, workdir)
    _keep_compiled_programs(os.path.join(workdir, '.compiled'))
    _say(f'{sweep.title}: {len(points)} of {len(sweep.points)} runs, in {workdir}')
    stop_signals = front_door.StopSignals()
    tally = run_sweep(sweep, points, workdir, stop_requested=stop_signals)
  except ValueError as error:
    front_door.fail(str(error))
  except OSError as error:
    front_door.fail(f'cannot write to {workdir}: {error}')
  except loop.StopRequested:
    _say(f'stopped and saved; the same command goes on from there. Work directory: {workdir}')
    return
  if tally.counts.get('elsewhere'):
    _say('some points are being run by another process; they were left to it')
  _say(f'the report: python -m nfnets_augmult.report --workdir={shlex.quote(workdir)}')
  if failed := tally.counts.get('failed'):
    front_door.fail(f'{failed} runs failed; their status.json and log.txt say why')


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Directory of the sweep; default: runs/NAME of the config.')
  flags.DEFINE_string('shard', '0/1', 'I/K: only every K-th run, from the I-th on, I from 0.')
  flags.DEFINE_boolean('list', False, 'Print the command of each run, one a line, and run nothing.')
  front_door.define_config_flag()
  front_door.run(main)
