"""What a machine can do at most, measured: arithmetic in a large product, and memory in a sum."""

import jax
import jax.numpy as jnp

from benchmarks.device_timing import time_calls
from nfnets_augmult.ops import compiling

_SIDE = 4096
_LENGTH = 2**26  # 256 MiB in float32, beyond any cache


def product_flops(dtype: str, *, side: int = _SIDE) -> float:
  """Returns the FLOP/s of a product of two `[side, side]` matrices on one device, the best seen.

  Two for each multiply-add. `dtype` is that of the matrices, such as `float32`.
  """
  matrix = jnp.ones((side, side), dtype)
  product = compiling.jit(jnp.matmul)
  times = time_calls(lambda: product(matrix, matrix), sample_seconds=0.5)
  return 2 * side**3 / times['seconds_min']


def sum_bandwidth(*, length: int = _LENGTH) -> float:
  """Returns the bytes per second of adding a float32 array to another in its place, the best seen.

  Two arrays of `length` values are read and one is written.
  """
  values = [jnp.zeros(length)]
  addend = jnp.ones(length)
  add = compiling.jit(jnp.add, donate_argnums=0)

  def call() -> jax.Array:
    values[0] = add(values[0], addend)
    return values[0]

  return 3 * 4 * length / time_calls(call, sample_seconds=0.5)['seconds_min']
