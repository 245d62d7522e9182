"""Random bits by address: published values, agreement with JAX, and uniformity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from nfnets_augmult.ops import addressed_random as ar

_SEEDS = np.array([[0, 0], [1, 2], [0xFFFFFFFF, 7], [0x13198A2E, 0x03707344]], np.uint32)


def _word(value):
  return np.array([value], np.uint32)


# Known answers that Salmon et al. publish with their library Random123 ("threefry2x32 20").
@pytest.mark.parametrize(
  ('key', 'counter', 'words'),
  [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
  ],
)
def test_threefry_gives_the_published_values(key, counter, words):
  """Threefry-2x32 with 20 rounds gives its publication's test vectors."""
  block = ar.threefry2x32(tuple(map(_word, key)), tuple(map(_word, counter)))
  np.testing.assert_array_equal(np.concatenate(block), words)


@pytest.mark.parametrize('array', [np.asarray, jnp.asarray], ids=['numpy', 'jax'])
def test_threefry_equals_fold_in(array):
  """Block (0, d) under a key is `jax.random.fold_in(key, d)`, for NumPy and for JAX arrays."""
  numbers = np.array([0, 1, 5, 2**31, 2**32 - 1], np.uint32)
  for seed in _SEEDS:
    key = array(seed[:1]), array(seed[1:])
    block = ar.threefry2x32(key, (array(np.zeros_like(numbers)), array(numbers)))
    folded = jax.vmap(lambda number, seed=seed: jax.random.fold_in(seed, number))(numbers)
    np.testing.assert_array_equal(np.stack(block, axis=-1), folded)


@pytest.mark.parametrize('array', [np.asarray, jnp.asarray], ids=['numpy', 'jax'])
def test_random_bits_equal_jax(array):
  """Draw d of a seed is word d of `jax.random.bits` under that key."""
  with jax.threefry_partitionable(True):
    words = jax.vmap(lambda key: jax.random.bits(key, (6,), 'uint32'))(_SEEDS)
  for draw in range(6):
    bits = ar.random_bits(array(_SEEDS), draw)
    assert bits.dtype == np.uint32
    np.testing.assert_array_equal(bits, words[:, draw])


def test_random_bits_keep_leading_axes():
  """Seeds `[..., 2]` give bits `[...]`, each as if it were alone."""
  grid = np.stack([_SEEDS, _SEEDS + np.uint32(1), _SEEDS[::-1]])  # [3, 4, 2]
  bits = ar.random_bits(grid, 3)
  assert bits.shape == (3, 4)
  np.testing.assert_array_equal(bits[0], ar.random_bits(_SEEDS, 3))
  np.testing.assert_array_equal(bits[2], bits[0, ::-1])


def test_random_bits_under_jit():
  """Compiled by JAX, the bits are those of NumPy."""
  compiled = jax.jit(ar.random_bits, static_argnums=1)(_SEEDS, 4)
  np.testing.assert_array_equal(compiled, ar.random_bits(_SEEDS, 4))


def test_threefry_is_one_to_one():
  """Different counters of one key never share a block."""
  high, low = np.meshgrid(np.arange(256, dtype=np.uint32), np.arange(256, dtype=np.uint32))
  blocks = np.stack(ar.threefry2x32((_word(1), _word(2)), (high.ravel(), low.ravel())))
  assert np.unique(blocks, axis=1).shape == (2, 256 * 256)


def test_keys_differ_by_seed_and_purpose():
  """Every seed and every purpose has a key of its own; the same two give the same key."""
  seeds, purposes = (0, 1, 2**32 - 1), ('epoch order', 'augmentation', '')
  keys = {tuple(map(int, map(np.squeeze, ar.key_for(s, p)))) for s in seeds for p in purposes}
  assert len(keys) == 9
  np.testing.assert_array_equal(ar.key_for(1, 'x'), ar.key_for(1, 'x'))


def test_key_is_pinned():
  """The key of a seed and a purpose is the same in every version, or old runs cannot resume."""
  np.testing.assert_array_equal(np.ravel(ar.key_for(3, 'epoch order')), [2578721579, 2419371034])


@pytest.mark.parametrize('seed', [-1, 2**32])
def test_seed_out_of_range(seed):
  """A seed that is no 32-bit number is refused, not wrapped around."""
  with pytest.raises(ValueError, match=rf'seed={seed} must be a whole number from 0'):
    ar.key_for(seed, 'x')


@pytest.mark.parametrize('bound', [2, 9, 10])
def test_random_integers_are_uniform(bound):
  """Integers fill `[0, bound)` evenly: chi-square over 20,000 seeds has p above 0.001."""
  numbers = np.arange(20_000, dtype=np.uint32)
  seeds = np.stack(ar.threefry2x32(ar.key_for(0, 'test'), (numbers, numbers)), axis=-1)
  integers = ar.random_integers(seeds, 1, bound)
  assert integers.dtype == np.int32
  counts = np.bincount(integers, minlength=bound)
  assert len(counts) == bound
  assert stats.chisquare(counts).pvalue > 1e-3


def test_draws_of_a_seed_are_independent():
  """Two draws of the same seeds are unrelated: chi-square of their joint counts."""
  numbers = np.arange(20_000, dtype=np.uint32)
  seeds = np.stack(ar.threefry2x32(ar.key_for(0, 'test'), (numbers, numbers)), axis=-1)
  first, second = (ar.random_integers(seeds, draw, 5) for draw in (0, 1))
  assert stats.chisquare(np.bincount(first * 5 + second, minlength=25)).pvalue > 1e-3


@pytest.mark.parametrize('size', [1, 2, 17, 1000])
def test_permutation_is_a_permutation(size):
  """Every number of `range(size)` comes exactly once."""
  order = ar.random_permutation(ar.key_for(5, 'x'), size, stream=2)
  np.testing.assert_array_equal(np.sort(order), np.arange(size))


def test_permutations_differ_by_stream_and_key():
  """Streams and keys give permutations of their own."""
  orders = {
    tuple(ar.random_permutation(ar.key_for(seed, 'x'), 50, stream))
    for seed in range(3)
    for stream in range(3)
  }
  assert len(orders) == 9


def test_permutations_are_uniform():
  """All 24 orders of 4 numbers are equally likely: chi-square over 4,800 streams."""
  key = ar.key_for(0, 'x')
  orders = np.stack([ar.random_permutation(key, 4, stream) for stream in range(4800)])
  counts = np.unique(orders @ [64, 16, 4, 1], return_counts=True)[1]
  assert len(counts) == 24
  assert stats.chisquare(counts).pvalue > 1e-3


def test_permutation_is_pinned():
  """The order is the same in every version, or resumed runs would see other batches."""
  order = ar.random_permutation(ar.key_for(3, 'epoch order'), 10, stream=1)
  np.testing.assert_array_equal(order, [6, 9, 5, 3, 7, 0, 4, 1, 8, 2])


@pytest.mark.parametrize('array', [np.asarray, jnp.asarray], ids=['numpy', 'jax'])
def test_purposes_get_seeds_of_their_own(array):
  """Seeds of two purposes differ from each other and from the seed, equal in NumPy and JAX."""
  one, other = (ar.seeds_for(array(_SEEDS), purpose) for purpose in ('crop', 'flip'))
  assert one.shape == _SEEDS.shape and one.dtype == np.uint32
  assert not np.any(np.all(one == other, axis=-1)) and not np.any(np.all(one == _SEEDS, axis=-1))
  np.testing.assert_array_equal(one, ar.seeds_for(_SEEDS, 'crop'))
  jitted = jax.jit(lambda seeds: ar.seeds_for(seeds, 'crop'))(jnp.asarray(_SEEDS))
  np.testing.assert_array_equal(one, jitted)


def test_random_uniform():
  """Floats in [0, 1), uniform by a Kolmogorov-Smirnov test, the bits' upper 24."""
  seeds = np.stack([np.arange(20_000), np.full(20_000, 3)], axis=-1).astype(np.uint32)
  values = ar.random_uniform(seeds, 5)
  assert values.dtype == np.float32 and values.min() >= 0 and values.max() < 1
  assert stats.kstest(values, 'uniform').pvalue > 1e-3
  np.testing.assert_array_equal((values * 2**24).astype(np.uint32), ar.random_bits(seeds, 5) >> 8)
