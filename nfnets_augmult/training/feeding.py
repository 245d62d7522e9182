"""Feeding steps with batches from the host, or with batches made on the devices.

Either way the loop gets an `Advance`, a function that trains from one step to a later one.
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

# From (replicated state, step, stop) to the state after the steps `step` to `stop - 1` and their
# metrics, `[D]` of one step or `[D, K]`, of which the first `stop - step` are valid. Donates the
# state and is asynchronous.
Advance = Callable[[TrainState, int, int], tuple[TrainState, Metrics]]

# From (state, batch, key) to the next state and metrics, on one device; see `make_train_step`.
TrainStep = Callable[[TrainState, dict[str, jax.Array], jax.Array], tuple[TrainState, Metrics]]


def make_host_advance(
  train_step: Callable[..., tuple[TrainState, Metrics]],
  *,
  key: jax.Array,
  batches: Iterator[Any],
  place: Callable[[Any], Any] = devices.place_batch,
) -> Advance:
  """Returns an `Advance` of one step at a time, with this host's `batches`.

  Args:
    train_step: of one device; compiled for all of them here. It takes a batch as placed.
    key: PRNG key of the steps.
    batches: from the first step on.
    place: transfers a batch to the devices, asynchronously.
  """
  update = devices.on_each_device(train_step, donate_state=True)
  key = devices.replicate(key)
  placed = devices.prefetch(batches, place=place)

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
  """Returns an `Advance` of up to `most_steps` steps, whose batches are made on the devices.

  Args:
    one_step: from (state, images, *constants) to state and metrics, on one device.
    constants: trees on the devices, with a leading axis of them.
    images: from a step to the unique images of its batch.
    most_steps: K; the program is compiled once, for any number of steps up to K. With K = 1 it has
      no loop, and its rounding may differ.
  """
  if most_steps == 1:
    update_once = devices.on_each_device(one_step, donate_state=True)

    def advance_once(state: Any, step: int, stop: int) -> tuple[Any, Metrics]:
      assert stop == step + 1
      return update_once(state, devices.replicate(to_int32(images(step))), *constants)

    return advance_once

  update = devices.on_each_device(multi_step(one_step), donate_state=True)

  def advance(state: Any, step: int, stop: int) -> tuple[Any, Metrics]:
    # Always K entries, so that there is one program; entries past the end are not used.
    stacked = stack_images([images(min(s, stop - 1)) for s in range(step, step + most_steps)])
    arguments = devices.replicate((to_int32(stacked), np.int32(stop - step)))
    return update(state, *arguments, *constants)

  return advance


def with_batch_made(
  train_step: TrainStep, make_batch: Callable[[Any, Images], dict[str, jax.Array]]
) -> Callable[..., tuple[TrainState, Metrics]]:
  """Returns a step of (state, images, data, key), with the batch `make_batch(data, images)`."""

  def one_step(
    state: TrainState, images: Images, data: Any, key: jax.Array
  ) -> tuple[TrainState, Metrics]:
    return train_step(state, make_batch(data, images), key)

  return one_step


def multi_step(one_step: Callable[..., tuple[Any, Metrics]]) -> Callable[..., tuple[Any, Metrics]]:
  """Returns a function that takes several steps in one program.

  It maps (state, inputs, count, *rest) to the last state and metrics with a leading axis K, 0 for
  steps not taken. Leaves of `inputs` have a leading axis K of steps, `count` is an int32 scalar up
  to K, and `rest` is the same for every step. As `count` is traced, every step runs the same
  instructions however steps are split into dispatches.

  Args:
    one_step: from (state, inputs, *rest) to state and metrics.
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
  """Stacks the images of several steps or runs."""
  return jax.tree.map(lambda *arrays: np.stack(arrays), *images)


def to_int32(images: Images) -> Images:
  """Casts the image indices to int32, for the devices."""
  return images._replace(image_index=images.image_index.astype(np.int32))


def loops_are_slow() -> bool:
  """Whether this backend should not run several steps in one program.

  On CPU, XLA runs convolutions within a loop many times slower than outside: 15 times, measured
  with jaxlib 0.10 on a Wide-ResNet, for any number of iterations.
  """
  return jax.default_backend() == 'cpu'
