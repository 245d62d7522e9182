"""How steps get their batches: from the host, or made on the devices, several in one dispatch.

Either way the loop gets an `Advance`, a function that takes the run from one step to a later one.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nfnets_augmult.data.multiplicity import Images
from nfnets_augmult.training import devices
from nfnets_augmult.training.state import TrainState
from nfnets_augmult.training.step import Metrics

# From a replicated state, its step and the step to stop before to the state there and the metrics
# of the steps in between, `[D]` of one step or `[D, K]`, of which the first `stop - step` count.
# Donates the state, and returns before anything is computed.
Advance = Callable[[TrainState, int, int], tuple[TrainState, Metrics]]

# From state, batch and key to the next state and metrics, on one device; see `make_train_step`.
TrainStep = Callable[[TrainState, dict[str, jax.Array], jax.Array], tuple[TrainState, Metrics]]


def make_host_advance(
  train_step: TrainStep, *, key: jax.Array, batches: Iterator[dict[str, np.ndarray]]
) -> Advance:
  """Returns an `Advance` by one step at a time, each with the next of this host's `batches`.

  Args:
    train_step: of one device; compiled for all of them here.
    key: PRNG key of the steps.
    batches: from the first step that is asked for.
  """
  update = devices.on_each_device(train_step, donate_state=True)
  key = devices.replicate(key)
  placed = devices.prefetch(batches)

  def advance(state: TrainState, step: int, stop: int) -> tuple[TrainState, Metrics]:
    assert stop == step + 1
    return update(state, next(placed), key)

  return advance


def make_device_advance(
  one_step: Callable[..., tuple[Any, Metrics]],
  *,
  constants: tuple[Any, ...],
  images: Callable[[int], Images],
  most_steps: int,
) -> Advance:
  """Returns an `Advance` by up to `most_steps` steps, whose batches are made on the devices.

  Args:
    one_step: from state, images and `constants` to state and metrics, on one device.
    constants: trees with a leading axis of devices, placed on them.
    images: from a step to the unique images of its batch.
    most_steps: K; the program is compiled once, for any number of steps up to it. Of one step it
      has no loop, and its rounding may differ.
  """
  if most_steps == 1:
    update_once = devices.on_each_device(one_step, donate_state=True)

    def advance_once(state: Any, step: int, stop: int) -> tuple[Any, Metrics]:
      assert stop == step + 1
      return update_once(state, devices.replicate(to_int32(images(step))), *constants)

    return advance_once

  update = devices.on_each_device(multi_step(one_step), donate_state=True)

  def advance(state: Any, step: int, stop: int) -> tuple[Any, Metrics]:
    # Always K entries, so that there is one program: those past the end are never looked at.
    stacked = stack_images([images(min(s, stop - 1)) for s in range(step, step + most_steps)])
    arguments = devices.replicate((to_int32(stacked), np.int32(stop - step)))
    return update(state, *arguments, *constants)

  return advance


def with_batch_made(
  train_step: TrainStep, make_batch: Callable[[Any, Images], dict[str, jax.Array]]
) -> Callable[..., tuple[TrainState, Metrics]]:
  """Returns `train_step` of state, images, data and key; `make_batch(data, images)` the batch."""

  def one_step(
    state: TrainState, images: Images, data: Any, key: jax.Array
  ) -> tuple[TrainState, Metrics]:
    return train_step(state, make_batch(data, images), key)

  return one_step


def multi_step(one_step: Callable[..., tuple[Any, Metrics]]) -> Callable[..., tuple[Any, Metrics]]:
  """Returns a function that takes several steps, one after the other, in one program.

  Its arguments are the state; the inputs, trees whose leaves have a leading axis K of steps; an
  int32 scalar, how many of them to take; and what else `one_step` takes, the same for every step.
  It returns the last state and metrics with a leading axis K, 0 where no step was taken. As the
  number is not compiled in, any sequence of dispatches runs the same instructions for a step.

  Args:
    one_step: from state, inputs and the rest to state and metrics.
  """

  def steps(state: Any, inputs: Any, count: jax.Array, *rest: Any) -> tuple[Any, Metrics]:
    def take(index: jax.Array, carry: tuple[Any, Metrics]) -> tuple[Any, Metrics]:
      state, metrics = carry
      state, values = one_step(state, jax.tree.map(lambda x: x[index], inputs), *rest)
      return state, jax.tree.map(lambda all, one: all.at[index].set(one), metrics, values)

    most_steps = len(jax.tree.leaves(inputs)[0])
    first = jax.tree.map(lambda x: x[0], inputs)
    _, shapes = jax.eval_shape(one_step, state, first, *rest)
    metrics = jax.tree.map(lambda s: jnp.zeros((most_steps, *s.shape), s.dtype), shapes)
    return jax.lax.fori_loop(0, count, take, (state, metrics))

  return steps


def stack_images(images: Sequence[Images]) -> Images:
  """Returns the images of several steps, or of several runs, with a leading axis."""
  return jax.tree.map(lambda *arrays: np.stack(arrays), *images)


def to_int32(images: Images) -> Images:
  """Returns `images` in the dtypes of devices, which count in 32 bits."""
  return images._replace(image_index=images.image_index.astype(np.int32))


def loops_are_slow() -> bool:
  """Whether this backend should not have several steps in one program.

  XLA runs the convolutions of a loop many times slower than those outside on CPUs (15 times slower,
  measured with jaxlib 0.10 on a Wide-ResNet), whatever the number of rounds.
  """
  return jax.default_backend() == 'cpu'
