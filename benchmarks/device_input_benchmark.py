"""What it costs a step to make its batch on the device, against a batch that lies there ready."""

import statistics
import time

import jax

from benchmarks.random_images import as_batch, random_source
from nfnets_augmult.runs import batches
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import devices, feeding
from nfnets_augmult.training.state import TrainState


def compare(run: Run, *, steps: int = 10, rounds: int = 5) -> dict[str, float]:
  """Trains both ways in turn, in rounds of `steps` steps after one to warm up.

  Args:
    run: on images of 3 channels that are held in memory, with batches made on the device.
    steps: of each way in a round.
    rounds: how many.

  Returns:
    `steps_per_dispatch` as used: 1 where loops are slow. Medians: `images_per_second` of batches
    made on the device, `resident_images_per_second` of one random batch that lies there, and
    `ratio`, of a round's first over its second, with `ratio_min` and `ratio_max`.

  Raises:
    ValueError: the run makes its batches elsewhere, or see `Run.prepare`.
  """
  if not run.settings.is_device_input:
    raise ValueError("input='tf.data' makes batches on the host; say --config.input=device")
  run.prepare()
  train_step, multiplicity = run.make_train_step(), run.plan.multiplicity
  steps_per_dispatch = batches.steps_per_dispatch(run.settings)
  restart = batches.make_restart(
    run.settings, run.data.train, multiplicity, train_step, total_steps=run.plan.total_steps
  )
  made = restart(run.key, multiplicity=multiplicity, start_step=0)
  batch_size, num_classes = multiplicity.batch_size, len(run.data.train.class_names)
  batch = random_source(batch_size, run.data.image_shape[0], num_classes)
  first_images = multiplicity.images(0)
  resident = feeding.make_device_advance(
    feeding.with_batch_made(train_step, lambda batch, images: batch),
    constants=(devices.place_batch(as_batch(batch)), devices.replicate(run.key)),
    images=lambda step: first_images,
    most_steps=steps_per_dispatch,
  )
  first_state = jax.device_get(run.network.initial_state(run.parameters_key))
  ways = {'made': made, 'resident': resident}
  states = {name: devices.replicate(first_state) for name in ways}
  seconds = {name: [] for name in ways}
  for round_ in range(1 + rounds):
    for name, advance in ways.items():
      timed = steps if round_ else 1
      states[name], elapsed = take_steps(advance, states[name], timed, steps_per_dispatch)
      seconds[name] += [elapsed] if round_ else []
  ratios = [lying / made for made, lying in zip(seconds['made'], seconds['resident'], strict=True)]
  images = steps * batch_size
  return {
    'steps_per_dispatch': steps_per_dispatch,
    'images_per_second': images / statistics.median(seconds['made']),
    'resident_images_per_second': images / statistics.median(seconds['resident']),
    'ratio': statistics.median(ratios),
    'ratio_min': min(ratios),
    'ratio_max': max(ratios),
  }


def take_steps(
  advance: feeding.Advance, state: TrainState, steps: int, stride: int
) -> tuple[TrainState, float]:
  """Takes steps 0 to `steps`, by `stride`; returns the last state and the seconds it took."""
  start = time.perf_counter()
  for step in range(0, steps, stride):
    state, _ = advance(state, step, min(step + stride, steps))
    if not devices.max_steps_in_flight():
      jax.block_until_ready(state)
  jax.block_until_ready(state)
  return state, time.perf_counter() - start
