"""What is measured of an accelerator, part by part; see `accelerator.py`."""

import dataclasses
import functools
import gc
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from benchmarks import (
  accelerator_convolutions,
  device_input_benchmark,
  device_timing,
  machine_limits,
  step_benchmark,
)
from benchmarks.accelerator_scale import Scale
from benchmarks.device_timing import in_parallel, time_calls
from benchmarks.measured_parts import Parts
from benchmarks.random_images import NUM_CLASSES, NUM_IMAGES, as_batch, random_run
from nfnets_augmult import models, recipes
from nfnets_augmult.data import device_input
from nfnets_augmult.models import grouped_conv
from nfnets_augmult.runs import batches
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import devices, feeding, groups, records
from nfnets_augmult.training.state import TrainState

_GIB = 2**30
# Of the memory that JAX may take, what a program may be planned to need.
_MEMORY_SHARE = 0.94


# The key is the name of a variant, the value what it changes in the config of a run.
VARIANTS: dict[str, dict[str, Any]] = {
  'default': {},
  'native': {'conv_algorithm': 'native'},
  'split': {'conv_algorithm': 'split'},
  'remat': {'model.remat': True},
  'scan_blocks': {'model.scan_blocks': True},
  'sam': {'sam.rho': 0.05, 'sam.ascent_fraction': 0.2},
  'float32': {'compute_dtype': 'float32'},
}


def nfnet_run(
  model: str, batch_size: int, variant: str = 'default', *, dtype: str = 'bfloat16'
) -> Run:
  """Returns the run of an NFNet by its recipe, n = 1, at its training resolution.

  Args:
    model: name of the network.
    batch_size: of all devices.
    variant: `'default'` for the convolutions of the package's table, or another key of `VARIANTS`.
    dtype: of the computation, unless the variant says another.
  """
  config = recipes.nfnet_recipe('f0')
  changes = dict(VARIANTS[variant])
  if algorithm := changes.pop('conv_algorithm', None):
    with config.unlocked():
      config.update(model={'conv_algorithm': algorithm})
  spec = models.model_spec(model)
  config.update_from_flattened_dict(
    {
      'model.name': model,
      'augmult': 1,
      'batch_size': batch_size,
      'dataset.image_size': spec.train_image_size,
      'dataset.test_image_size': spec.train_image_size,
      'compute_dtype': dtype,
      **changes,
    }
  )
  return random_run(config, num_classes=1000)


def environment(scale: Scale) -> dict[str, Any]:
  """Returns device, versions, and the rates that nothing below can exceed: products and copies."""
  device = jax.local_devices()[0]
  return {
    'device_kind': device.device_kind,
    'backend': jax.default_backend(),
    'devices': jax.local_device_count(),
    'platform_version': ' '.join(device.client.platform_version.split()),
    'processors': os.cpu_count(),
    'machine': platform.machine(),
    'versions': records.versions(),
    'driver': _nvidia_smi(),
    'memory_limit': devices.memory_limit(),
    'peak_flops': step_benchmark.peak_flops(device.device_kind),
    'matmul': machine_limits.time_product('bfloat16', side=scale.side, sample_seconds=0.05),
    'copy': machine_limits.time_addition(size=scale.copied, sample_seconds=0.05),
  }


def _nvidia_smi() -> str | None:
  query = 'driver_version,power.limit,clocks.max.sm,memory.total'
  try:
    done = subprocess.run(
      ['nvidia-smi', f'--query-gpu={query}', '--format=csv,noheader'],
      capture_output=True,
      text=True,
      timeout=20,
      check=True,
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return f'{query}: {done.stdout.strip()}'


# Whole steps.


class States:
  """The state of one network at a time, on the devices; every program is given the last one's."""

  def __init__(self) -> None:
    self._states: dict[str, TrainState] = {}

  def get(self, run: Run) -> TrainState:
    """Returns the state of the network of `run`, made on first use."""
    name = run.settings.model_name
    if name not in self._states:
      self._states[name] = devices.replicate(random_state(run))
    return self._states[name]

  def put(self, run: Run, state: TrainState) -> None:
    """Keeps the state after a step."""
    self._states[run.settings.model_name] = state

  def drop(self, run: Run) -> None:
    """Forgets a state, which a failed step may have taken along."""
    self._states.pop(run.settings.model_name, None)


def random_state(run: Run) -> TrainState:
  """Returns a first state, drawn by NumPy, which compiles nothing.

  Gains of residual branches are one: zeros would make all their gradients zero, and products of
  zeros take less power and so less time.
  """
  generator = np.random.default_rng(0)
  shapes = run.network.abstract_state

  def draw(path: Any, leaf: Any) -> np.ndarray:
    name = path[-1].key
    if name.endswith('gain'):
      return np.ones(leaf.shape, leaf.dtype)
    if name != 'w':
      return np.zeros(leaf.shape, leaf.dtype)
    scale = math.prod(leaf.shape[:-1]) ** -0.5
    return generator.standard_normal(leaf.shape, np.float32) * np.float32(scale)

  params = jax.tree_util.tree_map_with_path(draw, shapes.params)
  zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
  return zeros._replace(params=params, ema_params=params)


@dataclasses.dataclass
class Program:
  """A compiled step of a run, with its batch."""

  run: Run
  batch: Any
  key: jax.Array
  compiled: Any
  lower_seconds: float
  compile_seconds: float
  was_cached: bool

  @property
  def memory(self) -> dict[str, int]:
    """What XLA plans, see `step_benchmark.program_memory`."""
    return step_benchmark.program_memory(self.compiled)


def compile_step(run: Run, states: States) -> Program:
  """Returns the training step of `run`, compiled for its state and one random batch."""
  state = states.get(run)
  batch = devices.place_batch(as_batch(run.data.train))
  key = devices.replicate(run.key)
  mapped = devices.on_each_device(run.make_train_step(), donate_state=True)
  hits = device_timing.cache_hits()
  start = time.perf_counter()
  lowered = mapped.lower(state, batch, key)
  after_lowering = time.perf_counter()
  compiled = lowered.compile()
  return Program(
    run=run,
    batch=batch,
    key=key,
    compiled=compiled,
    lower_seconds=after_lowering - start,
    compile_seconds=time.perf_counter() - after_lowering,
    was_cached=device_timing.cache_hits() > hits,
  )


def measure_program(program: Program, states: States, *, sample_seconds: float) -> dict[str, Any]:
  """Takes steps and returns times, rates and memory.

  Args:
    program: the step.
    states: holds the state.
    sample_seconds: see `time_calls`.
  """
  run = program.run
  planned = program.memory
  limit = devices.memory_limit()
  if limit and planned['program_bytes'] > limit:
    raise MemoryError(
      f'the plan needs {planned["program_bytes"] / _GIB:.1f} GiB of {limit / _GIB:.1f} GiB'
    )
  peak_before = step_benchmark.device_peak_bytes(jax.local_devices())
  metrics: dict[str, jax.Array] = {}

  def step() -> Any:
    state, values = program.compiled(states.get(run), program.batch, program.key)
    states.put(run, state)
    metrics.update(values)
    return state, values

  try:
    times = time_calls(step, sample_seconds=sample_seconds)
  except BaseException:
    states.drop(run)
    raise
  peak_after = step_benchmark.device_peak_bytes(jax.local_devices())
  images = run.settings.batch_size
  flops = images * _flops_per_image(run.settings.model_name)
  peak = step_benchmark.peak_flops(jax.local_devices()[0].device_kind)
  rate = flops / times['seconds'] / jax.local_device_count()
  loss = float(devices.first_replica(metrics['loss']))
  if not math.isfinite(loss):
    states.drop(run)
  return {
    'model': run.settings.model_name,
    'image_size': run.data.image_shape[0],
    'batch_size': images,
    'compute_dtype': run.settings.compute_dtype,
    **times,
    'images_per_second': images / times['seconds'],
    'flops_per_step': flops,
    'flops_per_second_per_device': rate,
    'peak_share': rate / peak if peak else None,
    'lower_seconds': program.lower_seconds,
    'compile_seconds': None if program.was_cached else program.compile_seconds,
    **planned,
    # A peak is that of the process; it is this program's only if it rose.
    'peak_bytes': peak_after if peak_after and peak_after > (peak_before or 0) else None,
    'loss_is_finite': math.isfinite(loss),
  }


@functools.cache
def _flops_per_image(model: str) -> int:
  """Those of `step_benchmark.model_flops`, for one image; counting them traces the network."""
  run = nfnet_run(model, 2)  # two images can be mixed
  return step_benchmark.model_flops(run) // run.settings.batch_size


@dataclasses.dataclass(frozen=True)
class Step:
  """A step to measure: its part's name and its run."""

  name: str
  make_run: Callable[[], Run]


def measure_steps(parts: Parts, scale: Scale, steps: list[Step], *, budget: float) -> None:
  """Compiles and times what is not measured yet, one step after another.

  Side by side they are not compiled: XLA tries kernels out on the GPU one program at a time.

  Args:
    parts: records the results.
    scale: of the measurement.
    steps: to measure.
    budget: seconds that one takes.
  """
  states = States()
  for step in steps:

    def measure(step: Step = step) -> dict[str, Any]:
      program = compile_step(step.make_run(), states)
      return measure_program(program, states, sample_seconds=scale.sample_seconds)

    parts.measure(step.name, budget * scale.budgets, measure)


def step_name(model: str, variant: str, batch: int | str) -> str:
  """Returns the name of the part that measures a step; `batch` may be `'largest batch'`."""
  return f'{model}, {variant}, {f"batch {batch}" if isinstance(batch, int) else batch}'


def _nfnet_step(scale: Scale, model: str, variant: str, batch: int) -> Step:
  batch *= jax.local_device_count()
  make_run = functools.partial(nfnet_run, model, batch, variant, dtype=scale.dtype)
  return Step(step_name(model, variant, batch), make_run)


def largest_batch(measured: Mapping[str, Any], *, most: int) -> int:
  """Returns the largest power of two, per device, whose plan fits the memory.

  It is taken that temporary memory grows with the batch, and that of the state stays.

  Args:
    measured: the result of a step of the same network.
    most: not larger than this; the answer where the memory of the device is not known.
  """
  limit, count = devices.memory_limit(), jax.local_device_count()
  if not limit:
    return most
  per_image = measured['temporary_bytes'] / (measured['batch_size'] / count)
  state = measured['program_bytes'] - measured['temporary_bytes']
  fits = (_MEMORY_SHARE * limit - state) / per_image
  return min(most, 2 ** int(math.log2(max(fits, 1))))


def measure_first(parts: Parts, scale: Scale) -> None:
  """Measures what matters most: ceilings, a step of each smaller network, batches on the device."""
  budget = functools.partial(float.__mul__, float(scale.budgets))
  parts.measure('environment', budget(15.0), lambda: environment(scale))
  steps = [
    _nfnet_step(scale, network, 'default', batch)
    for network, batch in zip(scale.networks[:2], scale.batch_sizes[:2], strict=True)
  ]
  measure_steps(parts, scale, steps[:1], budget=60)
  gc.collect()
  parts.measure('batches on the device', budget(80.0), lambda: batches_on_device(scale))
  measure_steps(parts, scale, steps[1:], budget=90)


def measure_variants(parts: Parts, scale: Scale) -> None:
  """Measures other ways to run the small network, its largest batch, and groups of runs."""
  small, batch = scale.networks[0], scale.batch_sizes[0]
  steps = [_nfnet_step(scale, small, variant, batch) for variant in _differing(scale.variants)]
  measure_steps(parts, scale, steps[:2], budget=60)
  parts.measure('runs together', 60.0 * scale.budgets, lambda: runs_together(scale))
  largest = _largest(parts, scale, _nfnet_step(scale, small, 'default', batch).name, small)
  measure_steps(parts, scale, [*largest, *steps[2:]], budget=60)


def _largest(parts: Parts, scale: Scale, measured_name: str, model: str) -> list[Step]:
  """The step of the largest batch; none where that is the measured one."""
  measured = parts.result(measured_name)
  if measured is None:
    return []
  batch = largest_batch(measured, most=scale.most_batch_size)
  if batch * jax.local_device_count() <= measured['batch_size']:
    return []
  step = _nfnet_step(scale, model, 'default', batch)
  return [dataclasses.replace(step, name=step_name(model, 'default', 'largest batch'))]


def _differing(variants: tuple[str, ...]) -> list[str]:
  """Drops the variants whose convolutions are the default ones for every kind."""

  def is_default(variant: str, kind: str) -> bool:
    algorithm = variant if variant in accelerator_convolutions.DISTINCT[kind] else 'native'
    return grouped_conv.default_algorithm(kind=kind) == algorithm

  return [
    variant
    for variant in variants
    if variant not in grouped_conv.ALGORITHMS
    or not all(is_default(variant, kind) for kind in grouped_conv.KINDS)
  ]


def measure_large(parts: Parts, scale: Scale) -> None:
  """Measures the large network, and the largest batch of the middle one."""
  _, middle, large = scale.networks
  _, middle_batch, large_batch = scale.batch_sizes
  middle_name = _nfnet_step(scale, middle, 'default', middle_batch).name
  steps = [_nfnet_step(scale, large, 'default', large_batch)]
  steps += _largest(parts, scale, middle_name, middle)
  measure_steps(parts, scale, steps, budget=110)


# Batches made on the device, and groups.


def wide_resnet_run(scale: Scale, batch_size: int, augmult: int, steps_per_dispatch: int) -> Run:
  """Returns the run of a Wide-ResNet by its recipe, on batches made on the device."""
  config: ml_collections.ConfigDict = recipes.cifar100_recipe()
  config.update_from_flattened_dict(
    {
      'model.name': scale.wide_resnet,
      'dataset.image_size': scale.wide_resnet_image,
      'input': 'device',
      'batch_size': batch_size * jax.local_device_count(),
      'augmult': augmult,
      'total_epochs': 128.0,
      'steps_per_dispatch': steps_per_dispatch,
      'compute_dtype': scale.dtype,
    }
  )
  num_images = NUM_IMAGES if scale.budgets else 64 * jax.local_device_count()
  return random_run(config, num_classes=NUM_CLASSES, num_images=num_images)


def _time_in_turn(
  ways: Mapping[str, tuple[feeding.Advance, int]], states: dict[str, Any], steps: int, rounds: int
) -> dict[str, dict[str, float]]:
  """Compiles all ways side by side, then takes `steps` of each in turn; seconds of one step."""

  def warm_up(name: str) -> Any:
    advance, stride = ways[name]
    return device_input_benchmark.take_steps(advance, states[name], stride, stride)[0]

  warm = in_parallel({name: functools.partial(warm_up, name) for name in ways})
  for name, state in warm.items():
    if isinstance(state, Exception):
      raise state
    states[name] = state
  seconds: dict[str, list[float]] = {name: [] for name in ways}
  for round_ in range(rounds + 1):
    for name, (advance, stride) in ways.items():
      states[name], elapsed = device_input_benchmark.take_steps(
        advance, states[name], steps, stride
      )
      seconds[name] += [elapsed / steps] if round_ else []
  return {
    name: device_timing.summary(values) | {'rounds': rounds} for name, values in seconds.items()
  }


def batches_on_device(scale: Scale) -> dict[str, Any]:
  """Times steps whose batches are made on the device, next to the bare step on one batch."""
  runs = {
    stride: wide_resnet_run(scale, scale.wide_resnet_batch, 4, stride)
    for stride in {1, 1 if feeding.loops_are_slow() else scale.steps_per_dispatch}
  }
  run = runs[1]
  plan, train_step = run.plan, run.make_train_step()
  batch = devices.place_batch(as_batch(random_run(run.config, num_classes=NUM_CLASSES).data.train))
  key = devices.replicate(run.key)
  bare = devices.on_each_device(train_step, donate_state=True)
  ways = {'bare': (lambda state, step, stop: bare(state, batch, key), 1)}
  for stride, of_stride in runs.items():
    restart = batches.make_restart(
      of_stride.settings,
      run.data.train,
      plan.multiplicity,
      train_step,
      total_steps=plan.total_steps,
    )
    advance = restart(run.key, multiplicity=plan.multiplicity, start_step=0)
    ways[f'made, {stride} a dispatch'] = (advance, stride)
  first = jax.device_get(run.network.initial_state(run.parameters_key))
  states = {name: devices.replicate(first) for name in ways}
  times = _time_in_turn(ways, states, scale.input_steps, rounds=5 if scale.budgets else 1)

  multiplicity = plan.multiplicity
  make = devices.on_each_device(
    functools.partial(
      device_input.make_batch,
      copies_per_batch=multiplicity.copies_per_batch,
      crop=run.settings.augmentation.crop,
    )
  )
  data = batches.place_on_devices(run.data.train, multiplicity)
  images = devices.replicate(feeding.to_int32(multiplicity.images(0)))
  alone = time_calls(
    lambda: make(data, images)['image'], sample_seconds=min(scale.sample_seconds, 0.05)
  )
  return {
    'model': scale.wide_resnet,
    'batch_size': run.settings.batch_size,
    'augmult': run.settings.augmult,
    'compute_dtype': run.settings.compute_dtype,
    'steps_per_sample': scale.input_steps,
    'times': times,
    'make_batch': alone,
  }


def runs_together(scale: Scale) -> dict[str, Any]:
  """Times groups of runs that train in one program, by their number."""
  stride = 1 if feeding.loops_are_slow() else scale.steps_per_dispatch
  run = wide_resnet_run(scale, scale.group_batch, 4, stride)
  first = jax.device_get(run.network.initial_state(run.parameters_key))
  ways, states = {}, {}
  for size in scale.group_sizes:
    advance, state = _group(run, first, size)
    ways[str(size)] = (advance, stride)
    states[str(size)] = devices.replicate(state)
  times = _time_in_turn(ways, states, scale.input_steps, rounds=3 if scale.budgets else 1)
  return {
    'model': scale.wide_resnet,
    'batch_size': run.settings.batch_size,
    'augmult': run.settings.augmult,
    'compute_dtype': run.settings.compute_dtype,
    'steps_per_dispatch': stride,
    'steps_per_sample': scale.input_steps,
    'times': times,
  }


def _group(run: Run, first: TrainState, size: int) -> tuple[feeding.Advance, Any]:
  """Returns how `size` runs train together, and their first state; one run is no group."""
  multiplicity, total_steps = run.plan.multiplicity, run.plan.total_steps
  if size == 1:
    restart = batches.make_restart(
      run.settings, run.data.train, multiplicity, run.make_train_step(), total_steps=total_steps
    )
    return restart(run.key, multiplicity=multiplicity, start_step=0), first

  def make_train_step(learning_rate: jax.Array) -> feeding.TrainStep:
    schedule = run.settings.make_schedule(total_steps, peak=1.0)
    return run.make_train_step(lambda step: learning_rate * schedule(step))

  advance = batches.make_group_advance(
    run.settings,
    run.data.train,
    [dataclasses.replace(multiplicity, seed=seed) for seed in range(size)],
    make_train_step,
    keys=np.stack([run.key] * size),
    learning_rates=np.full(size, run.plan.learning_rate, np.float32),
  )
  runs = jax.tree.map(lambda leaf: np.stack([leaf] * size), first)
  return advance, groups.GroupState(np.zeros((), np.int32), runs, np.zeros(size, np.int32))
