"""Measures the speed, chooses the size of the runs, and runs them until the time is over.

Several processes may work in one folder: each takes the next run that no other one has.
"""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from nfnets_augmult.models import table
from nfnets_augmult.reproduce.design import Design
from nfnets_augmult.sweep import grid, running
from nfnets_augmult.training import records
from nfnets_augmult.training.progress import format_duration
from nfnets_augmult.training.watch import StopRequested

RUNS, SPEED, PLAN = 'runs', 'speed', 'plan.json'
# Steps of a measurement, and how many of them are timed together.
_MEASURED_STEPS, _STEPS_PER_RECORD = 250, 50
_SECONDS_BETWEEN_LOOKS = 0.5
# Of a run that has diverged, below any accuracy.
_DIVERGED = -1.0


class FailedError(ValueError):
  """A run has failed, so that the comparison cannot go on."""


def work(
  design: Design,
  workdir: str,
  *,
  seconds: float,
  stop_requested: Callable[[], bool],
) -> bool:
  """Runs what is to be run; returns whether all is done.

  Args:
    design: what to run.
    workdir: of all processes; an earlier start may have left runs there.
    seconds: that are left; the size of the runs is chosen by them at the first start.
    stop_requested: called between steps; if it is true, the run is saved.

  Raises:
    FailedError: a run failed.
    ValueError: `workdir` holds other runs.
  """
  until = time.monotonic() + seconds
  plan_path, folder = os.path.join(workdir, PLAN), os.path.join(workdir, RUNS)
  running.cache_compiled_programs(workdir)
  try:
    while not stop_requested():
      with records.lock_workdir(workdir) as is_ours:
        if is_ours:
          plan = records.read_object(plan_path)
          if plan is None:
            plan = _make_plan(design, workdir, until, stop_requested)
            records.write_json(plan_path, plan)
          points, is_all = design.points(_outcome(folder))
          sweep = design.sweep(plan['size'], points)
          grid.describe(sweep, folder)
      if is_ours and is_all:
        return True
      if not is_ours or not _run_some(sweep, folder, stop_requested):
        time.sleep(_SECONDS_BETWEEN_LOOKS)
  except StopRequested:
    pass
  return False


def _run_some(sweep: grid.Sweep, folder: str, stop_requested: Callable[[], bool]) -> bool:
  """Runs the points that are neither done nor another process's; returns whether there were any."""
  outcome = _outcome(folder)
  todo = [[point] for point in sweep.points if outcome(point) is None]
  running.check(sweep, [point for (point,) in todo], folder)
  tally = running.run_sweep(sweep, todo, folder, stop_requested=stop_requested)
  if tally.counts.get('failed'):
    raise FailedError(f'a run in {folder} failed; its status.json and log.txt say why')
  return bool(tally.costs_and_seconds)


def _outcome(folder: str) -> Callable[[grid.Point], float | None]:
  def outcome(point: grid.Point) -> float | None:
    run = os.path.join(folder, grid.point_name(point))
    status, _ = records.read_status(run)
    if status == 'diverged':
      return _DIVERGED
    result = records.read_object(os.path.join(run, 'result.json'))
    return None if result is None else result[grid.Sweep.metric]

  return outcome


def _make_plan(
  design: Design, workdir: str, until: float, stop_requested: Callable[[], bool]
) -> dict[str, Any]:
  """Measures the speed of the smallest runs, and chooses the size that fits into the time."""
  images_per_second = _measure(design, os.path.join(workdir, SPEED), stop_requested)
  costs = [_cost(design, size) for size in design.sizes]
  # Larger networks and batches do not use a device worse.
  cost_per_second = images_per_second * _cost_per_image(design, design.sizes[0])
  seconds_per_run = [cost / cost_per_second for cost in costs]
  left = until - time.monotonic()
  size = design.choose_size(seconds_per_run, left)
  seconds = seconds_per_run[list(design.sizes).index(size)]
  values = ', '.join(f'{key}={value}' for key, value in size.items())
  others = [*map(str, design.augmults[2:]), *(f'{n} neighbouring' for n in design.neighbouring)]
  running.say(
    f'{images_per_second:,.0f} augmented images/s for the smallest runs, {left:,.0f} s left\n'
    f'size: {values}; about {seconds:,.0f} s for each run, {format_duration(left)} for '
    f'{left / seconds:,.0f} of them\n'
    f'order: learning rates of n = {design.augmults[0]} and {design.augmults[1]} with seed 0, then '
    f'pairs of runs with seeds 1, 2 ...; then n = {", ".join(others)}'
  )
  return {
    'size': dict(size),
    'images_per_second': images_per_second,
    'seconds_per_run': seconds,
    'seconds_left': left,
  }


def _measure(design: Design, folder: str, stop_requested: Callable[[], bool]) -> float:
  """Returns augmented images per second of a short run of the smallest size."""
  keys = {
    'augmult': design.augmults[0],
    'optimizer.learning_rate': min(design.learning_rates) / 2,
    'total_steps': _MEASURED_STEPS,
    'log_every_steps': _STEPS_PER_RECORD,
  }
  sweep = design.sweep(design.sizes[0], [keys])
  grid.describe(sweep, folder)
  running.check(sweep, sweep.points, folder)
  tally = running.run_sweep(sweep, [[keys]], folder, stop_requested=stop_requested)
  run = os.path.join(folder, grid.point_name(keys))
  if not tally.counts.get('finished'):
    raise FailedError(f'the speed cannot be measured: {": ".join(records.read_status(run))}')
  recorded = records.read_metrics(os.path.join(run, 'metrics.jsonl'))
  speeds = [r['images_per_second'] for r in recorded if 'images_per_second' in r]
  # The time of the first record includes compilation.
  return len(speeds[1:]) / sum(1 / speed for speed in speeds[1:])


def _cost(design: Design, size: Mapping[str, Any]) -> float:
  """Multiply-adds of the forward passes of a run."""
  return size['total_steps'] * size['batch_size'] * _cost_per_image(design, size)


def _cost_per_image(design: Design, size: Mapping[str, Any]) -> int:
  return table.model_row(size.get('model.name', design.base['model']['name'])).train_multiply_adds
