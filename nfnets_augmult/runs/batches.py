"""The batches of a run, made on the host or on the devices, and its `Advance` functions."""

import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from nfnets_augmult.data import array_batches, canvases, device_copies, device_input
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.multiplicity import Images, Multiplicity
from nfnets_augmult.data.sources import ArraySource, Source
from nfnets_augmult.ops import compiling
from nfnets_augmult.ops.argument_names import renamed
from nfnets_augmult.runs.settings import AUGMENTATION_KEYS, DATASET_KEYS, Settings
from nfnets_augmult.training import devices, feeding, groups
from nfnets_augmult.training.state import TrainState
from nfnets_augmult.training.step import Metrics

Batches = Iterator[dict[str, np.ndarray]]


def is_data_on_devices(settings: Settings, source: Source) -> bool:
  """Returns whether the devices hold all training images and make the batches from them.

  That is so with `input='device'` for images held in memory that are padded, cropped and flipped,
  and nothing else. Any other images the host sends to the devices, those of each step.
  """
  is_of_arrays = isinstance(source, ArraySource) and array_batches.can_make(settings.augmentation)
  return settings.is_device_input and is_of_arrays


@renamed(DATASET_KEYS | AUGMENTATION_KEYS | {'split': 'dataset.train_split'})
def check_device_input(settings: Settings, source: Source, multiplicity: Multiplicity) -> None:
  """Checks that batches of `source` can be made on the devices.

  Raises:
    ValueError: the memory of a device does not suffice, or several steps are to be dispatched at
      once although the host sends the images of each.
  """
  limit = devices.memory_limit()
  if is_data_on_devices(settings, source):
    device_input.check_source(source, device_bytes=limit)
    return
  if settings.steps_per_dispatch > 1:
    raise ValueError(
      f'steps_per_dispatch={settings.steps_per_dispatch} must be 1 for {source.description} with '
      'this augmentation: the host sends the images of each step'
    )
  inputs = _canvas_input(settings, source, multiplicity)
  most_cached = source.num_images * math.prod(inputs.canvas_shape)
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  if inputs.host_bytes > memory:
    raise ValueError(
      f'dataset.canvas={inputs.canvas}: the images of the steps that are prepared take '
      f'{inputs.host_bytes / 2**30:,.0f} GiB of the {memory / 2**30:,.0f} GiB of this machine; '
      'make it or the batch smaller'
    )
  if settings.dataset.is_cached and most_cached > memory // 2:
    raise ValueError(
      f"dataset.cache='host': {source.num_images:,} images of up to {inputs.canvas} pixels take up "
      f'to {most_cached / 2**30:,.0f} GiB, more than half of the {memory / 2**30:,.0f} GiB of this '
      "machine; make dataset.canvas smaller, or leave it at 'none'"
    )
  if limit is not None and inputs.device_bytes > limit // 2:
    raise ValueError(
      f'dataset.canvas={inputs.canvas}: the images of a step take '
      f'{inputs.device_bytes / 2**30:.1f} GiB of every device, more than half of its '
      f"{limit / 2**30:.1f} GiB; make it smaller, or leave input at 'tf.data'"
    )


def _canvas_input(
  settings: Settings,
  source: Source,
  multiplicity: Multiplicity,
  *,
  augmentation: Augmentation | None = None,
  device_count: int | None = None,
  hosts: tuple[int, int] | None = None,
  cache: dict[int, Any] | None = None,
) -> canvases.CanvasInput:
  """Returns what this host sends to its devices, or to as many as `device_count`."""
  host_index, host_count = hosts or (jax.process_index(), jax.process_count())
  return canvases.CanvasInput(
    source,
    multiplicity,
    augmentation or settings.augmentation,
    settings.dataset.train_options,
    settings.dataset.canvas,
    device_count=device_count or jax.local_device_count(),
    host_index=host_index,
    host_count=host_count,
    cache=cache,
  )


def _batches_of_one_device(
  inputs: canvases.CanvasInput, start_step: int, stop_step: int
) -> Batches:
  """The batches that a single device makes, back on the host."""
  make_images = compiling.jit(inputs.make_images)
  for step in inputs.inputs(start_step, stop_step):
    copies = jax.tree.map(lambda array: array[0], step.copies)
    yield dict(step.fields, image=np.asarray(make_images(step.canvases[0], copies)))


@renamed(DATASET_KEYS | AUGMENTATION_KEYS)
def train_batches(
  settings: Settings,
  source: Source,
  multiplicity: Multiplicity,
  *,
  start_step: int,
  stop_step: int,
  augmentation: Augmentation | None = None,
  hosts: tuple[int, int] | None = None,
) -> Batches:
  """Returns this host's training batches on the host.

  They are made there, or by one of its devices, where the devices get the images of each step.

  Args:
    settings: of the run.
    source: training images.
    multiplicity: which image and copy fills each slot.
    start_step: first step.
    stop_step: one past the last step.
    augmentation: overrides that of the run.
    hosts: overrides index and number of hosts.
  """
  host_index, host_count = hosts or (jax.process_index(), jax.process_count())
  augmentation = augmentation or settings.augmentation
  options = {
    'start_step': start_step,
    'stop_step': stop_step,
    'host_index': host_index,
    'host_count': host_count,
  }
  if isinstance(source, ArraySource) and array_batches.can_make(augmentation):
    return array_batches.train_batches(source, multiplicity, crop=augmentation.crop, **options)
  if settings.is_device_input:
    inputs = _canvas_input(
      settings,
      source,
      multiplicity,
      augmentation=augmentation,
      device_count=1,
      hosts=(host_index, host_count),
    )
    return _with_keys_in_errors(_batches_of_one_device(inputs, start_step, stop_step))
  from nfnets_augmult.data import pipeline

  return _with_keys_in_errors(
    pipeline.train_batches(
      source,
      multiplicity,
      augmentation=augmentation,
      read_options=settings.dataset.train_options,
      **options,
    )
  )


@renamed(DATASET_KEYS)
def evaluation_batches(
  settings: Settings, source: Source, num_images: int | None = None
) -> Batches:
  """Returns this host's un-augmented batches of the first `num_images` of `source`, or all."""
  batch_size_per_device = -(-settings.evaluation_batch_size // jax.device_count())
  options = {
    'batch_size': batch_size_per_device * jax.local_device_count(),
    'num_images': num_images,
    'host_index': jax.process_index(),
    'host_count': jax.process_count(),
  }
  if isinstance(source, ArraySource):
    return array_batches.evaluation_batches(source, **options)
  from nfnets_augmult.data import pipeline

  return _with_keys_in_errors(
    pipeline.evaluation_batches(
      source,
      crop=settings.dataset.evaluation_crop,
      read_options=settings.dataset.test_options,
      **options,
    )
  )


def _with_keys_in_errors(batches: Batches) -> Batches:
  with renamed(DATASET_KEYS):
    yield from batches


def steps_per_dispatch(settings: Settings) -> int:
  """Returns the largest number of steps per dispatch; 1 where loops are slow."""
  return 1 if feeding.loops_are_slow() else settings.steps_per_dispatch


def make_restart(
  settings: Settings,
  source: Source,
  multiplicity: Multiplicity,
  train_step: feeding.TrainStep,
  *,
  total_steps: int,
) -> Callable[..., feeding.Advance]:
  """Returns a function that makes `Advance`s which share one compiled program.

  Its arguments are the last argument of `train_step`, a key or another tree of arrays, and as
  keywords the `multiplicity`, which may have another seed than the one here, and the `start_step`.

  Args:
    settings: of the run.
    source: training images.
    multiplicity: which image and copy fills each slot.
    train_step: of one device.
    total_steps: of the run.
  """
  if not settings.is_device_input:

    def restart_host(key: Any, *, multiplicity: Multiplicity, start_step: int) -> feeding.Advance:
      batches = train_batches(
        settings, source, multiplicity, start_step=start_step, stop_step=total_steps
      )
      return feeding.make_host_advance(train_step, key=key, batches=batches)

    return restart_host

  if not is_data_on_devices(settings, source):
    make_images = _canvas_input(settings, source, multiplicity).make_images
    cache = {} if settings.dataset.is_cached else None

    def step_with_images_made(
      state: TrainState, placed: _Placed, key: Any
    ) -> tuple[TrainState, Metrics]:
      image = make_images(placed.canvases, placed.copies)
      return train_step(state, dict(placed.fields, image=image), key)

    def restart_with_images(
      key: Any, *, multiplicity: Multiplicity, start_step: int
    ) -> feeding.Advance:
      inputs = _canvas_input(settings, source, multiplicity, cache=cache)
      return feeding.make_host_advance(
        step_with_images_made,
        key=key,
        batches=_with_keys_in_errors(inputs.inputs(start_step, total_steps)),
        place=_placing(),
      )

    return restart_with_images

  one_step = feeding.with_batch_made(train_step, _device_batch_maker(settings, multiplicity))

  def restart_device(key: Any, *, multiplicity: Multiplicity, start_step: int) -> feeding.Advance:
    del start_step  # `Advance` looks up images by step
    return feeding.make_device_advance(
      one_step,
      constants=(place_on_devices(source, multiplicity), devices.replicate(key)),
      images=multiplicity.images,
      most_steps=steps_per_dispatch(settings),
    )

  return restart_device


class _Placed(NamedTuple):
  """`canvases.HostInputs` on the devices, with a leading axis of them."""

  canvases: jax.Array
  copies: device_copies.Copies
  fields: dict[str, jax.Array]


def _placing() -> Callable[[canvases.HostInputs], _Placed]:
  """Returns the function that transfers inputs; those of a group send their canvases once."""
  sent, placed = None, None

  def place(inputs: canvases.HostInputs) -> _Placed:
    nonlocal sent, placed
    if inputs.canvases is not sent:
      sent, placed = inputs.canvases, devices.place(inputs.canvases)
    copies = jax.tree.map(devices.place, inputs.copies)
    return _Placed(placed, copies, devices.place_batch(inputs.fields))

  return place


def make_group_advance(
  settings: Settings,
  source: ArraySource,
  multiplicities: Sequence[Multiplicity],
  make_train_step: Callable[..., feeding.TrainStep],
  *,
  keys: np.ndarray,
  learning_rates: np.ndarray,
) -> feeding.Advance:
  """Returns the `Advance` of R runs that differ only in seed and learning rate.

  Args:
    settings: of any of the runs.
    source: training images.
    multiplicities: of each run.
    make_train_step: from a peak learning rate, a traced scalar, to the update of one device.
    keys: PRNG keys of the steps, `[R, 2]`.
    learning_rates: peaks, float32 `[R]`.
  """
  first = multiplicities[0]
  make_batch = _device_batch_maker(settings, first)

  def run_step(
    state: TrainState,
    images: Images,
    data: device_input.DeviceData,
    key: jax.Array,
    learning_rate: jax.Array,
  ) -> tuple[TrainState, Metrics]:
    return make_train_step(learning_rate)(state, make_batch(data, images), key)

  # Runs that share a seed share their batches.
  by_seed = {multiplicity.seed: multiplicity for multiplicity in multiplicities}

  def images(step: int) -> Images:
    images_by_seed = {seed: multiplicity.images(step) for seed, multiplicity in by_seed.items()}
    return feeding.stack_images([images_by_seed[m.seed] for m in multiplicities])

  return feeding.make_device_advance(
    groups.make_group_step(run_step),
    constants=(place_on_devices(source, first), *devices.replicate((keys, learning_rates))),
    images=images,
    most_steps=steps_per_dispatch(settings),
  )


def _device_batch_maker(
  settings: Settings, multiplicity: Multiplicity
) -> Callable[[device_input.DeviceData, Images], dict[str, jax.Array]]:
  """Returns `device_input.make_batch` with the arguments of the run."""
  return functools.partial(
    device_input.make_batch,
    copies_per_batch=multiplicity.copies_per_batch,
    crop=settings.augmentation.crop,
  )


def place_on_devices(source: ArraySource, multiplicity: Multiplicity) -> device_input.DeviceData:
  """Returns the training images, replicated on the local devices, and the slots of each."""
  slot = device_input.device_slots(
    multiplicity,
    device_count=jax.local_device_count(),
    host_index=jax.process_index(),
    host_count=jax.process_count(),
  )
  return device_input.DeviceData(
    *devices.replicate((source.images, source.labels)), devices.place(slot)
  )
