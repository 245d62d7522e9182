"""How fast a training step is on this machine, what it takes to compile, and what it holds.

The step is the real one, with loss, gradient, adaptive clipping, Nesterov momentum, L2 and EMA,
on all local devices; the images are random bytes that already lie on them.
"""

import dataclasses
import functools
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nfnets_augmult.models import make_model, table
from nfnets_augmult.optim import sam, schedules, sgd
from nfnets_augmult.training import devices
from nfnets_augmult.training import state as state_lib
from nfnets_augmult.training import step as step_lib

# The published recipe of the NFNets; none of these numbers changes the speed.
_LEARNING_RATE = 0.1
_MOMENTUM = 0.9
_WEIGHT_DECAY = 2e-5
_CLIPPING = 0.01
_EMA_DECAY = 0.99999
_NORMALIZATION = step_lib.Normalization(mean=(127.5,) * 3, std=(64.0,) * 3)

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


def model_flops(model_name: str, *, image_size: int, num_classes: int, batch_size: int) -> int:
  """Returns the floating-point operations of the model's own work in one step.

  That is 2 x multiply-adds x 3, since the gradient costs twice the forward pass, of convolutions
  and matrix products, padding included. What a step computes besides (SAM's ascent, blocks anew
  under rematerialisation, the optimiser) is not counted, however the step is run.
  """
  model = make_model(model_name, num_classes=num_classes)
  return 2 * 3 * table.image_multiply_adds(model, image_size) * batch_size


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


@dataclasses.dataclass(frozen=True)
class Step:
  """A training step of one device, for images of C = 3.

  Attributes:
    train_step: see `step.make_train_step`.
    updating: the arguments of `step.make_update`.
    initial_state: from a key to the first state; jit it.
  """

  train_step: Callable[..., Any]
  updating: dict[str, Any]
  initial_state: Callable[[jax.Array], state_lib.TrainState]


def make_step(
  model_name: str,
  *,
  image_size: int,
  num_classes: int,
  compute_dtype: str = 'float32',
  sharpness: Callable[..., Any] | None = None,
  **model_options: Any,
) -> Step:
  """Returns the step that is measured; arguments as of `prepare_step` and `make_train_step`."""
  model = make_model(model_name, num_classes=num_classes, **model_options)
  optimizer = sgd.sgd(
    momentum=_MOMENTUM, nesterov=True, weight_decay=_WEIGHT_DECAY, clipping=_CLIPPING
  )
  updating = {
    'optimizer': optimizer,
    'schedule': schedules.make_schedule('constant', _LEARNING_RATE, total_steps=1),
    'ema_decay': _EMA_DECAY,
  }
  train_step = step_lib.make_train_step(
    classifier=step_lib.make_classifier(
      model.apply, normalization=_NORMALIZATION, compute_dtype=compute_dtype
    ),
    sharpness=sharpness,
    **updating,
  )

  def initial_state(key: jax.Array) -> state_lib.TrainState:
    images = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
    return state_lib.initial_state(model.init(key, images, is_training=True), optimizer)

  return Step(train_step, updating, initial_state)


def prepare_step(
  model_name: str,
  *,
  image_size: int,
  batch_size: int,
  num_classes: int = 1000,
  compute_dtype: str = 'float32',
  rho: float = 0.0,
  ascent_fraction: float = 0.2,
  **model_options: Any,
) -> PreparedStep:
  """Returns a compiled training step, with random images and labels.

  Args:
    model_name: see `models.make_model`.
    image_size: pixels.
    batch_size: images per step on all local devices together.
    num_classes: K.
    compute_dtype: `'float32'` or `'bfloat16'`.
    rho: radius of SAM, each device climbing its own gradient; 0 for the plain gradient.
    ascent_fraction: of the batch, read by SAM's first gradient.
    **model_options: further arguments of the model, such as `remat`.

  Raises:
    ValueError: no such model or option, or numbers that do not fit; the message says which.
  """
  device_count = jax.local_device_count()
  if image_size < 1 or batch_size < 1 or batch_size % device_count:
    raise ValueError(
      f'image_size={image_size} and batch_size={batch_size} must be at least 1, and the batch '
      f'divisible by the number of devices, {device_count}'
    )
  slots = sam.ascent_slots_per_device(
    unique_images_per_batch=batch_size,
    augmult=1,
    device_count=device_count,
    ascent_fraction=ascent_fraction,
  )
  sharpness = functools.partial(sam.sharpness_aware, rho=rho, select_ascent=sam.first_slots(slots))
  step = make_step(
    model_name,
    image_size=image_size,
    num_classes=num_classes,
    compute_dtype=compute_dtype,
    sharpness=sharpness if rho else None,
    **model_options,
  )
  # Not jitted: see `assembly.Network.initial_state`.
  state = devices.replicate(step.initial_state(jax.random.PRNGKey(0)))
  key = devices.replicate(jax.random.PRNGKey(1))
  batch = devices.place_batch(random_batch(batch_size, image_size, num_classes))
  mapped = devices.on_each_device(step.train_step, donate_state=True)
  start = time.perf_counter()
  lowered = mapped.lower(state, batch, key)
  after_lowering = time.perf_counter()
  compiled = lowered.compile()
  return PreparedStep(
    state=state,
    batch=batch,
    key=key,
    compiled=compiled,
    update=step_lib.make_update(**step.updating),
    lower_seconds=after_lowering - start,
    compile_seconds=time.perf_counter() - after_lowering,
  )


def measure_step(
  model_name: str,
  *,
  image_size: int,
  batch_size: int,
  num_classes: int = 1000,
  steps: int = 10,
  breakdown: bool = False,
  **options: Any,
) -> dict[str, Any]:
  """Compiles a training step, takes `steps` of them after one to warm up, and returns numbers.

  Args:
    model_name: see `prepare_step`.
    image_size: pixels.
    batch_size: images per step on all local devices together.
    num_classes: K.
    steps: how many to time; each is waited for.
    breakdown: whether to time the update, without the gradient, as a function of its own.
    **options: further arguments of `prepare_step`.

  Returns:
    `lower_seconds` and `compile_seconds`; `step_seconds`, `step_seconds_min`, `step_seconds_max`
    (median and range); `images_per_second`; `flops_per_step`, see `model_flops`, and
    `flops_per_second`; `peak_share`, of the devices' bfloat16 peak, or None; of memory, in bytes,
    those of `program_memory`, `device_peak_bytes` of the fullest device or None, and
    `process_peak_bytes`. With `breakdown`, `update_seconds` and `update_share` of the step.
    Compile time is that of a look-up if JAX's compilation cache is switched on and has the step.

  Raises:
    ValueError: see `prepare_step`, or `steps` is below 1.
  """
  if steps < 1:
    raise ValueError(f'steps={steps} must be at least 1')
  prepared = prepare_step(
    model_name,
    image_size=image_size,
    batch_size=batch_size,
    num_classes=num_classes,
    **options,
  )
  prepared.run()
  seconds = [prepared.run() for _ in range(steps)]
  median = statistics.median(seconds)
  flops = model_flops(
    model_name, image_size=image_size, num_classes=num_classes, batch_size=batch_size
  )
  peak = peak_flops(jax.local_devices()[0].device_kind)
  result = {
    'lower_seconds': prepared.lower_seconds,
    'compile_seconds': prepared.compile_seconds,
    'step_seconds': median,
    'step_seconds_min': min(seconds),
    'step_seconds_max': max(seconds),
    'images_per_second': batch_size / median,
    'flops_per_step': flops,
    'flops_per_second': flops / median,
    'peak_share': flops / median / (peak * jax.local_device_count()) if peak else None,
    **program_memory(prepared.compiled),
    'device_peak_bytes': _device_peak_bytes(jax.local_devices()),
    'process_peak_bytes': _process_peak_bytes(),
  }
  if breakdown:
    result['update_seconds'] = statistics.median(prepared.run_updates(steps))
    result['update_share'] = result['update_seconds'] / median
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


def random_batch(batch_size: int, image_size: int, num_classes: int) -> dict[str, np.ndarray]:
  """A batch of noise."""
  generator = np.random.default_rng(0)
  shape = (batch_size, image_size, image_size, 3)
  return {
    'image': generator.integers(0, 256, shape, dtype=np.uint8),
    'label': generator.integers(0, num_classes, batch_size, dtype=np.int32),
    'mask': np.ones(batch_size, np.float32),
  }


def _device_peak_bytes(local_devices: Sequence[jax.Device]) -> int | None:
  """The most bytes in use so far on the fullest device, where the backend keeps count."""
  counts = [(device.memory_stats() or {}).get('peak_bytes_in_use') for device in local_devices]
  return max((count for count in counts if count is not None), default=None)


def _process_peak_bytes() -> int:
  """The most memory that this process held so far, compilation included."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == 'darwin' else 1024 * peak  # KiB but on macOS
