"""Sharpness-aware minimization (SAM): the gradient after an ascent step."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nfnets_augmult.ops.checks import check_number

# From (params, batch, *arguments) to (value, gradient), or ((value, auxiliary output), gradient).
ValueAndGrad = Callable[..., tuple[Any, Any]]


def ascent_direction(grad: Any, *, rho: float) -> Any:
  """Returns `grad` scaled to a global norm of `rho`, and zeros for a zero gradient.

  The norm is over all leaves together, in float32; each leaf keeps its dtype. NaN and infinities
  propagate.

  Args:
    grad: a tree of arrays.
    rho: radius of the ascent step, >= 0.

  Source: Foret et al. 2021 (arXiv:2010.01412), equation 2 with p = 2.
  """
  squares = [jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(grad)]
  norm = jnp.sqrt(sum(squares))
  # 0 / 1 and not 0 / 0 at a stationary point.
  scale = rho / jnp.where(norm == 0, 1.0, norm)
  return jax.tree.map(lambda leaf: (leaf.astype(jnp.float32) * scale).astype(leaf.dtype), grad)


def ascent_slots_per_device(
  *, unique_images_per_batch: int, augmult: int, device_count: int, ascent_fraction: float
) -> int:
  """Returns how many slots of a device's batch, its first, the ascent step reads.

  The fraction is of unique images: the first `ceil(ascent_fraction * U)` of the global batch, with
  all their copies. A global batch is image-major, `[U, n]`, and dealt to D devices in turn, so that
  on each device these images fill a prefix. The prefixes are padded to equal lengths with slots of
  the next image, since all devices run one program.

  Args:
    unique_images_per_batch: U.
    augmult: n, copies per unique image.
    device_count: D, which divides `U * n`.
    ascent_fraction: in (0, 1].

  Raises:
    ValueError: the fraction is out of range, or D does not divide the batch.

  Example:
    >>> from nfnets_augmult import ascent_slots_per_device
    >>> ascent_slots_per_device(
    ...   unique_images_per_batch=10, augmult=4, device_count=2, ascent_fraction=0.2
    ... )
    4
  """
  check_number('ascent_fraction', ascent_fraction, above=0, most=1)
  batch_size = unique_images_per_batch * augmult
  if batch_size % device_count:
    raise ValueError(
      f'{unique_images_per_batch} images x {augmult} copies do not divide over '
      f'{device_count} devices'
    )
  # Minus a tolerance, for products such as 0.07 * 100 that round to above the integer.
  ascent_images = math.ceil(ascent_fraction * unique_images_per_batch - 1e-9)
  return math.ceil(ascent_images * augmult / device_count)


def first_slots(count: int) -> Callable[[Any], Any]:
  """Returns a function that takes the first `count` slots of every array of a batch.

  Example:
    >>> import numpy as np
    >>> from nfnets_augmult import first_slots
    >>> first_slots(2)({'image': np.zeros((6, 8, 8, 3)), 'label': np.arange(6)})['label'].tolist()
    [0, 1]
  """

  def select(batch: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[:count], batch)

  return select


def sharpness_aware(
  value_and_grad_fn: ValueAndGrad,
  *,
  rho: float,
  axis_name: str | None = None,
  select_ascent: Callable[[Any], Any] | None = None,
) -> ValueAndGrad:
  """Returns a function like `value_and_grad_fn`, evaluated after an ascent step of radius `rho`.

  The result takes `(params, batch, *arguments)`, steps from `params` along the gradient of the
  ascent batch, and returns value, auxiliary output and gradient of the whole batch at the perturbed
  parameters; the caller's update still starts from `params`. Both evaluations get the same further
  arguments, hence the same PRNG key.

  By default each device climbs the gradient of its own samples, as published (m-sharpness), which
  regularizes more the more devices share a batch. With `axis_name` all devices climb the gradient
  of the global batch, at the price of one more all-reduce, and the number of devices does not
  matter.

  Args:
    value_and_grad_fn: maps `(params, batch, *arguments)` to `(value, grad)`, `grad` of this
      device's samples only.
    rho: radius of the ascent step, >= 0; at 0 the result equals `value_and_grad_fn`'s.
    axis_name: mapped axis of devices over which the ascent gradient is averaged, or None.
    select_ascent: maps a batch to the part that the ascent step reads, see `first_slots`; None for
      all of it.

  Raises:
    ValueError: `rho` is negative or not finite.

  Source: Foret et al. 2021 (arXiv:2010.01412), Algorithm 1 and Section 4.1 (per-device ascent);
    Brock et al. 2021b (arXiv:2102.06171), Section 5 (20 % of the batch).

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from nfnets_augmult import sharpness_aware
    >>> value_and_grad = jax.value_and_grad(lambda param, batch: param**2)
    >>> value, grad = sharpness_aware(value_and_grad, rho=1.0)(jnp.array(3.0), None)  # at 3 + 1
    >>> float(value), float(grad)
    (16.0, 8.0)
  """
  check_number('rho', rho, least=0)

  def value_and_grad(params: Any, batch: Any, *arguments: Any) -> tuple[Any, Any]:
    ascent_batch = batch if select_ascent is None else select_ascent(batch)
    _, ascent_grad = value_and_grad_fn(params, ascent_batch, *arguments)
    if axis_name is not None:
      ascent_grad = jax.lax.pmean(ascent_grad, axis_name)
    perturbed = jax.tree.map(
      lambda param, step: param + step.astype(param.dtype),
      params,
      ascent_direction(ascent_grad, rho=rho),
    )
    return value_and_grad_fn(perturbed, batch, *arguments)

  return value_and_grad
