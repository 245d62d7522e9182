"""Sharpness-aware minimization (SAM): the gradient after an ascent step."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nfnets_augmult.ops import collectives
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


def ascent_slots(*, batch_size: int, ascent_fraction: float) -> np.ndarray:
  """Returns the slots of a batch that the ascent step reads, int64 `[ceil(fraction * B)]`, rising.

  They are evenly spaced over the batch, whose slots are numbered image by image. Every device, as
  it holds slots that follow each other, therefore holds the same number of them, up to one: they
  are a function of the batch alone, whatever the number of devices and hosts.

  Args:
    batch_size: B.
    ascent_fraction: in (0, 1].

  Raises:
    ValueError: the fraction is out of range.

  Example:
    >>> from nfnets_augmult import ascent_slots
    >>> ascent_slots(batch_size=16, ascent_fraction=0.2).tolist()
    [0, 4, 8, 12]
  """
  check_number('ascent_fraction', ascent_fraction, above=0, most=1)
  # Minus a tolerance, for products such as 0.07 * 100 that round to above the integer.
  count = math.ceil(ascent_fraction * batch_size - 1e-9)
  return np.arange(count) * batch_size // count


def take_slots(slots: np.ndarray, *, batch_size: int) -> Callable[[Any], Any]:
  """Returns a function from a device's part of a batch to those of its samples that are in `slots`.

  As all devices run one program, each takes as many samples as the one that holds most; those that
  fill up have mask 0.

  Args:
    slots: see `ascent_slots`.
    batch_size: B, over all devices.

  Returns:
    A function of a dict of arrays `[B / D, ...]`, among them `slot`, integers that follow each
    other, and `mask`, 0 for samples that do not count; its result has arrays `[ceil(S / D), ...]`
    for S slots.

  Example:
    >>> import jax.numpy as jnp
    >>> from nfnets_augmult import ascent_slots, take_slots
    >>> take = take_slots(ascent_slots(batch_size=16, ascent_fraction=0.2), batch_size=16)
    >>> part = take({'slot': jnp.arange(8, 16), 'mask': jnp.ones(8)})  # the second of two devices
    >>> part['slot'].tolist(), part['mask'].tolist()
    ([8, 12], [1.0, 1.0])
  """

  def take(batch: Any) -> Any:
    held = len(batch['slot'])
    count = math.ceil(len(slots) * held / batch_size)
    first = batch['slot'][0]
    filled = jnp.asarray(np.append(slots, np.full(count, batch_size)))
    start = jnp.searchsorted(jnp.asarray(slots), first)
    place = jax.lax.dynamic_slice_in_dim(filled, start, count) - first
    part = jax.tree.map(lambda leaf: leaf[jnp.minimum(place, held - 1)], batch)
    return dict(part, mask=jnp.where(place < held, part['mask'], 0))

  return take


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
    select_ascent: maps a batch to the part that the ascent step reads, see `take_slots`; None for
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
      ascent_grad = collectives.mean(ascent_grad, axis_name)
    perturbed = jax.tree.map(
      lambda param, step: param + step.astype(param.dtype),
      params,
      ascent_direction(ascent_grad, rho=rho),
    )
    return value_and_grad_fn(perturbed, batch, *arguments)

  return value_and_grad
