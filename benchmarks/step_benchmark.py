"""How fast a training step is on this machine, what it takes to compile, and what it holds.

The step is that of a run, with loss, gradient, clipping, momentum, L2 and EMA, on all local
devices; the images already lie on them.
"""

import dataclasses
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from benchmarks import machine_limits
from benchmarks.random_images import as_batch
from nfnets_augmult.models import table
from nfnets_augmult.ops import checks
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import devices
from nfnets_augmult.training import state as state_lib
from nfnets_augmult.training import step as step_lib

# Dense bfloat16 FLOP/s (float16 on V100, which has no bfloat16) of one JAX device, by a pattern of
# its whole `device_kind`. A device is a core on TPU v2 and v3, and a chip on all others.
# Source: the makers' data sheets.
_PEAK_FLOPS = {
  r'TPU v2': 22.5e12,
  r'TPU v3': 61.5e12,
  r'TPU v4': 275e12,
  r'TPU v5( lite|e)': 197e12,
  r'TPU v5p?': 459e12,
  r'TPU v6( lite|e)': 918e12,
  r'Tesla V100-SXM.*': 125e12,
  r'(NVIDIA )?A100-.*': 312e12,
  r'NVIDIA H100 80GB HBM3': 989e12,
  r'NVIDIA H200': 989e12,
}


def peak_flops(device_kind: str) -> float | None:
  """Returns the peak FLOP/s of a device in bfloat16, or None where it is not known."""
  for pattern, flops in _PEAK_FLOPS.items():
    if re.fullmatch(pattern, device_kind):
      return flops
  return None


def model_flops(run: Run) -> int:
  """Returns the floating-point operations of the model's own work in one step of `run`.

  That is 2 x multiply-adds x 3, since the gradient costs twice the forward pass, of convolutions
  and matrix products, padding included. What a step computes besides (SAM's ascent, blocks anew
  under rematerialisation, the optimiser) is not counted, however the step is run.
  """
  model = run.settings.make_model(len(run.data.train.class_names))
  size = run.data.image_shape[0]
  multiply_adds = table.image_multiply_adds(model, table.abstract_params(model, size), size)
  return 2 * 3 * multiply_adds * run.settings.batch_size


@dataclasses.dataclass
class PreparedStep:
  """A compiled step with everything it needs; `run` takes it once.

  Attributes:
    state: of the run, replicated; donated at each step.
    batch: on the devices.
    key: replicated.
    compiled: the step.
    update: what follows the gradient, see `step.make_update`.
    lower_seconds: to trace and lower the step.
    compile_seconds: for XLA to compile it.
  """

  state: state_lib.TrainState
  batch: dict[str, jax.Array]
  key: jax.Array
  compiled: Any
  update: Callable[[state_lib.TrainState, Any], state_lib.TrainState]
  lower_seconds: float
  compile_seconds: float

  def run(self) -> float:
    """Takes one step, waits for it, and returns the seconds."""
    start = time.perf_counter()
    self.state, metrics = self.compiled(self.state, self.batch, self.key)
    jax.block_until_ready((self.state, metrics))
    return time.perf_counter() - start

  def run_updates(self, steps: int) -> list[float]:
    """Takes `steps` updates with a given gradient, after one to warm up; returns the seconds."""
    gradient = devices.on_each_device(_small_gradient)(self.state.params)
    # Compiled ahead: the function would compile anew once it gets its own output back.
    mapped = devices.on_each_device(self.update, donate_state=True)
    update = mapped.lower(self.state, gradient).compile()
    seconds = []
    for _ in range(1 + steps):
      start = time.perf_counter()
      self.state = jax.block_until_ready(update(self.state, gradient))
      seconds.append(time.perf_counter() - start)
    return seconds[1:]


def _small_gradient(params: Any) -> Any:
  return jax.tree.map(lambda leaf: 0.1 * leaf, params)


def prepare_step(run: Run) -> PreparedStep:
  """Returns the compiled training step of `run`, which takes all images of it as one batch.

  Raises:
    ValueError: see `Run.prepare`.
  """
  run.prepare()
  # Not jitted: see `Network.initial_state`.
  state = devices.replicate(run.network.initial_state(run.parameters_key))
  key = devices.replicate(run.key)
  batch = devices.place_batch(as_batch(run.data.train))
  mapped = devices.on_each_device(run.make_train_step(), donate_state=True)
  start = time.perf_counter()
  lowered = mapped.lower(state, batch, key)
  after_lowering = time.perf_counter()
  compiled = lowered.compile()
  return PreparedStep(
    state=state,
    batch=batch,
    key=key,
    compiled=compiled,
    update=step_lib.make_update(
      optimizer=run.network.optimizer,
      schedule=run.settings.make_schedule(run.plan.total_steps),
      ema_decay=run.settings.ema_decay,
    ),
    lower_seconds=after_lowering - start,
    compile_seconds=time.perf_counter() - after_lowering,
  )


def update_bytes(state: state_lib.TrainState) -> int:
  """Returns the least that an update of `state`, replicated, reads and writes on one device.

  Parameters, momenta and averages are read and written once, and a gradient is read.
  """
  total = sum(leaf.nbytes for leaf in jax.tree.leaves(devices.first_replica(state)))
  gradient = sum(leaf.nbytes for leaf in jax.tree.leaves(devices.first_replica(state.params)))
  return 2 * total + gradient


def measure_step(
  run: Run, *, steps: int = 10, breakdown: bool = False, limits: bool = False
) -> dict[str, Any]:
  """Compiles a training step, takes `steps` of them after one to warm up, and returns numbers.

  Args:
    run: with as many training images, of 3 channels and held in memory, as a batch has samples.
    steps: how many to time; each is waited for.
    breakdown: whether to time the update, without the gradient, as a function of its own.
    limits: whether to measure what the device can do at most, as a scale for the step.

  Returns:
    `lower_seconds` and `compile_seconds`; `step_seconds`, `step_seconds_min`, `step_seconds_max`
    (median and range); `images_per_second`; `flops_per_step`, see `model_flops`, and
    `flops_per_second`; `peak_share`, of the devices' bfloat16 peak, or None; of memory, in bytes,
    those of `program_memory`, `device_peak_bytes` of the fullest device or None, and
    `process_peak_bytes`. With `breakdown`, `update_seconds` and `update_share` of the step. With
    `limits`, `product_flops_per_second`, of all local devices together, and `product_share`, what
    `flops_per_second` is of it; `addition_bytes_per_second` of a device and `update_bytes`.
    Compile time is that of a look-up if JAX's compilation cache is switched on and has the step.

  Raises:
    ValueError: see `prepare_step`, or `steps` is below 1.
  """
  checks.check_int('steps', steps, least=1)
  prepared = prepare_step(run)
  prepared.run()
  seconds = [prepared.run() for _ in range(steps)]
  median = statistics.median(seconds)
  flops = model_flops(run)
  peak = peak_flops(jax.local_devices()[0].device_kind)
  result = {
    'lower_seconds': prepared.lower_seconds,
    'compile_seconds': prepared.compile_seconds,
    'step_seconds': median,
    'step_seconds_min': min(seconds),
    'step_seconds_max': max(seconds),
    'images_per_second': run.settings.batch_size / median,
    'flops_per_step': flops,
    'flops_per_second': flops / median,
    'peak_share': flops / median / (peak * jax.local_device_count()) if peak else None,
    **program_memory(prepared.compiled),
    'device_peak_bytes': device_peak_bytes(jax.local_devices()),
    'process_peak_bytes': _process_peak_bytes(),
  }
  if breakdown:
    result['update_seconds'] = statistics.median(prepared.run_updates(steps))
    result['update_share'] = result['update_seconds'] / median
  if limits:
    # All at once: devices that XLA simulates on a CPU share its cores and its memory.
    used = jax.local_devices()
    product = machine_limits.time_product(run.settings.compute_dtype, devices=used)
    addition = machine_limits.time_addition(devices=used)
    result['product_flops_per_second'] = product['flops'] / product['seconds_min']
    result['product_share'] = result['flops_per_second'] / result['product_flops_per_second']
    result['addition_bytes_per_second'] = addition['bytes'] / addition['seconds_min'] / len(used)
    result['update_bytes'] = update_bytes(prepared.state)
  return result


def program_memory(compiled: Any) -> dict[str, int]:
  """Returns what XLA plans for a compiled program, in bytes per device.

  `argument_bytes`, `output_bytes` and `temporary_bytes`, and `program_bytes`, their sum without the
  outputs that take the place of arguments, as those of a donated state do.
  """
  memory = compiled.memory_analysis()
  sizes = {
    'argument_bytes': memory.argument_size_in_bytes,
    'output_bytes': memory.output_size_in_bytes,
    'temporary_bytes': memory.temp_size_in_bytes,
  }
  return {**sizes, 'program_bytes': sum(sizes.values()) - memory.alias_size_in_bytes}


def device_peak_bytes(local_devices: Sequence[jax.Device]) -> int | None:
  """The most bytes in use so far on the fullest device, where the backend keeps count."""
  counts = [(device.memory_stats() or {}).get('peak_bytes_in_use') for device in local_devices]
  return max((count for count in counts if count is not None), default=None)


def _process_peak_bytes() -> int:
  """The most memory that this process held so far, compilation included."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else 1024 * peak  # KiB but on macOS
