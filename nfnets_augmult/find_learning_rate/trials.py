"""Trials of the learning-rate finder: ramps and short checks.

A ramp raises the learning rate exponentially and shows roughly where training breaks down. As it
gets there with a trained network, checks follow: short trainings with the schedule of the run, at
learning rates that differ by factors of 2.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from nfnets_augmult.training import devices
from nfnets_augmult.training.feeding import Advance

# Steps over which losses are averaged.
WINDOW = 10
# Without a warm-up the loss of a stable run may rise at first.
SETTLING_STEPS = 20
# Checked learning rates are the config's times powers of this, as in the paper.
FACTOR = 2.0
# The loss has risen if a window mean exceeds the first one by so many standard errors.
_STANDARD_ERRORS = 4.0
# A check must lower the loss by at least this share of the largest decrease of a ramp or check.
_LEARNED_SHARE = 0.3

# From (seed, learning rates, is_over) to the loss of each step, before its update. Stops early if
# `is_over`, called with the losses so far, is true.
Train = Callable[[int, np.ndarray, Callable[[Sequence[float]], bool]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Ramp:
  """Losses of one seed while the learning rate rises exponentially.

  Attributes:
    seed: of the run.
    learning_rates: float64 `[S]`, of each step.
    losses: float64 `[S]`, before each update; the last may be infinite or NaN.
  """

  seed: int
  learning_rates: np.ndarray
  losses: np.ndarray

  @property
  def initial_loss(self) -> float:
    """Mean over the first window, while the learning rate is too small to matter."""
    return float(np.mean(self.losses[:WINDOW]))

  @property
  def limit(self) -> float:
    """Largest window mean of a stable run: the initial loss plus the noise of both means."""
    spread = float(np.std(self.losses[:WINDOW], ddof=1))
    return self.initial_loss + _STANDARD_ERRORS * spread * math.sqrt(2 / WINDOW)

  @property
  def best(self) -> tuple[float, float]:
    """The learning rate at the end of the window with the lowest mean, and that mean."""
    means = window_means(self.losses)
    lowest = int(np.nanargmin(means))
    return float(self.learning_rates[lowest + WINDOW - 1]), float(means[lowest])

  @property
  def breakdown(self) -> float | None:
    """The learning rate at which the loss has risen above the limit; None if it never did."""
    is_over = ~(window_means(self.losses) <= self.limit)
    if not is_over.any():
      return None
    return float(self.learning_rates[int(np.argmax(is_over)) + WINDOW - 1])


@dataclasses.dataclass(frozen=True)
class Check:
  """A short training of one seed at one peak learning rate.

  Attributes:
    seed: of the run.
    learning_rate: the peak.
    steps: number of steps.
    highest_loss: highest mean over a window after the first `SETTLING_STEPS`; infinite if a loss
      was not finite.
    last_loss: mean over the last window.
    problem: why it is unstable; '' if it is stable.
  """

  seed: int
  learning_rate: float
  steps: int
  highest_loss: float
  last_loss: float
  problem: str

  @property
  def is_stable(self) -> bool:
    """Whether there is no problem."""
    return not self.problem


def window_means(losses: Sequence[float]) -> np.ndarray:
  """Returns the mean of each window of `WINDOW` successive losses, float64 `[S - WINDOW + 1]`."""
  return np.lib.stride_tricks.sliding_window_view(np.asarray(losses, np.float64), WINDOW).mean(-1)


def make_ramp(train: Train, seed: int, learning_rates: np.ndarray) -> Ramp:
  """Trains on a ramp, which ends when the loss is far above its initial value."""

  def is_over(losses: Sequence[float]) -> bool:
    if not math.isfinite(losses[-1]):
      return True
    return len(losses) >= 2 * WINDOW and np.mean(losses[-WINDOW:]) > 2 * np.mean(losses[:WINDOW])

  losses = train(seed, learning_rates, is_over)
  return Ramp(seed, learning_rates[: len(losses)], losses)


def make_check(
  train: Train,
  ramp: Ramp,
  peak: float,
  learning_rates: np.ndarray,
  *,
  num_classes: int,
  best_loss: float,
) -> Check:
  """Trains for a few steps, which end as soon as the check is unstable.

  It is unstable if a loss is not finite, if after `SETTLING_STEPS` a window mean exceeds
  `ramp.limit`, or if it learns next to nothing where other learning rates do: networks without
  normalization can collapse to equal predictions for all images with a finite loss.

  Args:
    train: see `Train`.
    ramp: of the same seed, for comparison of the losses.
    peak: learning rate.
    learning_rates: of each step, up to `peak`.
    num_classes: K; a network that predicts the same for all images has a loss of about ln K.
    best_loss: lowest window mean at other learning rates.
  """
  losses = train(ramp.seed, learning_rates, lambda losses: bool(_rise(losses, ramp.limit)))
  problem = _rise(losses, ramp.limit)
  means = window_means(losses) if np.isfinite(losses).all() else np.array([np.inf])
  settled = means[SETTLING_STEPS:] if len(means) > SETTLING_STEPS else means[-1:]
  if not problem and means[-1] > _collapse_loss(ramp, num_classes, best_loss):
    problem = f'learned next to nothing in {len(losses)} steps: loss {means[-1]:.3g}'
  return Check(
    seed=ramp.seed,
    learning_rate=peak,
    steps=len(losses),
    highest_loss=float(settled.max()),
    last_loss=float(means[-1]),
    problem=problem,
  )


def _collapse_loss(ramp: Ramp, num_classes: int, best_loss: float) -> float:
  """Returns the last loss above which a check has collapsed; infinite if none learns."""
  noise = ramp.limit - ramp.initial_loss
  if best_loss > ramp.initial_loss - noise:
    return math.inf
  learned = ramp.initial_loss - _LEARNED_SHARE * (ramp.initial_loss - best_loss)
  # Within a standard error of the loss of guessing.
  chance = math.log(num_classes) - noise / _STANDARD_ERRORS
  return min(learned, chance) if best_loss < chance - noise / 2 else learned


def _rise(losses: Sequence[float], limit: float) -> str:
  """Returns why the losses so far are unstable; '' if they are stable."""
  if not math.isfinite(losses[-1]):
    return f'the loss of step {len(losses)} is {losses[-1]:g}'
  if len(losses) >= SETTLING_STEPS + WINDOW and np.mean(losses[-WINDOW:]) > limit:
    return (
      f'the loss rose to {np.mean(losses[-WINDOW:]):.3g} at step {len(losses)}, above its initial '
      'value'
    )
  return ''


def find_largest_stable(
  check: Callable[[float], Check], *, start: float, low: float, high: float
) -> tuple[float | None, list[Check]]:
  """Returns the largest stable learning rate `start * FACTOR**k` and all checks that were made.

  Goes up from `start` while checks are stable, or down until one is; None if none is. As checks are
  compared with those before them, `start` should be low.

  Args:
    check: from a learning rate to its check.
    start: first learning rate to check.
    low: smallest learning rate to check.
    high: largest learning rate to check.
  """
  checks = [check(start)]
  if checks[0].is_stable:
    while checks[-1].is_stable and checks[-1].learning_rate * FACTOR <= high:
      checks.append(check(checks[-1].learning_rate * FACTOR))
  else:
    while not checks[-1].is_stable and checks[-1].learning_rate / FACTOR >= low:
      checks.append(check(checks[-1].learning_rate / FACTOR))
  stable = [c.learning_rate for c in checks if c.is_stable]
  return max(stable, default=None), checks


def find_fastest(
  checkers: Mapping[int, Callable[[float], Check]],
  checks: Sequence[Check],
  *,
  start: float,
  low: float,
) -> list[Check]:
  """Searches for the learning rate of lowest last loss; returns `checks` and the new ones.

  Goes down from `start` while the mean of the last losses over all seeds falls.

  Args:
    checkers: from a learning rate to its check, by seed.
    checks: made so far; they are not repeated.
    start: first learning rate.
    low: smallest learning rate to check.
  """
  all_checks = list(checks)
  rate, lowest = start, math.inf
  while rate >= low:
    done = {check.seed for check in all_checks if check.learning_rate == rate}
    all_checks += [check(rate) for seed, check in checkers.items() if seed not in done]
    loss = mean_last_losses(all_checks, seeds=len(checkers))[rate]
    if not loss < lowest:
      break
    rate, lowest = rate / FACTOR, loss
  return all_checks


def mean_last_losses(checks: Sequence[Check], *, seeds: int) -> dict[float, float]:
  """Returns the mean last loss by learning rate, of those checked with all `seeds`."""
  by_rate: dict[float, list[float]] = {}
  for check in checks:
    by_rate.setdefault(check.learning_rate, []).append(check.last_loss)
  return {rate: float(np.mean(losses)) for rate, losses in by_rate.items() if len(losses) == seeds}


def largest_on_grid(most: float, *, origin: float) -> float:
  """Returns the largest `origin * FACTOR**k` that is at most `most`."""
  rate = nearest_on_grid(most, origin=origin)
  return rate if rate <= most * (1 + 1e-9) else rate / FACTOR


def nearest_on_grid(learning_rate: float, *, origin: float) -> float:
  """Returns the `origin * FACTOR**k` that is nearest to `learning_rate` in ratio."""
  power = round(math.log(learning_rate / origin, FACTOR))
  return origin * FACTOR**power


def collect_losses(
  advance: Advance,
  state: Any,
  *,
  steps: int,
  is_over: Callable[[Sequence[float]], bool],
) -> np.ndarray:
  """Returns the loss of each step from 0 to `steps`, or until `is_over`.

  Args:
    advance: see `feeding.Advance`; takes single steps here.
    state: before the first step, NumPy arrays.
    steps: largest number of steps.
    is_over: called with the losses so far, after each step.
  """
  losses: list[float] = []
  in_flight = collections.deque()
  state = devices.replicate(state)
  for step in range(steps):
    state, metrics = advance(state, step, step + 1)
    in_flight.append(metrics['loss'])
    is_last = step + 1 == steps
    while in_flight and (is_last or len(in_flight) > devices.max_steps_in_flight()):
      losses.append(float(np.ravel(devices.first_replica(in_flight.popleft()))[0]))
      if is_over(losses):
        jax.block_until_ready(state)
        return np.array(losses)
  return np.array(losses)
