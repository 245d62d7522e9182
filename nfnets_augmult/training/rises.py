"""Detects jumps of the training loss that stay finite."""

import collections
from typing import NamedTuple

import numpy as np

_RECENT_STEPS = 5  # steps over which the current loss is averaged
_LEVEL_STEPS = 100  # steps before them whose median is the level
_MIN_LEVEL_STEPS = 50
_RISE_FACTOR = 3.0  # a jump is to at least this many times the level
# Share of the initial loss that a jump must exceed: late in a run the loss is close to 0, and a
# single hard batch has many times its level.
_SHARE_OF_START = 0.3


class Rise(NamedTuple):
  """A jump of the loss: its mean over the last few steps, and its level before."""

  loss: float
  level: float


class RiseDetector:
  """Detects the first jump of a loss to several times its level; later ones are not reported."""

  def __init__(self):
    self._losses = collections.deque(maxlen=_LEVEL_STEPS + _RECENT_STEPS)
    self._start: list[float] = []
    self._is_done = False

  def add(self, loss: float) -> Rise | None:
    """Adds the loss of the next step, and returns the jump if it is detected now."""
    self._losses.append(loss)
    if len(self._start) < 2 * _RECENT_STEPS:
      self._start.append(loss)
    if self._is_done or len(self._losses) < _MIN_LEVEL_STEPS + _RECENT_STEPS:
      return None
    losses = np.array(self._losses)
    recent = float(losses[-_RECENT_STEPS:].mean())
    level = float(np.median(losses[:-_RECENT_STEPS]))
    if recent <= _RISE_FACTOR * level or recent <= _SHARE_OF_START * np.mean(self._start):
      return None
    self._is_done = True
    return Rise(recent, level)
