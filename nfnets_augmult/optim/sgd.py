"""SGD with momentum and L2 decay, from the parts of optax."""

from collections.abc import Sequence

import optax

from nfnets_augmult.ops.checks import check_bool, check_number
from nfnets_augmult.optim import agc, freezing, masks


def sgd(
  *,
  momentum: float,
  nesterov: bool = False,
  weight_decay: float = 0.0,
  clipping: float = 0.0,
  clipping_eps: float = 1e-3,
  freeze: Sequence[str] = (),
  freeze_steps: int = 0,
  unfreeze: str = 'at_once',
) -> optax.GradientTransformation:
  """Returns the transformation from gradients to directions, without the learning rate.

  The order is that of the published NFNets: clip the gradient (AGC), add `weight_decay` times the
  weights, apply momentum. As the learning rate comes last, a change of it acts at once on all of
  the accumulated momentum.

  Args:
    momentum: coefficient of the running sum, in `[0, 1)`; 0.9 in the paper.
    nesterov: whether to use Nesterov momentum.
    weight_decay: gradient of `weight_decay / 2 * |w|^2`, for the parameters `masks.decayed`.
    clipping: largest ratio of gradient norm to weight norm per unit, see `agc`, for all parameters
      but the classifier's weight; 0 for none.
    clipping_eps: lower bound on the weight norm in that ratio.
    freeze: groups of parameters that stay as they are, without momentum, see `freezing.frozen`.
    freeze_steps: for how many updates; 0 for all.
    unfreeze: `'at_once'` or `'gradually'`, see `freezing.hold`.

  Raises:
    ValueError: a coefficient is out of range; `init` raises those of `freezing.frozen`.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from nfnets_augmult import sgd
    >>> optimizer = optax.chain(
    ...   sgd(momentum=0.9, weight_decay=0.5, clipping=0.01), optax.scale_by_learning_rate(0.5)
    ... )
    >>> params = {'network/linear': {'w': jnp.ones((2, 1)), 'b': jnp.ones(1)}}
    >>> state = optimizer.init(params)
    >>> gradient = {'network/linear': {'w': jnp.ones((2, 1)), 'b': jnp.zeros(1)}}
    >>> updates, state = optimizer.update(gradient, state, params)
    >>> updates['network/linear']['w'].tolist()  # -0.5 (1 + 0.5 * 1): the classifier is not clipped
    [[-0.75], [-0.75]]
  """
  check_number('momentum', momentum, least=0, below=1)
  check_bool('nesterov', nesterov)
  check_number('weight_decay', weight_decay, least=0)
  check_number('clipping', clipping, least=0)
  check_number('clipping_eps', clipping_eps, above=0)
  clip = optax.identity()
  if clipping:
    clip = agc.adaptive_gradient_clipping(clipping, eps=clipping_eps, mask=agc.is_clipped)
  return optax.chain(
    clip,
    optax.add_decayed_weights(weight_decay, mask=masks.decayed),
    *([freezing.hold(freeze, steps=freeze_steps, unfreeze=unfreeze)] if freeze else []),
    optax.trace(decay=momentum, nesterov=nesterov),
  )
