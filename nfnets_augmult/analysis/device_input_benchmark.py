"""What it costs a step to make its batch on the device, against a batch that lies there ready."""

import functools
import statistics
import time

import jax

from nfnets_augmult.analysis import step_benchmark
from nfnets_augmult.data import device_input
from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.training import devices, feeding
from nfnets_augmult.training.state import TrainState

_NUM_IMAGES = 50_000  # as CIFAR
_NUM_CLASSES = 100


def compare(
  model_name: str,
  *,
  image_size: int = 32,
  batch_size: int = 1024,
  augmult: int = 4,
  num_images: int = _NUM_IMAGES,
  compute_dtype: str = 'float32',
  steps: int = 10,
  steps_per_dispatch: int = 10,
  rounds: int = 5,
) -> dict[str, float]:
  """Trains both ways in turn, in rounds of `steps` steps after one to warm up.

  Args:
    model_name: see `models.make_model`.
    image_size: pixels.
    batch_size: B, augmented images per step on all local devices together.
    augmult: n.
    num_images: random images in the memory of each device.
    compute_dtype: `'float32'` or `'bfloat16'`.
    steps: of each way in a round.
    steps_per_dispatch: of both ways, but 1 where loops are slow.
    rounds: how many.

  Returns:
    `steps_per_dispatch` as used. Medians: `images_per_second` of batches made on the device,
    `resident_images_per_second` of one random batch that lies there, and `ratio`, of a round's
    first over its second, with `ratio_min` and `ratio_max`.

  Raises:
    ValueError: sizes that do not go together.
  """
  if batch_size % augmult:
    raise ValueError(f'n = {augmult} does not divide the batch of {batch_size}')
  step = step_benchmark.make_step(
    model_name, image_size=image_size, num_classes=_NUM_CLASSES, compute_dtype=compute_dtype
  )
  if feeding.loops_are_slow():
    steps_per_dispatch = 1
  key = jax.random.PRNGKey(1)
  multiplicity = Multiplicity(num_images, batch_size // augmult, augmult, seed=0)
  whole_set = step_benchmark.random_batch(num_images, image_size, _NUM_CLASSES)
  slot = device_input.device_slots(multiplicity, device_count=jax.local_device_count())
  data = device_input.DeviceData(
    *devices.replicate((whole_set['image'], whole_set['label'])), devices.place(slot)
  )
  keys = devices.replicate(key)
  make_batch = functools.partial(
    device_input.make_batch,
    copies_per_batch=multiplicity.copies_per_batch,
    crop=CropFlip(),
  )
  made = feeding.make_device_advance(
    feeding.with_batch_made(step.train_step, make_batch),
    constants=(data, keys),
    images=multiplicity.images,
    most_steps=steps_per_dispatch,
  )
  batch = devices.place_batch(step_benchmark.random_batch(batch_size, image_size, _NUM_CLASSES))
  first_images = multiplicity.images(0)
  resident = feeding.make_device_advance(
    feeding.with_batch_made(step.train_step, lambda batch, images: batch),
    constants=(batch, keys),
    images=lambda step: first_images,
    most_steps=steps_per_dispatch,
  )
  first_state = jax.device_get(step.initial_state(key))
  ways = {'made': made, 'resident': resident}
  states = {name: devices.replicate(first_state) for name in ways}
  seconds = {name: [] for name in ways}
  for round_ in range(1 + rounds):
    for name, advance in ways.items():
      timed = steps if round_ else 1
      states[name], elapsed = _time(advance, states[name], timed, steps_per_dispatch)
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


def _time(
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
