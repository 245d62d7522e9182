"""SGD with momentum and L2 decay, from the parts of optax."""

import optax

from nfnets_augmult.optim import masks


def sgd(
  *, momentum: float, nesterov: bool = False, weight_decay: float = 0.0
) -> optax.GradientTransformation:
  """Returns the direction of descent, still without the learning rate.

  The order is that of the paper's code base: the gradient (AGC goes in front), plus
  `weight_decay` times the weights, then momentum. Because the learning rate comes last, a change
  of it acts at once on all of the accumulated momentum.

  Args:
    momentum: coefficient of the running sum, in `[0, 1)`; 0.9 in the paper.
    nesterov: whether to look one step ahead.
    weight_decay: gradient of `weight_decay / 2 * |w|^2`, for the parameters `masks.decayed`.

  Raises:
    ValueError: a coefficient is out of range.
  """
  if not 0 <= momentum < 1:
    raise ValueError(f'optimizer.momentum={momentum} must be in [0, 1)')
  if weight_decay < 0:
    raise ValueError(f'optimizer.weight_decay={weight_decay} must not be negative')
  return optax.chain(
    optax.add_decayed_weights(weight_decay, mask=masks.decayed),
    optax.trace(decay=momentum, nesterov=nesterov),
  )
