"""Stages of residual blocks: which blocks there are, their numbers, and how they are run."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax

from nfnets_augmult.models.nf_blocks import BlockShape, nf_block


class Block(NamedTuple):
  """One block of the plan: its shape, and the numbers in which equal shapes may differ."""

  shape: BlockShape
  beta: float
  drop_rate: float


def plan_blocks(
  stages: Sequence[Sequence[BlockShape]], *, alpha: float, stochastic_depth_rate: float
) -> list[Block]:
  """Returns the blocks of all `stages` in order.

  The expected standard deviation of the residual stream grows by `alpha**2` in variance with each
  block, from 1 at the start; a stage's first block starts anew, as its shortcut reads an input
  already scaled to 1, and adds its own branch. The chance that stochastic depth drops a block is
  `stochastic_depth_rate * index / blocks`, so the first is never dropped.

  Source: Brock et al. 2021a (arXiv:2101.08692), Section 3; Huang et al. 2016 (arXiv:1603.09382).
  """
  total = sum(len(stage) for stage in stages)
  blocks: list[Block] = []
  expected_std = 1.0
  for stage in stages:
    for index, shape in enumerate(stage):
      drop_rate = stochastic_depth_rate * len(blocks) / total
      blocks.append(Block(shape, beta=1 / expected_std, drop_rate=drop_rate))
      incoming = 1.0 if index == 0 else expected_std
      expected_std = (incoming**2 + alpha**2) ** 0.5
  return blocks


def draw_keep(blocks: Sequence[Block], batch_size: int, *, is_training: bool) -> list[Any]:
  """Returns for each block a bool mask `[B]` of the samples that keep its branch, or None for all.

  Draws a Haiku key per block that can be dropped, and none otherwise.
  """
  return [
    jax.random.bernoulli(hk.next_rng_key(), 1 - block.drop_rate, (batch_size,))
    if is_training and block.drop_rate > 0
    else None
    for block in blocks
  ]


def run_blocks(
  x: jax.Array,
  blocks: Sequence[Block],
  params: Sequence[dict[str, Any]],
  keep: Sequence[jax.Array | None],
  *,
  activation: str,
  alpha: float,
  conv_algorithm: str,
) -> jax.Array:
  """Returns the residual stream after `blocks`, whose parameters and masks are given in order."""
  for block, block_params, block_keep in zip(blocks, params, keep, strict=True):
    x = nf_block(
      block_params,
      x,
      shape=block.shape,
      activation=activation,
      alpha=alpha,
      beta=block.beta,
      keep=block_keep,
      conv_algorithm=conv_algorithm,
    )
  return x
