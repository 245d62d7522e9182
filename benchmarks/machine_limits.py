"""What a device can do at most, measured: arithmetic in a large product, memory in an addition."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.device_timing import time_calls
from nfnets_augmult.ops import compiling


def time_product(dtype: str, *, side: int = 4096, sample_seconds: float = 0.5) -> dict[str, Any]:
  """Times the product of two random matrices on one device.

  Args:
    dtype: of the matrices, such as `'float32'`.
    side: rows and columns of each.
    sample_seconds: see `time_calls`.

  Returns:
    What `time_calls` does, `side`, and `flops`, two for each multiply-add.
  """
  a, b = (jax.random.normal(jax.random.key(seed), (side, side), dtype) for seed in (0, 1))
  product = compiling.jit(jnp.matmul)
  times = time_calls(lambda: product(a, b), sample_seconds=sample_seconds)
  return times | {'side': side, 'flops': 2 * side**3}


def time_addition(*, size: int = 2**28, sample_seconds: float = 0.5) -> dict[str, Any]:
  """Times adding 1 to a float32 array in its place on one device.

  Args:
    size: of the array in bytes, beyond any cache.
    sample_seconds: see `time_calls`.

  Returns:
    What `time_calls` does, and `bytes`, read and written.
  """
  values = [jnp.ones(size // 4)]
  add_one = compiling.jit(lambda x: x + 1, donate_argnums=0)

  def call() -> jax.Array:
    values[0] = add_one(values[0])
    return values[0]

  return time_calls(call, sample_seconds=sample_seconds) | {'bytes': 2 * values[0].nbytes}
