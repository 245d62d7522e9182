"""How XLA compiles, and collectives of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from nfnets_augmult.ops import collectives, compiling


def _convolve(x, w):
  return jax.lax.conv_general_dilated(
    x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def test_convolutions_are_not_fused_for_ynnpack():
  """Which XLA does by default for these sizes, in the versions that have it."""
  assert jax.default_backend() == 'cpu'
  x, w = jnp.ones((2, 8, 8, 64)), jnp.ones((3, 3, 64, 64))
  program = compiling.jit(_convolve).lower(x, w).compile().as_text()
  assert ' convolution(' in program and 'ynn_fusion' not in program


def test_a_program_computes_what_jax_does():
  """With the options, to rounding."""
  x = jax.random.normal(jax.random.key(0), (2, 8, 8, 32))
  w = jax.random.normal(jax.random.key(1), (3, 3, 32, 64))
  expected = _convolve(x, w)
  np.testing.assert_allclose(compiling.jit(_convolve)(x, w), expected, atol=1e-3)


def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch):
  """So that other versions of JAX run."""
  monkeypatch.setattr(compiling, '_OPTIONS', {'xla_cpu_no_such_option': 'x'})
  assert compiling._cpu_options.__wrapped__() is None


def test_other_backends_have_their_defaults(monkeypatch):
  """The options are of CPUs."""
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')
  assert compiling.compiler_options() is None


def test_what_the_user_says_to_xla_stands(monkeypatch):
  """Or the flag would do nothing, without a word."""
  name = 'xla_cpu_experimental_ynn_fusion_type'
  monkeypatch.setenv('XLA_FLAGS', f'--xla_cpu_max_isa=AVX2 --{name}=')
  assert compiling.compiler_options() is None
  monkeypatch.setenv('XLA_FLAGS', '--xla_cpu_max_isa=AVX2')
  assert compiling.compiler_options() in ({name: compiling._OPTIONS[name]}, None)


@pytest.mark.parametrize('count', [1, 2])
def test_mean_over_devices(count):
  """Of one device, without a collective."""
  mesh = Mesh(np.array(jax.devices()[:count]), ('devices',))
  spec = PartitionSpec('devices')
  mean = jax.shard_map(
    lambda x: collectives.mean({'a': x}, 'devices')['a'],
    mesh=mesh,
    in_specs=spec,
    out_specs=spec,
    check_vma=False,
  )
  x = jnp.arange(4.0 * count).reshape(count, 4)
  np.testing.assert_array_equal(jax.jit(mean)(x), np.broadcast_to(x.mean(0), x.shape))
  assert ('psum' in str(jax.make_jaxpr(mean)(x))) == (count > 1)
