"""What a device can do at most, measured: arithmetic in a large product, memory in an addition."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.device_timing import time_calls
from nfnets_augmult.ops import compiling


def time_product(
  dtype: str,
  *,
  side: int = 4096,
  sample_seconds: float = 0.5,
  devices: Sequence[jax.Device] | None = None,
) -> dict[str, Any]:
  """Times the product of two random matrices on each of `devices`, all at once.

  Args:
    dtype: of the matrices, such as `'float32'`.
    side: rows and columns of each.
    sample_seconds: see `time_calls`.
    devices: None for the first one alone.

  Returns:
    What `time_calls` does, `side`, and `flops` of all devices, two for each multiply-add.
  """
  devices = devices or jax.local_devices()[:1]
  a, b = (jax.random.normal(jax.random.key(seed), (side, side), dtype) for seed in (0, 1))
  factors = [jax.device_put((a, b), device) for device in devices]
  product = compiling.jit(jnp.matmul)
  times = time_calls(lambda: [product(*pair) for pair in factors], sample_seconds=sample_seconds)
  return times | {'side': side, 'flops': 2 * side**3 * len(devices)}


def time_addition(
  *,
  size: int = 2**28,
  sample_seconds: float = 0.5,
  devices: Sequence[jax.Device] | None = None,
) -> dict[str, Any]:
  """Times adding 1 to a float32 array in its place on each of `devices`, all at once.

  Args:
    size: of each array in bytes, beyond any cache.
    sample_seconds: see `time_calls`.
    devices: None for the first one alone.

  Returns:
    What `time_calls` does, and `bytes`, read and written by all devices.
  """
  devices = devices or jax.local_devices()[:1]
  values = [jax.device_put(jnp.ones(size // 4), device) for device in devices]
  add_one = compiling.jit(lambda x: x + 1, donate_argnums=0)

  def call() -> list[jax.Array]:
    values[:] = map(add_one, values)
    return values

  times = time_calls(call, sample_seconds=sample_seconds)
  return times | {'bytes': 2 * sum(value.nbytes for value in values)}
