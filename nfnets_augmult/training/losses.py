"""Losses per sample, and their mean over all copies of all images (equation 2)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax


def cross_entropy(
  logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0
) -> jax.Array:
  """Returns the cross entropy of each sample, float32 `[B]`.

  Args:
    logits: `[B, K]`, any float type; the arithmetic is in float32.
    labels: int `[B]` in `[0, K)`, or float `[B, K]`, distributions over the classes.
    label_smoothing: share of the target spread evenly over all K classes, in `[0, 1)`
      (Szegedy et al. 2016).
  """
  if jnp.ndim(labels) == 1:
    labels = jax.nn.one_hot(jnp.asarray(labels), logits.shape[-1])
  targets = optax.smooth_labels(labels, label_smoothing)
  return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def mixed_labels(batch: Mapping[str, jax.Array], num_classes: int) -> jax.Array:
  """Returns the labels of a batch for `cross_entropy`, soft if images are mixed.

  Args:
    batch: `label` int `[B]`; with Mixup or CutMix also `partner_label` int `[B]` and `mix_weight`
      float32 `[B]`, the weight of `label`.
    num_classes: K.
  """
  if 'mix_weight' not in batch:
    return batch['label']
  own, partner = (jax.nn.one_hot(batch[key], num_classes) for key in ('label', 'partner_label'))
  weight = batch['mix_weight'][:, None]
  return weight * own + (1 - weight) * partner


def main_label(batch: Mapping[str, jax.Array]) -> jax.Array:
  """Returns the label of larger weight of each sample, int `[B]`."""
  if 'mix_weight' not in batch:
    return batch['label']
  return jnp.where(batch['mix_weight'] >= 0.5, batch['label'], batch['partner_label'])


def mean_over_masks(function: Callable[[jax.Array], Any], key: jax.Array, *, num_masks: int) -> Any:
  """Returns the mean of `function` over `num_masks` keys; `function(key)` for one mask.

  Its gradient is the mean of the gradients under `num_masks` dropout masks. What does not depend on
  the key is computed once: with dropout only before the classifier, that is the rest of the
  network, forward and backward. With stochastic depth, the network is evaluated once per key from
  the first random block on.

  Args:
    function: from a key to a tree of float arrays.
    key: PRNG key.
    num_masks: n of the paper's dropout experiment, at least 1.

  Source: the paper, Appendix D; Wei et al. 2020 (arXiv:2002.12915).
  """
  if num_masks == 1:
    return function(key)
  # vmap gives a leading axis only to what depends on the key.
  values = jax.vmap(function)(jax.random.split(key, num_masks))
  return jax.tree.map(lambda value: jnp.mean(value, axis=0), values)


def masked_mean(values: jax.Array, mask: jax.Array, *, axis_name: str) -> jax.Array:
  """Returns a scalar whose mean over devices is the mean of all `values` with mask 1.

  The loss of equation 2 is the mean over the n copies of each image and then over the images; as
  all images have n copies, it is the mean over the global batch. Images that could not be decoded
  have mask 0 and do not count.

  Args:
    values: float32 `[B]` of this device.
    mask: float32 `[B]`, 0 or 1.
    axis_name: of the devices.
  """
  count = jax.lax.psum(jnp.sum(mask), axis_name)
  total = jnp.sum(jnp.where(mask > 0, values, 0.0))
  return total * jax.lax.axis_size(axis_name) / jnp.maximum(count, 1.0)


def in_top_k(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
  """Returns bool `[B]`: whether fewer than `k` other classes score at least as high as the label.

  Ties and NaN count as wrong, so a model whose logits are all equal is never right.
  """
  own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
  num_others = jnp.sum(~(logits < own), axis=-1) - 1  # without the label itself
  return num_others < min(k, logits.shape[-1])
