"""Evaluation of no more than what a result depends on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets_augmult.ops import dead_code


def test_what_is_not_needed_is_not_run():
  """An operation that would fail is left out, and what the result needs is not."""

  def fail(x):
    raise RuntimeError(f'was run with {x}')

  def function(tree, y):
    unused = jax.pure_callback(fail, jax.ShapeDtypeStruct((3,), jnp.float32), tree['x'])
    del unused
    return {'sum': tree['x'] + y, 'same': y, 'constant': jnp.arange(3)}

  x, y = jnp.arange(3.0), jnp.ones(3)
  result = dead_code.evaluate(function, {'x': x}, y)
  expected = {'sum': [1.0, 2.0, 3.0], 'same': [1.0, 1.0, 1.0], 'constant': [0, 1, 2]}
  jax.tree.map(
    np.testing.assert_array_equal,
    result,
    jax.tree.map(np.array, expected, is_leaf=lambda v: isinstance(v, list)),
  )
  assert result['constant'].dtype == jnp.int32


def test_effects_stay():
  """What prints is run although nothing depends on it."""
  seen = []

  def function(x):
    jax.debug.callback(lambda value: seen.append(float(value)), x)
    return 2 * x

  assert float(dead_code.evaluate(function, jnp.float32(4))) == 8
  jax.effects_barrier()
  assert seen == [4.0]


def test_it_can_be_traced():
  """Shapes are those of the function, and so are the values in a program."""

  def function(x):
    return jnp.linalg.norm(x), x.sum()

  def outer(x):
    return dead_code.evaluate(function, x)

  x = jnp.arange(6.0)
  assert jax.eval_shape(outer, x) == jax.eval_shape(function, x)
  np.testing.assert_allclose(jax.jit(outer)(x), function(x), rtol=1e-6)


def test_errors_are_those_of_the_function():
  with pytest.raises(ZeroDivisionError):
    dead_code.evaluate(lambda x: x / (1 // 0), jnp.ones(2))
