"""Initial weights: those of Haiku and JAX, drawn by fewer programs."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets_augmult.models import initializers, make_model
from nfnets_augmult.ops import dead_code

_HE = ('fan_in', 'truncated_normal')


def _drawn(init, shape):
  return hk.transform(lambda: init(shape, jnp.float32)).apply({}, jax.random.PRNGKey(3))


@pytest.mark.parametrize(
  'shape', [(3, 3, 1, 4), (64, 64), (4097, 1), (3, 3, 64, 80), (1, 1, 600, 900), (1, 7)]
)
@pytest.mark.parametrize(
  ('ours', 'theirs'),
  [
    (initializers.Normal(), hk.initializers.VarianceScaling(1.0, 'fan_in', 'normal')),
    (
      initializers.Normal(gain=2.0, is_truncated=True),
      hk.initializers.VarianceScaling(2.0, *_HE),
    ),
    (initializers.Normal(0.1), hk.initializers.RandomNormal(0.1)),
    (initializers.Normal(0.1, is_truncated=True), hk.initializers.TruncatedNormal(0.1)),
  ],
)
def test_weights_are_those_of_haiku(ours, theirs, shape):
  """Bit for bit, whatever the vector that they are cut from."""
  np.testing.assert_array_equal(_drawn(ours, shape), _drawn(theirs, shape))


def test_shapes_share_programs(caplog):
  """Twelve shapes are cut from what one program draws."""
  jax.clear_caches()
  with jax.log_compiles():
    for width in range(60, 72):
      _drawn(initializers.Normal(0.1), (3, 3, width, 80))
  compiled = [text for text in caplog.messages if text.startswith('Finished XLA compilation')]
  assert sum('normal' in text for text in compiled) == 1
  assert sum('slice' in text for text in compiled) == 12  # so the messages still say so


def test_parameters_without_activations():
  """The parameters of a network are the same without its forward pass."""
  init = functools.partial(make_model('wrn_10_1', num_classes=10).init, is_training=True)
  arguments = jax.random.PRNGKey(1), jnp.zeros((1, 8, 8, 1))
  jax.tree.map(
    np.testing.assert_array_equal, dead_code.evaluate(init, *arguments), init(*arguments)
  )
