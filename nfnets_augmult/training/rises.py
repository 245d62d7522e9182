"""Noticing that the loss of a run has jumped without becoming infinite."""

import collections
from typing import NamedTuple

import numpy as np

_NOW = 5  # steps over which the present loss is averaged
_BEFORE = 100  # steps before them whose median is the level
_LEAST = 50  # steps that a level takes
_TIMES = 3.0  # what counts as several times the level
# Late in a run the loss is close to 0, and a single hard batch is many times its level.
_SHARE_OF_START = 0.3


class Rise(NamedTuple):
  """A jump of the loss: its mean over the last few steps, and the level that it had before."""

  loss: float
  level: float


class RiseDetector:
  """Finds the first jump of a loss to several times its level; later ones are not reported."""

  def __init__(self):
    self._losses = collections.deque(maxlen=_BEFORE + _NOW)
    self._start: list[float] = []
    self._is_done = False

  def add(self, loss: float) -> Rise | None:
    """Takes the loss of the next step, and returns the rise that it completes, if any."""
    self._losses.append(loss)
    if len(self._start) < 2 * _NOW:
      self._start.append(loss)
    if self._is_done or len(self._losses) < _LEAST + _NOW:
      return None
    recent = np.array(self._losses)
    now, level = float(recent[-_NOW:].mean()), float(np.median(recent[:-_NOW]))
    if now <= _TIMES * level or now <= _SHARE_OF_START * np.mean(self._start):
      return None
    self._is_done = True
    return Rise(now, level)
