"""The display of progress: a bar on a terminal, log lines elsewhere."""

import datetime
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from absl import logging


def make_bar(*, total: int, initial: int, unit: str) -> Any:
  """Returns a bar of tqdm if the standard error is a terminal, else None.

  Args:
    total: at the end.
    initial: at the start.
    unit: of which these are numbers.
  """
  if not sys.stderr.isatty():
    return None
  import tqdm

  # Some terminals report zero rows or columns, for which tqdm would draw nothing.
  is_sized = all(os.get_terminal_size(sys.stderr.fileno()))
  return tqdm.tqdm(
    total=total,
    initial=initial,
    unit=unit,
    dynamic_ncols=is_sized,
    ncols=None if is_sized else 100,
    nrows=None if is_sized else 20,
    smoothing=0.05,
  )


class Progress:
  """Reports steps with loss, accuracy, images per second, and when the run will end.

  Attributes:
    name: of the run, a prefix of each line; '' for a single run.
    best: the best test accuracy so far, in `[0, 1]`; None before the first evaluation.
  """

  def __init__(
    self,
    *,
    start_step: int,
    total_steps: int,
    batch_size: int,
    enabled: bool = True,
    name: str = '',
  ):
    """Starts the clock.

    Args:
      start_step: the step to start from.
      total_steps: of the run.
      batch_size: augmented images per step, over all hosts.
      enabled: False for all processes but one.
      name: of the run, a prefix of each line; '' for a single run.
    """
    self.name = name
    self.best: float | None = None
    self._total_steps = total_steps
    self._batch_size = batch_size
    self._enabled = enabled
    self.restart(start_step)
    self._bar = make_bar(total=total_steps, initial=start_step, unit='step') if enabled else None

  def restart(self, step: int) -> None:
    """Measures speed and time left from `step` on, as after compilation."""
    self.reset_clock(step)
    self._first_step, self._first_time = self._clock_step, self._clock_time

  def reset_clock(self, step: int, at: float | None = None) -> None:
    """Measures speed from `step` on, as after a record or an evaluation.

    Args:
      step: that is done.
      at: when it was, by `time.monotonic`; None for now.
    """
    self._clock_step = step
    self._clock_time = time.monotonic() if at is None else at

  def images_per_second(self, step: int, at: float | None = None) -> float:
    """Augmented images per second since the clock was reset; the arguments as of `reset_clock`."""
    elapsed = (time.monotonic() if at is None else at) - self._clock_time
    return (step - self._clock_step) * self._batch_size / max(elapsed, 1e-9)

  def seconds_left(self, step: int, at: float | None = None) -> float:
    """Estimates the seconds from `step` to the end, with evaluations as frequent as so far.

    Args:
      step: that is done.
      at: as of `reset_clock`.
    """
    elapsed = (time.monotonic() if at is None else at) - self._first_time
    return (self._total_steps - step) * elapsed / max(step - self._first_step, 1)

  def advance(self, step: int, metrics: Mapping[str, float], at: float | None = None) -> None:
    """Moves the bar, if there is one, to `step`; `at` as of `reset_clock`."""
    if self._bar is not None:
      self._bar.update(step - self._bar.n)
      end = f'ends {format_end(self.seconds_left(step, at))}, ' if step > self._first_step else ''
      best = '' if self.best is None else f'best test {100 * self.best:.2f} %, '
      self._bar.set_postfix_str(
        f'{end}{best}loss {metrics["loss"]:.4f}, accuracy {metrics["accuracy"]:.3f}, '
        f'{self.images_per_second(step, at):,.0f} images/s',
        refresh=False,
      )

  def log_step(
    self, step: int, metrics: Mapping[str, float], speed: float, at: float | None = None
  ) -> None:
    """Logs a line about training, unless there is a bar.

    Args:
      step: that is done.
      metrics: means since the last line.
      speed: images per second.
      at: as of `reset_clock`.
    """
    if self._enabled and self._bar is None:
      left = self.seconds_left(step, at)
      logging.info(
        '%sstep %d of %d: loss %.4f, accuracy %.3f, %.0f images/s, %s left, ends %s%s',
        self._prefix(),
        step,
        self._total_steps,
        metrics['train/loss'],
        metrics['train/accuracy'],
        speed,
        format_duration(left),
        format_end(left),
        '' if self.best is None else f', best test accuracy {100 * self.best:.2f} %',
      )

  def say(self, text: str) -> None:
    """Prints a line, above the bar if there is one."""
    if self._enabled and self._bar is not None:
      self._bar.write(f'{self._prefix()}{text}', file=sys.stderr)
    elif self._enabled:
      logging.info('%s%s', self._prefix(), text)

  def _prefix(self) -> str:
    return f'{self.name}: ' if self.name else ''

  def close(self) -> None:
    """Ends the bar."""
    if self._bar is not None:
      self._bar.close()


def format_duration(seconds: float) -> str:
  """Returns hours, minutes and seconds, as `'1:02:03'`."""
  minutes, seconds = divmod(round(seconds), 60)
  return f'{minutes // 60}:{minutes % 60:02}:{seconds:02}'


def format_end(seconds: float) -> str:
  """Returns the time of the clock in so many seconds, `'17:05'`; on another day with the date."""
  now = datetime.datetime.now().astimezone()
  try:
    end = now + datetime.timedelta(seconds=seconds)
  except OverflowError:
    return 'in more than a thousand years'
  return f'{end:%H:%M}' if end.date() == now.date() else f'{end:%Y-%m-%d %H:%M}'
