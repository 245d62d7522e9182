"""The memory that a training step takes on every device, however small its part of the batch."""

from typing import Any

import jax

from nfnets_augmult.training.state import TrainState


def tree_bytes(tree: Any) -> int:
  """Returns the bytes of all arrays, or `jax.ShapeDtypeStruct`s, of a tree."""
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def replicated_bytes(state: TrainState, *, is_sharpness_aware: bool = False) -> dict[str, int]:
  """Returns what each device holds of one run while a gradient is clipped and applied, in bytes.

  Activations, images and copies of the parameters in another dtype come on top.

  Args:
    state: arrays or shapes.
    is_sharpness_aware: whether the gradient is that of `sam.sharpness_aware`.

  Returns:
    By name: `parameters`, `optimizer` (the momentum), `average`, `gradient`, and with SAM the
    `perturbed parameters`.
  """
  parameters = tree_bytes(state.params)
  parts = {
    'parameters': parameters,
    'optimizer': tree_bytes(state.opt_state),
    'average': tree_bytes(state.ema_params),
    'gradient': parameters,
  }
  return parts | ({'perturbed parameters': parameters} if is_sharpness_aware else {})
