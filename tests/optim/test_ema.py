"""The moving average of the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets_augmult.optim import ema
from tests.golden import load_json

_PARAMS = {'conv': {'w': jnp.array([[0.1, -3.7], [1e-8, 5e7]]), 'b': jnp.array([0.3])}}


@pytest.mark.parametrize(
  ('step', 'expected'),
  [
    (0, 1 / 10),
    (1, 2 / 11),
    (90, 91 / 100),
    (889, 890 / 899),  # 0.98999, the last below 0.99
    (890, 0.99),  # 891 / 900 is 0.99 exactly
    (891, 0.99),
    (10**6, 0.99),
  ],
)
def test_decay_warms_up(step, expected):
  """The decay is (1 + t) / (10 + t) until that reaches its final value."""
  np.testing.assert_allclose(ema.decay_at(jnp.int32(step), 0.99), expected, rtol=1e-7)


def test_update_by_hand():
  """0.75 * 4 + 0.25 * 8 = 5 and 0.75 * 0 + 0.25 * 1 = 0.25, leaf by leaf."""
  average = {'a': jnp.array([4.0, 0.0]), 'b': {'c': jnp.array(2.0)}}
  params = {'a': jnp.array([8.0, 1.0]), 'b': {'c': jnp.array(-2.0)}}
  updated = ema.update(average, params, decay=0.75)
  np.testing.assert_array_equal(updated['a'], [5.0, 0.25])
  np.testing.assert_array_equal(updated['b']['c'], 1.0)


@pytest.mark.parametrize('decay', [0.0, 0.1, 0.9999, 1.0])
def test_average_of_a_constant(decay):
  """The average of parameters that do not change is those parameters, bit for bit."""
  average = _PARAMS
  for _ in range(5):
    average = jax.jit(ema.update)(average, _PARAMS, decay=jnp.float32(decay))
  jax.tree.map(np.testing.assert_array_equal, average, _PARAMS)


def test_average_forgets_its_start():
  """After 100 steps of warm-up nothing is left of the initial parameters."""
  average = {'w': jnp.array(1000.0)}
  for step in range(100):
    average = ema.update(average, {'w': jnp.array(1.0)}, decay=ema.decay_at(step, 0.9999))
  # The share of the start is the product of (1 + t) / (10 + t), which is 9! 100! / 109! = 2.3e-13.
  np.testing.assert_allclose(average['w'], 1.0, rtol=1e-6)


def test_average_of_a_ramp():
  """In the long run the average of 0, 1, 2 ... lags decay / (1 - decay) behind: 4 for 0.8."""
  average = jnp.array(0.0)
  for step in range(100):
    average = ema.update(average, jnp.float32(step), decay=0.8)
  np.testing.assert_allclose(99 - average, 4.0, rtol=1e-4)


def test_decay_is_the_reference_one():
  """The weight of the old average at the zero-based steps of the reference."""
  golden = load_json('schedules.json')['tf1_ema']
  values = [float(ema.decay_at(step, golden['decay'])) for step in golden['steps']]
  np.testing.assert_allclose(values, golden['float64'], rtol=1e-5, atol=1e-6)
