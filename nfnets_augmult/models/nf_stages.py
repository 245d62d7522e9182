"""Stages of residual blocks: which blocks there are, their numbers, and how they are run."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets_augmult.models.grouped_conv import default_algorithm
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
  scan_blocks: bool,
  remat: bool,
) -> jax.Array:
  """Returns the residual stream after `blocks`, whose parameters and masks are given in order.

  Args:
    x: the residual stream `[B, H, W, C]` before the first block.
    blocks: the plan.
    params: of each block.
    keep: of each block, as `draw_keep` gives them.
    activation: see `nf_block`.
    alpha: see `nf_block`.
    conv_algorithm: see `conv2d`.
    scan_blocks: compile one body for all consecutive blocks of one shape, which are all but the
      first of a stage, and loop over it, so that compile time hardly grows with depth. The price is
      a copy of the blocks' parameters, stacked, and of their gradients, and on CPU a slower step.
    remat: keep only the stream between blocks for the gradient, and compute each block anew. XLA
      on CPU undoes this outside a scan: no memory was saved there without `scan_blocks`.
  """

  def make_step(shape: BlockShape, *, is_scanned: bool) -> Callable[..., jax.Array]:
    algorithm = conv_algorithm
    if algorithm == 'auto':
      algorithm = default_algorithm(in_loop=is_scanned)

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
        conv_algorithm=algorithm,
      )

    # A loop's body cannot be merged with its own forward pass, so it needs no barrier against it.
    return jax.checkpoint(step, prevent_cse=not is_scanned) if remat else step

  rows = list(zip(blocks, params, keep, strict=True))
  for shape, group in itertools.groupby(rows, key=lambda row: row[0].shape):
    members = list(group)
    is_scanned = scan_blocks and len(members) > 1
    step = make_step(shape, is_scanned=is_scanned)
    if is_scanned:
      x = _scan(step, x, members)
    else:
      for block, block_params, block_keep in members:
        x = step(x, block_params, jnp.float32(block.beta), block_keep)
  return x


def _scan(step: Callable[..., jax.Array], x: jax.Array, members: list[Any]) -> jax.Array:
  """Returns what the loop over `members`, of one shape, returns, as a `jax.lax.scan`."""
  blocks, params, keep = zip(*members, strict=True)
  masks = None
  if any(mask is not None for mask in keep):
    everyone = jnp.ones(len(x), bool)
    masks = jnp.stack([everyone if mask is None else mask for mask in keep])
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
  betas = jnp.asarray([block.beta for block in blocks], jnp.float32)
  return jax.lax.scan(lambda x, row: (step(x, *row), None), x, (stacked, betas, masks))[0]
