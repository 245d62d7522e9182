"""Learning rates as functions of the step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from nfnets_augmult.ops.checks import LARGEST_COUNT, check_choice, check_int, check_number

# Above this `halving` would overflow int32.
MOST_STEPS = LARGEST_COUNT // 20

# From the zero-based step, an integer array, to the learning rate, a float32 scalar.
Schedule = Callable[[jax.Array], jax.Array]


def cosine(learning_rate: float, *, total_steps: int, warmup_steps: int = 0) -> Schedule:
  """Returns linear warm-up from 0 to `learning_rate`, then a half cosine to 0 at `total_steps`.

  Stays 0 past the end. Source: Loshchilov & Hutter 2016; Goyal et al. 2017 for the warm-up.
  """

  def schedule(step: jax.Array) -> jax.Array:
    step = jnp.asarray(step, jnp.float32)
    decay_steps = max(total_steps - warmup_steps, 1)
    progress = jnp.clip((step - warmup_steps) / decay_steps, 0.0, 1.0)
    decayed = 0.5 * learning_rate * (1.0 + jnp.cos(jnp.pi * progress))
    return jnp.where(step < warmup_steps, learning_rate * step / max(warmup_steps, 1), decayed)

  return schedule


def halving(learning_rate: float, *, total_steps: int, warmup_steps: int = 0) -> Schedule:
  """Returns the schedule of the paper's CIFAR experiments (Section 2).

  Constant for the first half of the run, then halved at the end of every further twentieth, so
  that the last twentieth runs at `learning_rate / 2**9`. The schedule is multiplied by a linear
  warm-up, which the paper does not use here.
  """

  def schedule(step: jax.Array) -> jax.Array:
    # Integers, for exact boundaries.
    twentieths = jnp.asarray(step, jnp.int32) * 20 // total_steps
    halvings = jnp.clip(twentieths - 10, 0, 9).astype(jnp.float32)
    warmup = jnp.minimum(jnp.asarray(step, jnp.float32) / max(warmup_steps, 1), 1.0)
    return learning_rate * jnp.exp2(-halvings) * (warmup if warmup_steps else 1.0)

  return schedule


def constant(learning_rate: float, *, total_steps: int, warmup_steps: int = 0) -> Schedule:
  """Returns linear warm-up, then a constant `learning_rate`."""
  del total_steps

  def schedule(step: jax.Array) -> jax.Array:
    warmup = jnp.minimum(jnp.asarray(step, jnp.float32) / max(warmup_steps, 1), 1.0)
    return learning_rate * (warmup if warmup_steps else jnp.ones(()))

  return schedule


SCHEDULES = {'cosine': cosine, 'halving': halving, 'constant': constant}


def make_schedule(
  name: str, learning_rate: float, *, total_steps: int, warmup_steps: int = 0
) -> Schedule:
  """Returns the schedule `name` of `SCHEDULES`.

  Args:
    name: `'cosine'`, `'halving'` or `'constant'`.
    learning_rate: the peak, > 0.
    total_steps: length of the run, at most `MOST_STEPS`.
    warmup_steps: length of the linear warm-up, less than `total_steps`.

  Raises:
    ValueError: unknown name, a learning rate that is not positive, or too many steps.

  Example:
    >>> from nfnets_augmult import make_schedule
    >>> schedule = make_schedule('halving', 0.5, total_steps=20)
    >>> [float(schedule(step)) for step in (0, 10, 11, 12)]
    [0.5, 0.5, 0.25, 0.125]
  """
  check_choice('name', name, SCHEDULES)
  check_number('learning_rate', learning_rate, above=0)
  check_int('total_steps', total_steps, least=1, most=MOST_STEPS)
  check_int('warmup_steps', warmup_steps)
  if warmup_steps >= total_steps:
    raise ValueError(
      f'warmup_steps={warmup_steps} must be fewer than the {total_steps} steps of the run'
    )
  return SCHEDULES[name](learning_rate, total_steps=total_steps, warmup_steps=warmup_steps)
