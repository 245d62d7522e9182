"""SGD with momentum and L2 decay, from the parts of optax."""

import optax

from nfnets_augmult.optim import agc, masks


def sgd(
  *,
  momentum: float,
  nesterov: bool = False,
  weight_decay: float = 0.0,
  clipping: float = 0.0,
  clipping_eps: float = 1e-3,
) -> optax.GradientTransformation:
  """Returns the direction of descent, still without the learning rate.

  The order is that of the published NFNets: the gradient is clipped (AGC), `weight_decay` times the
  weights is added, then comes momentum. Because the learning rate comes last, a change
  of it acts at once on all of the accumulated momentum.

  Args:
    momentum: coefficient of the running sum, in `[0, 1)`; 0.9 in the paper.
    nesterov: whether to look one step ahead.
    weight_decay: gradient of `weight_decay / 2 * |w|^2`, for the parameters `masks.decayed`.
    clipping: largest ratio of gradient norm to weight norm per unit, see `agc`, for all parameters
      but the classifier's weight; 0 for none.
    clipping_eps: least weight norm in that ratio.

  Raises:
    ValueError: a coefficient is out of range.
  """
  if not 0 <= momentum < 1:
    raise ValueError(f'optimizer.momentum={momentum} must be in [0, 1)')
  if weight_decay < 0:
    raise ValueError(f'optimizer.weight_decay={weight_decay} must not be negative')
  if clipping < 0 or clipping_eps <= 0:
    raise ValueError(
      f'optimizer.clipping={clipping} must not be negative, and optimizer.clipping_eps='
      f'{clipping_eps} must be positive'
    )
  clip = optax.identity()
  if clipping:
    clip = agc.adaptive_gradient_clipping(clipping, eps=clipping_eps, mask=agc.is_clipped)
  return optax.chain(
    clip,
    optax.add_decayed_weights(weight_decay, mask=masks.decayed),
    optax.trace(decay=momentum, nesterov=nesterov),
  )
