"""The units of a sweep: single runs, or runs of one shape that train in one program.

Either way every point ends in its own folder with the records of a single run.
"""

import contextlib
import logging as std_logging
import os
import traceback
from collections.abc import Callable, Iterator, Sequence

import ml_collections
from absl import logging

from nfnets_augmult import assembly, command_line, many_runs, sweeps, train
from nfnets_augmult.training import loop, records

# Points that train together; a single one trains by itself.
Unit = Sequence[sweeps.Point]


def shapes(sweep: sweeps.Sweep, points: Sequence[sweeps.Point]) -> list[Unit]:
  """Returns the points in groups that differ in seed and learning rate alone, in order."""
  groups: dict[str, list[sweeps.Point]] = {}
  for point in points:
    groups.setdefault(_shape(sweep, point), []).append(point)
  return list(groups.values())


def units(sweep: sweeps.Sweep, group: Unit, workdir: str) -> list[Unit]:
  """Splits the points of one shape into units, considering what has been run already.

  If all of them were started together, they stay together. Otherwise the points that are still to
  be run form one unit if they are a product of seeds and learning rates; all others are units of
  their own.
  """
  if _is_product(sweep, group) and os.path.exists(_together_folder(workdir, sweep, group)):
    return [group]
  done = [[point] for point in group if is_done(workdir, point)]
  to_do = [point for point in group if not is_done(workdir, point)]
  return [*done, to_do] if _is_product(sweep, to_do) else [[point] for point in group]


def _shape(sweep: sweeps.Sweep, point: sweeps.Point) -> str:
  """What runs that train together share."""
  own = {'seed', 'optimizer.learning_rate'}
  return sweeps.point_name({key: value for key, value in point.items() if key not in own})


def _axes(sweep: sweeps.Sweep, points: Unit) -> tuple[tuple[int, ...], tuple[float, ...]]:
  """The seeds and learning rates of the points."""
  pairs = [(sweep.config(p).seed, sweep.config(p).optimizer.learning_rate) for p in points]
  seeds, learning_rates = (tuple(dict.fromkeys(values)) for values in zip(*pairs, strict=True))
  return seeds, learning_rates


def _is_product(sweep: sweeps.Sweep, points: Unit) -> bool:
  if len(points) < 2:
    return False
  seeds, learning_rates = _axes(sweep, points)
  return len(points) == len(seeds) * len(learning_rates)


def is_done(workdir: str, point: sweeps.Point) -> bool:
  """Whether there is nothing left to run: a run that diverged would diverge again."""
  return _is_done_in(os.path.join(workdir, sweeps.point_name(point)))


def _is_done_in(folder: str) -> bool:
  return records.read_status(folder)[0] in ('finished', 'diverged')


def together_config(sweep: sweeps.Sweep, unit: Unit) -> ml_collections.ConfigDict:
  """Returns the config of points that train together."""
  config = sweep.config(unit[0]).copy_and_resolve_references()
  config.runs.seeds, config.runs.learning_rates = _axes(sweep, unit)
  return config


def _together_folder(workdir: str, sweep: sweeps.Sweep, unit: Unit) -> str:
  """Where what is of all runs of a unit lies, such as their checkpoints until the end."""
  seeds, learning_rates = (
    '-'.join(f'{end:g}' for end in (min(values), max(values))) for values in _axes(sweep, unit)
  )
  name = f'{_shape(sweep, unit[0])},seed={seeds},learning_rate={learning_rates}'
  return os.path.join(workdir, 'together', f'{name},{len(unit)}_runs'.lstrip(','))


def run_unit(
  sweep: sweeps.Sweep, unit: Unit, workdir: str, *, stop_requested: Callable[[], bool]
) -> str:
  """Runs the points of a unit to their ends and says what became of them.

  A failure is recorded, with its message and the traceback in a `log.txt`, and is no error here.

  Raises:
    StopRequested: it was asked to stop; everything is saved.
  """
  run = _run_point if len(unit) == 1 else _run_together
  return run(sweep, unit, workdir, stop_requested)


def _run_point(
  sweep: sweeps.Sweep,
  unit: Unit,
  workdir: str,
  stop_requested: Callable[[], bool],
) -> str:
  """Runs one point to its end and says what became of it; only StopRequested comes out."""
  name = sweeps.point_name(unit[0])
  folder = os.path.join(workdir, name)
  records.clear_status(folder)
  try:
    with _output_to(os.path.join(folder, 'log.txt')):
      run = train.prepare(sweep.config(unit[0]), folder)
      _, result = train.train(run, stop_requested=stop_requested)
  except loop.StopRequested:
    raise
  except loop.DivergedError as error:
    return f'{name}: diverged ({error})'
  except Exception as error:
    return f'{name}: failed ({_note_failure(error, folder, [folder])})'
  return f'{name}: finished ({sweep.metric} {100 * result[sweep.metric]:.2f} %)'


def _run_together(
  sweep: sweeps.Sweep,
  unit: Unit,
  workdir: str,
  stop_requested: Callable[[], bool],
) -> str:
  """Runs points in one program and says what became of them; only StopRequested comes out."""
  config, together = together_config(sweep, unit), _together_folder(workdir, sweep, unit)
  folder_of = {
    (c.seed, c.optimizer.learning_rate): os.path.join(workdir, sweeps.point_name(point))
    for point in unit
    for c in [sweep.config(point)]
  }
  folders = {
    name: folder_of[single.seed, single.optimizer.learning_rate]
    for name, single in assembly.split_runs(config).items()
  }
  name = f'{len(unit)} runs of {_shape(sweep, unit[0]) or sweep.title}'
  os.makedirs(together, exist_ok=True)
  try:
    with _output_to(os.path.join(together, 'log.txt')):
      runs = many_runs.prepare(config, together, folders=folders)
      results = many_runs.train_together(runs, stop_requested=stop_requested)
  except loop.StopRequested:
    raise
  except loop.DivergedError:
    return f'{name}: all diverged'
  except Exception as error:
    unfinished = [f for f in folders.values() if not _is_done_in(f)]
    return f'{name}: failed ({_note_failure(error, together, unfinished)})'
  finished = [100 * result[sweep.metric] for result in results.values() if result]
  diverged = len(unit) - len(finished)
  ends = f'{sweep.metric} {min(finished):.2f} to {max(finished):.2f} %'
  return f'{name}: {len(finished)} finished ({ends})' + f', {diverged} diverged' * bool(diverged)


def _note_failure(error: Exception, log_folder: str, folders: Sequence[str]) -> str:
  """Whatever it is, the other points are to run; the log has the traceback."""
  with open(os.path.join(log_folder, 'log.txt'), 'a', encoding='utf-8') as log:
    traceback.print_exc(file=log)
  message = f'{type(error).__name__}: {error}'
  for folder in folders:
    records.write_status(folder, 'failed', message)
  return message.splitlines()[0]


@contextlib.contextmanager
def _output_to(path: str) -> Iterator[None]:
  """Sends what a run prints and logs to the end of a file; a bar stays on the terminal."""
  console = logging.get_absl_handler()
  with open(path, 'a', encoding='utf-8') as log:
    handler = std_logging.StreamHandler(log)
    handler.setFormatter(command_line.LOG_FORMATTER)
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
