"""Stages of residual blocks: their specs, stochastic depth, and the forward pass."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets_augmult.models.nf_blocks import BlockShape, nf_block
from nfnets_augmult.models.random_by_slot import uniform


class BlockSpec(NamedTuple):
  """Shape of one block, and the scalars in which blocks of equal shape may differ."""

  shape: BlockShape
  beta: float
  drop_rate: float


def make_block_specs(
  stages: Sequence[Sequence[BlockShape]], *, alpha: float, stochastic_depth_rate: float
) -> list[BlockSpec]:
  """Returns the specs of the blocks of all `stages`, in order.

  `beta` is one over the expected standard deviation of the block's input. The variance starts at 1
  and grows by `alpha**2` with each block; the first block of a stage resets it to `1 + alpha**2`,
  since its shortcut reads the input scaled to unit variance. Stochastic depth drops block i of N
  with probability `stochastic_depth_rate * i / N`, so the first is never dropped.

  Source: Brock et al. 2021a (arXiv:2101.08692), Section 3; Huang et al. 2016 (arXiv:1603.09382).
  """
  total = sum(len(stage) for stage in stages)
  specs: list[BlockSpec] = []
  expected_std = 1.0
  for stage in stages:
    for index, shape in enumerate(stage):
      drop_rate = stochastic_depth_rate * len(specs) / total
      specs.append(BlockSpec(shape, beta=1 / expected_std, drop_rate=drop_rate))
      incoming = 1.0 if index == 0 else expected_std
      expected_std = (incoming**2 + alpha**2) ** 0.5
  return specs


def draw_keep(specs: Sequence[BlockSpec], slot: jax.Array, *, is_training: bool) -> list[Any]:
  """Returns per block a bool mask `[B]` of the samples that keep its branch, None for all of them.

  Draws one Haiku key, if any block can be dropped.

  Args:
    specs: of the blocks, in order.
    slot: int32 `[B]`, of each sample in the whole batch.
    is_training: whether branches are dropped at all.
  """
  if not is_training or not any(spec.drop_rate > 0 for spec in specs):
    return [None] * len(specs)
  draws = uniform(hk.next_rng_key(), slot, (len(specs),))
  return [
    draws[:, index] >= spec.drop_rate if spec.drop_rate > 0 else None
    for index, spec in enumerate(specs)
  ]


def run_blocks(
  x: jax.Array,
  specs: Sequence[BlockSpec],
  params: Sequence[dict[str, Any]],
  keep: Sequence[jax.Array | None],
  *,
  activation: str,
  alpha: float,
  conv_algorithm: str,
  scan_blocks: bool,
  remat: bool,
) -> jax.Array:
  """Returns the residual stream after all blocks.

  Args:
    x: the residual stream `[B, H, W, C]` before the first block.
    specs: of the blocks, in order.
    params: of each block.
    keep: mask of each block, see `draw_keep`.
    activation: see `nf_block`.
    alpha: see `nf_block`.
    conv_algorithm: see `conv2d`.
    scan_blocks: `jax.lax.scan` over consecutive blocks of one shape, which are all but the first of
      a stage, so that compile time hardly grows with depth. The price is a stacked copy of the
      parameters and of their gradients, and on CPU a slower step.
    remat: keep only the stream between blocks for the backward pass and recompute each block. XLA
      on CPU undoes this outside a scan: no memory was saved there without `scan_blocks`.
  """

  def make_step(shape: BlockShape, *, is_scanned: bool) -> Callable[..., jax.Array]:
    def step(
      x: jax.Array, params: dict[str, Any], beta: jax.Array, keep: jax.Array | None
    ) -> jax.Array:
      return nf_block(
        params,
        x,
        shape=shape,
        activation=activation,
        alpha=alpha,
        beta=beta,
        keep=keep,
        conv_algorithm=conv_algorithm,
      )

    # In a scan, XLA cannot merge the recomputation with the forward pass, so CSE is no danger.
    return jax.checkpoint(step, prevent_cse=not is_scanned) if remat else step

  blocks = zip(specs, params, keep, strict=True)
  for shape, group in itertools.groupby(blocks, key=lambda block: block[0].shape):
    equal_blocks = list(group)
    is_scanned = scan_blocks and len(equal_blocks) > 1
    step = make_step(shape, is_scanned=is_scanned)
    if is_scanned:
      x = _scan(step, x, equal_blocks)
    else:
      for spec, block_params, block_keep in equal_blocks:
        x = step(x, block_params, jnp.float32(spec.beta), block_keep)
  return x


def _scan(step: Callable[..., jax.Array], x: jax.Array, blocks: list[Any]) -> jax.Array:
  """Applies blocks of one shape, (spec, params, keep) each, by `jax.lax.scan`."""
  specs, params, keep = zip(*blocks, strict=True)
  masks = None
  if any(mask is not None for mask in keep):
    keep_all = jnp.ones(len(x), bool)
    masks = jnp.stack([keep_all if mask is None else mask for mask in keep])
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
  betas = jnp.asarray([spec.beta for spec in specs], jnp.float32)
  return jax.lax.scan(lambda x, row: (step(x, *row), None), x, (stacked, betas, masks))[0]
