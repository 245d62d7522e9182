"""Adaptive gradient clipping: gradients bounded relative to the weights they change."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nfnets_augmult.ops.checks import check_number
from nfnets_augmult.ops.param_names import is_classifier


def unitwise_norm(x: jax.Array) -> jax.Array:
  """Returns the norm of each unit of `x`, float32, of a shape that broadcasts with `x`.

  A unit is the weights of one output: a slice along the last axis of IO and HWIO weights, and along
  the last two of rank 3 (inputs, heads, outputs). Scalars and vectors are one unit, and so are
  arrays with at most one axis larger than 1, such as the kernel `[1, 1, 1, O]` of a 1x1 convolution
  of one channel; the published networks were trained so.
  """
  x = x.astype(jnp.float32)
  has_units = sum(size > 1 for size in x.shape) > 1
  axes = None
  if has_units:
    axes = 0 if x.ndim == 3 else tuple(range(x.ndim - 1))
  return jnp.sqrt(jnp.sum(x * x, axis=axes, keepdims=True))


def clip_unitwise(
  grad: jax.Array, weight: jax.Array, *, clipping: float, eps: float = 1e-3
) -> jax.Array:
  """Returns `grad` with each unit's norm at most `clipping` times the unit's weight norm.

  Units as in `unitwise_norm`. Shape and dtype are kept; units under the bound come back
  bit-identical, a zero gradient stays zero, and a unit that is not finite comes back as it is.

  Args:
    grad: gradient, float32 or bfloat16; norms are taken in float32.
    weight: of the shape of `grad`.
    clipping: largest ratio of norms, > 0.
    eps: lower bound on the norm of a weight, so that zero weights can move.

  Raises:
    ValueError: shapes differ, or `clipping` is not positive; the message shows the values.

  Source: Brock et al. 2021b (arXiv:2102.06171), Section 4.

  Example:
    >>> import jax.numpy as jnp
    >>> from nfnets_augmult import clip_unitwise
    >>> weight = jnp.array([[3.0, 0.0], [4.0, 1.0]])  # the units, its columns, have norms 5 and 1
    >>> grad = jnp.array([[6.0, 0.25], [8.0, 0.0]])  # 10 and 0.25
    >>> clip_unitwise(grad, weight, clipping=0.5).tolist()
    [[1.5, 0.25], [2.0, 0.0]]
  """
  if grad.shape != weight.shape:
    raise ValueError(f'a gradient {grad.shape} is not that of a weight {weight.shape}')
  _check(clipping, eps)
  grad_norm = unitwise_norm(grad)
  largest = clipping * jnp.maximum(unitwise_norm(weight), eps)
  is_over = grad_norm > largest
  # Dividing by 1 where nothing is clipped avoids 0 / 0 in the branch not taken.
  scale = largest / jnp.where(is_over, grad_norm, 1.0)
  clipped = (grad.astype(jnp.float32) * scale).astype(grad.dtype)
  return jnp.where(is_over, clipped, grad)


def _check(clipping: float, eps: float) -> None:
  """Raises ValueError unless both are positive."""
  check_number('clipping', clipping, above=0)
  check_number('eps', eps, above=0)


def adaptive_gradient_clipping(
  clipping: float,
  *,
  eps: float = 1e-3,
  mask: Any | Callable[[Any], Any] | None = None,
) -> optax.GradientTransformation:
  """Returns the stateless optax transformation that applies `clip_unitwise` to every parameter.

  Args:
    clipping: largest ratio of norms, > 0.
    eps: lower bound on the norm of a weight.
    mask: a tree like the parameters, of bools, or a function from parameters to one; where false
      the gradient is not clipped. `is_clipped` is the published one. None clips everything.

  Raises:
    ValueError: an argument is not positive, or `update` is called without parameters.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from nfnets_augmult import adaptive_gradient_clipping, is_clipped
    >>> optimizer = optax.chain(
    ...   adaptive_gradient_clipping(0.5, mask=is_clipped), optax.scale_by_learning_rate(0.25)
    ... )
    >>> params = {'network/conv': {'b': jnp.array([3.0, 4.0])}}
    >>> gradient = {'network/conv': {'b': jnp.array([6.0, 8.0])}}
    >>> updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    >>> updates['network/conv']['b'].tolist()
    [-0.375, -0.5]
  """
  _check(clipping, eps)

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    if params is None:
      raise ValueError('adaptive gradient clipping compares with weights: update needs params=')
    clipped = jax.tree.map(
      lambda grad, weight: clip_unitwise(grad, weight, clipping=clipping, eps=eps), updates, params
    )
    return clipped, state

  transformation = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
  return transformation if mask is None else optax.masked(transformation, mask)


def is_clipped(params: dict[str, dict[str, Any]]) -> dict[str, dict[str, bool]]:
  """Returns the published mask: true but for the weight of the classifier.

  Its bias is clipped, and so are the linear maps of squeeze-excite.

  Source: Brock et al. 2021b (arXiv:2102.06171), Section 4.1.

  Example:
    >>> from nfnets_augmult import is_clipped
    >>> is_clipped({'network/conv': {'w': 0}, 'network/linear': {'w': 0, 'b': 0}})
    {'network/conv': {'w': True}, 'network/linear': {'w': False, 'b': True}}
  """
  return {
    module: {name: not (name == 'w' and is_classifier(module)) for name in values}
    for module, values in params.items()
  }
