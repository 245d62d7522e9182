"""SGD against three steps worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nfnets_augmult.optim.sgd import sgd

_GRADIENTS = (0.5, -0.25, 1.0)


def _run(optimizer, learning_rates=(0.1, 0.1, 0.1)):
  """Weight and bias, both 1 at the start, after each of three steps."""
  params = {'w': jnp.ones((1, 1)), 'b': jnp.ones(1)}
  state = optimizer.init(params)
  history = []
  for gradient, learning_rate in zip(_GRADIENTS, learning_rates, strict=True):
    gradients = jax.tree.map(lambda param, g=gradient: jnp.full_like(param, g), params)
    direction, state = optimizer.update(gradients, state, params)
    updates = jax.tree.map(lambda d, rate=learning_rate: -rate * d, direction)
    params = optax.apply_updates(params, updates)
    history.append((float(params['w'][0, 0]), float(params['b'][0])))
  return history


def test_momentum_by_hand():
  """Momentum 0.9, decay 0.1 of the weight alone, learning rate 0.1.

  Weight: d = 0.5 + 0.1 * 1 = 0.6, m = 0.6, w = 1 - 0.06 = 0.94; d = -0.25 + 0.094 = -0.156,
  m = 0.54 - 0.156 = 0.384, w = 0.94 - 0.0384 = 0.9016; d = 1 + 0.09016,
  m = 0.3456 + 1.09016 = 1.43576, w = 0.9016 - 0.143576 = 0.758024.
  Bias: m = 0.5, b = 0.95; m = 0.45 - 0.25 = 0.2, b = 0.93; m = 0.18 + 1 = 1.18, b = 0.812.
  """
  expected = [(0.94, 0.95), (0.9016, 0.93), (0.758024, 0.812)]
  np.testing.assert_allclose(_run(sgd(momentum=0.9, weight_decay=0.1)), expected, rtol=1e-6)


def test_nesterov_by_hand():
  """The same with the step d + 0.9 m in place of m.

  Weight: d = m = 0.6, step 1.14, w = 0.886; d = -0.25 + 0.0886 = -0.1614,
  m = 0.54 - 0.1614 = 0.3786, step -0.1614 + 0.34074 = 0.17934, w = 0.868066;
  d = 1.0868066, m = 0.34074 + 1.0868066 = 1.4275466, step 1.0868066 + 1.28479194 = 2.37159854,
  w = 0.868066 - 0.237159854 = 0.630906146.
  Bias: m = 0.5, step 0.95, b = 0.905; m = 0.2, step -0.25 + 0.18 = -0.07, b = 0.912;
  m = 1.18, step 1 + 1.062 = 2.062, b = 0.7058.
  """
  expected = [(0.886, 0.905), (0.868066, 0.912), (0.630906146, 0.7058)]
  optimizer = sgd(momentum=0.9, nesterov=True, weight_decay=0.1)
  np.testing.assert_allclose(_run(optimizer), expected, rtol=1e-6)


def test_learning_rate_acts_on_all_of_the_momentum():
  """Bias with learning rates 0.1, 0.2, 0: 1 - 0.05 = 0.95, - 0.2 * 0.2 = 0.91, and it stops."""
  history = _run(sgd(momentum=0.9), learning_rates=(0.1, 0.2, 0.0))
  np.testing.assert_allclose([bias for _, bias in history], [0.95, 0.91, 0.91], rtol=1e-6)


@pytest.mark.parametrize('nesterov', [False, True])
def test_without_momentum(nesterov):
  """Without momentum and decay the direction is the gradient: 1 - 0.05 + 0.025 - 0.1."""
  expected = [(0.95, 0.95), (0.975, 0.975), (0.875, 0.875)]
  history = _run(sgd(momentum=0.0, nesterov=nesterov))
  np.testing.assert_allclose(history, expected, rtol=1e-6)


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (dict(momentum=1.0), r'^momentum=1.0 must be a number in \[0, 1\)'),
    (dict(momentum=-0.1), r'^momentum=-0.1 must be a number in'),
    (
      dict(momentum=0.9, weight_decay=-1e-4),
      r'^weight_decay=-0.0001 must be a finite number of at least 0',
    ),
  ],
)
def test_refuses(arguments, message):
  """Coefficients out of range are refused by key and value."""
  with pytest.raises(ValueError, match=message):
    sgd(**arguments)
