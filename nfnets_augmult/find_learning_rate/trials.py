"""How large a learning rate can be: ramps, short checks, and what follows from their losses.

A ramp raises the learning rate exponentially and shows roughly where training breaks down. Because
a ramp arrives there with a network that is trained already, checks follow: short trainings with the
schedule of the run, at learning rates that differ by factors of 2.
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

# Steps over which a loss is averaged before anything is concluded from it.
WINDOW = 10
# After a sudden start the loss of a sound run may rise for a moment.
SETTLING_STEPS = 20
# Learning rates are checked at the config's own times powers of this, as the paper tunes them.
FACTOR = 2.0
# A mean over a window counts as risen when it exceeds the first one by so many standard errors.
_STANDARD_ERRORS = 4.0
# A check must lower the loss by this share of what the best ramp or check did, or it has collapsed.
_LEARNED_SHARE = 0.3

# From a seed and the learning rate of each step to the loss of each step, before its update. The
# function may stop early where `is_over`, called with the losses so far, says so.
Train = Callable[[int, np.ndarray, Callable[[Sequence[float]], bool]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Ramp:
  """Losses of one seed while the learning rate rises exponentially.

  Attributes:
    seed: of the run.
    learning_rates: float64 `[S]`, of each step that was taken.
    losses: float64 `[S]`, before each update; the last may not be finite.
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
    """What a mean over a window must not exceed: the initial loss and the noise of both means."""
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
    steps: how many were taken.
    highest_loss: highest mean over a window after the first `SETTLING_STEPS`; infinite if a loss
      was not finite.
    last_loss: mean over the last window.
    problem: why it is not stable; '' if it is.
  """

  seed: int
  learning_rate: float
  steps: int
  highest_loss: float
  last_loss: float
  problem: str

  @property
  def is_stable(self) -> bool:
    """Whether nothing went wrong."""
    return not self.problem


def window_means(losses: Sequence[float]) -> np.ndarray:
  """Returns the mean of each window of `WINDOW` successive losses, float64 `[S - WINDOW + 1]`."""
  return np.lib.stride_tricks.sliding_window_view(np.asarray(losses, np.float64), WINDOW).mean(-1)


def make_ramp(train: Train, seed: int, learning_rates: np.ndarray) -> Ramp:
  """Returns what happens on a ramp; it ends where the loss is far above its first values."""

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
  """Returns how a short training goes; it ends as soon as it is found to be unstable.

  It is unstable if a loss is not finite, if after `SETTLING_STEPS` a mean over a window exceeds
  `ramp.limit`, or if it learns next to nothing where other learning rates do: networks without
  normalization can die quietly, and then predict the same for all images.

  Args:
    train: what trains.
    ramp: of the same seed, with which the losses are compared.
    peak: learning rate.
    learning_rates: of each step; their largest is `peak` where the schedule gets that far.
    num_classes: K; a network that predicts the same for all images has a loss of about ln K.
    best_loss: lowest mean over a window that other learning rates reached.
  """
  losses = train(ramp.seed, learning_rates, lambda losses: bool(_rise(losses, ramp.limit)))
  problem = _rise(losses, ramp.limit)
  means = window_means(losses) if np.isfinite(losses).all() else np.array([np.inf])
  settled = means[SETTLING_STEPS:] if len(means) > SETTLING_STEPS else means[-1:]
  if not problem and means[-1] > _dead_above(ramp, num_classes, best_loss):
    problem = f'learned next to nothing in {len(losses)} steps: loss {means[-1]:.3g}'
  return Check(
    seed=ramp.seed,
    learning_rate=peak,
    steps=len(losses),
    highest_loss=float(settled.max()),
    last_loss=float(means[-1]),
    problem=problem,
  )


def _dead_above(ramp: Ramp, num_classes: int, best_loss: float) -> float:
  """The last loss above which a check counts as dead; infinite if no other learning rate learns."""
  noise = ramp.limit - ramp.initial_loss
  if best_loss > ramp.initial_loss - noise:
    return math.inf
  learned = ramp.initial_loss - _LEARNED_SHARE * (ramp.initial_loss - best_loss)
  # Within a standard error of what blind guessing costs.
  chance = math.log(num_classes) - noise / _STANDARD_ERRORS
  return min(learned, chance) if best_loss < chance - noise / 2 else learned


def _rise(losses: Sequence[float], limit: float) -> str:
  """Why the losses so far are those of an unstable run; '' if they are not."""
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

  Goes up from `start` while checks are stable, or down until one is. None if none was. Each check
  is compared with those before it, so start low.

  Args:
    check: makes one.
    start: first learning rate to check.
    low: no smaller ones are checked.
    high: no larger ones are checked.
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


def lower_while_faster(
  checkers: Mapping[int, Callable[[float], Check]],
  checks: Sequence[Check],
  *,
  start: float,
  low: float,
) -> list[Check]:
  """Returns `checks` and those that it takes to find the learning rate that learns most.

  Goes down from `start` as long as the mean of the last losses over all seeds falls.

  Args:
    checkers: makes a check, for each seed.
    checks: made so far; none of them is made again.
    start: first learning rate.
    low: no smaller ones are checked.
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
  """Returns the mean of the last losses by learning rate, of those checked with all `seeds`."""
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
  """Returns the loss of each step from 0 to `steps`, or to the step at which it is over.

  Args:
    advance: see `feeding.Advance`; takes single steps here.
    state: before the first step, NumPy arrays.
    steps: at most so many.
    is_over: called with the losses so far, once for each step.
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
