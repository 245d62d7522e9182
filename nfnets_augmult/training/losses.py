"""Losses of single samples, and their mean over all copies of all images (equation 2)."""

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
    labels: int `[B]` in `[0, K)`, or float `[B, K]`, a distribution over the classes each.
    label_smoothing: share of the target spread evenly over all K classes, in `[0, 1)`
      (Szegedy et al. 2016).
  """
  if jnp.ndim(labels) == 1:
    labels = jax.nn.one_hot(jnp.asarray(labels), logits.shape[-1])
  targets = optax.smooth_labels(labels, label_smoothing)
  return optax.softmax_cross_entropy(logits.astype(jnp.float32), targets)


def mixed_labels(batch: Mapping[str, jax.Array], num_classes: int) -> jax.Array:
  """Returns the labels of a batch as `cross_entropy` takes them, soft where images are mixed.

  Args:
    batch: `label` int `[B]`; where Mixup or CutMix are on also `partner_label` int `[B]` and
      `mix_weight` float32 `[B]`, the share of the own label.
    num_classes: K.
  """
  if 'mix_weight' not in batch:
    return batch['label']
  own, partner = (jax.nn.one_hot(batch[key], num_classes) for key in ('label', 'partner_label'))
  weight = batch['mix_weight'][:, None]
  return weight * own + (1 - weight) * partner


def main_label(batch: Mapping[str, jax.Array]) -> jax.Array:
  """Returns the label that has the larger share in each sample, int `[B]`."""
  if 'mix_weight' not in batch:
    return batch['label']
  return jnp.where(batch['mix_weight'] >= 0.5, batch['label'], batch['partner_label'])


def mean_over_masks(function: Callable[[jax.Array], Any], key: jax.Array, *, num_masks: int) -> Any:
  """Returns the mean of `function` over `num_masks` keys, for one mask `function(key)` itself.

  A gradient taken through it is the mean of the gradients under `num_masks` dropout masks. What in
  `function` does not depend on its key is computed once: with dropout before the classifier alone,
  that is the whole network below it, forwards and backwards. A network that is random deeper down,
  as with stochastic depth, is evaluated once per key from there on.

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
  """Returns a number whose mean over devices is the mean of all `values` with mask 1.

  With equation 2 the loss is the mean over the n copies of an image and then over the images of
  the batch; all images have n copies, so that is the mean over the whole global batch. Copies of
  images that could not be decoded have mask 0 and are left out, also out of the count.

  Args:
    values: float32 `[B]` of this device.
    mask: float32 `[B]`, 0 or 1.
    axis_name: of the devices.
  """
  count = jax.lax.psum(jnp.sum(mask), axis_name)
  total = jnp.sum(jnp.where(mask > 0, values, 0.0))
  return total * jax.lax.axis_size(axis_name) / jnp.maximum(count, 1.0)


def in_top_k(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
  """Returns bool `[B]`: fewer than `k` classes score above the label's; ties count as wrong.

  A model whose logits are all equal, or not numbers, is therefore never right by accident.
  """
  own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
  others_at_least = jnp.sum(~(logits < own), axis=-1) - 1  # without the label itself
  return others_at_least < min(k, logits.shape[-1])
