"""Counter-based random bits: looked up by address, not drawn in sequence.

All randomness in a batch is a pure function of (seed, purpose, position in the run).
The function is Threefry-2x32 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"),
the generator behind `jax.random`: for one key it maps 64-bit counters to 64-bit words one to one,
so different counters never give the same word. It is vectorised, uses unsigned arithmetic only, and
gives the same bits for NumPy and for JAX arrays, on every machine and in every version of either.
"""

import zlib

import numpy as np

from nfnets_augmult.ops.checks import check_int

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA  # of the key schedule, from the paper


def threefry2x32(key: tuple, counter: tuple) -> tuple:
  """Returns the two words of the cipher block `counter` under `key`.

  Args:
    key: two uint32 scalars or arrays.
    counter: two uint32 arrays; all four broadcast together. NumPy or JAX.

  Returns:
    Two uint32 arrays of the broadcast shape. For one key, one to one in `counter`.
  """
  key_0, key_1 = key
  schedule = (key_0, key_1, key_0 ^ key_1 ^ np.uint32(_PARITY))
  x_0 = counter[0] + schedule[0]
  x_1 = counter[1] + schedule[1]
  for block in range(5):
    for rotation in _ROTATIONS[block % 2]:
      x_0 = x_0 + x_1
      x_1 = (x_1 << np.uint32(rotation)) | (x_1 >> np.uint32(32 - rotation))
      x_1 = x_1 ^ x_0
    x_0 = x_0 + schedule[(block + 1) % 3]
    x_1 = x_1 + schedule[(block + 2) % 3] + np.uint32(block + 1)
  return x_0, x_1


def key_for(seed: int, purpose: str) -> tuple[np.ndarray, np.ndarray]:
  """Returns the PRNG key for `purpose` in the run with this `seed`.

  Args:
    seed: the seed of the run, in `[0, 2**32)`.
    purpose: any string, for example `'epoch order'`.

  Returns:
    Two uint32 arrays of shape `[1]`; arrays because NumPy warns when uint32 scalars wrap around.

  Raises:
    ValueError: `seed` is out of range.
  """
  check_int('seed', seed, most=2**32 - 1)
  counter = _uint32(zlib.crc32(purpose.encode())), _uint32(0)
  return threefry2x32((_uint32(seed), _uint32(0)), counter)


def random_bits(seeds: np.ndarray, draw: int | np.ndarray) -> np.ndarray:
  """Returns draw number `draw` of every seed.

  Args:
    seeds: uint32 `[..., 2]`, each a PRNG key.
    draw: number of the draw, in `[0, 2**32)`; a scalar, or an array that broadcasts with `[...]`.

  Returns:
    uint32 `[...]`, uniform.
  """
  zero = seeds[..., 0] * np.uint32(0)
  high, low = threefry2x32((seeds[..., 0], seeds[..., 1]), (zero, zero + np.uint32(draw)))
  return high ^ low


def random_integers(
  seeds: np.ndarray, draw: int | np.ndarray, bound: int | np.ndarray
) -> np.ndarray:
  """Returns int32 `[...]`, uniform in `[0, bound)` up to a bias of `bound / 2**32`."""
  return (random_bits(seeds, draw) % np.uint32(bound)).astype(np.int32)


def random_uniform(seeds: np.ndarray, draw: int | np.ndarray) -> np.ndarray:
  """Returns float32 `[...]`, uniform on the multiples of `2**-24` in `[0, 1)`."""
  return (random_bits(seeds, draw) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def seeds_for(seeds: np.ndarray, purpose: str) -> np.ndarray:
  """Returns uint32 `[..., 2]`: from each seed, one derived for `purpose`.

  Seeds of different purposes are unrelated, so each purpose may number its draws from 0.
  """
  zero = seeds[..., 0] * np.uint32(0)
  # The counters of `random_bits` begin with 0, so the words differ from these.
  counter = zero + np.uint32(1), zero + np.uint32(zlib.crc32(purpose.encode()))
  words = threefry2x32((seeds[..., 0], seeds[..., 1]), counter)
  return seeds.__array_namespace__().stack(words, axis=-1)


def random_permutation(key: tuple, size: int, stream: int) -> np.ndarray:
  """Returns permutation number `stream` of `range(size)`, int64 `[size]`.

  Sorts by distinct 64-bit words, so there are no ties and the result is the same everywhere.
  """
  positions = np.arange(size, dtype=np.uint32)
  high, low = threefry2x32(key, (_uint32(stream), positions))
  return np.argsort((high.astype(np.uint64) << np.uint64(32)) | low, kind='stable')


def _uint32(value: int) -> np.ndarray:
  return np.array([value], np.uint32)
