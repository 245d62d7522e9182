"""The variance of the gradient by layer, from running sums: gradients are not held all at once.

The variance of each parameter is summed over the parameters of a layer, where a layer is a Haiku
module, the first of the two levels of a tree of parameters. The gradient is that of the training
loss, without L2, SAM or clipping. `components.py` makes estimates, intervals and predictions of
these variances.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nfnets_augmult.ops import compiling
from nfnets_augmult.training import losses
from nfnets_augmult.training.step import Classifier

# From params, images uint8 [B, H, W, C], labels int32 [B] and a key to a tree like params.
Gradient = Callable[[Any, jax.Array, jax.Array, jax.Array], Any]
Batch = dict[str, np.ndarray]


class Running(NamedTuple):
  """Weight, mean and spread of the gradients so far, updated as in West 1979.

  That loses no digits where gradients differ little, and the spread of equal gradients is exactly
  zero.

  Attributes:
    weight: float32 scalar, the sum of the weights; the count, if these are 1.
    mean: tree like the parameters, weighted.
    spread: float32 `[L]`, weighted sum of squared distances to the mean, by layer.
  """

  weight: jax.Array
  mean: Any
  spread: jax.Array


class Block(NamedTuple):
  """Images that were drawn out of `screened` images; see `block_variance` and `screening.py`.

  Attributes:
    image: uint8 `[d, m, H, W, C]`, the m copies of each of d images, m at least 2.
    label: int32 `[d, m]`.
    draws: int64 `[d]`, how often each was drawn; at least 2 in all.
    weight: float64 `[d]`, one over `screened` times its probability in one draw.
    screened: S, at least 2.
  """

  image: np.ndarray
  label: np.ndarray
  draws: np.ndarray
  weight: np.ndarray
  screened: int


class BlockVariance(NamedTuple):
  """Unbiased estimates from one block of images; see `block_variance`.

  Attributes:
    image: float32 `[L]`, variance over images of the mean gradient over all augmentations of an
      image, with the divisor N - 1. The estimate may be negative where the variance is small.
    augmentation: float32 `[L]`, variance over the augmentations of an image, averaged over images.
    mean: unbiased estimate of the gradient of all images, a tree like the parameters.
  """

  image: jax.Array
  augmentation: jax.Array
  mean: Any


def layer_names(params: Any) -> list[str]:
  """Returns the names of the layers, in the order of the arrays `[L]` of this module."""
  return sorted(params)


def layer_sizes(params: Any) -> np.ndarray:
  """Returns how many parameters each layer has, int64 `[L]`."""
  return np.array(
    [sum(np.size(leaf) for leaf in jax.tree.leaves(params[name])) for name in layer_names(params)]
  )


def square_norms(tree: Any) -> jax.Array:
  """Returns the squared norm of each layer, float32 `[L]`."""
  return jnp.stack(
    [
      sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree[name]))
      for name in layer_names(tree)
    ]
  )


def start(params: Any) -> Running:
  """Returns the sums before the first gradient."""
  mean = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
  return Running(jnp.zeros(()), mean, jnp.zeros(len(layer_names(params))))


def include(running: Running, gradient: Any, weight: float | jax.Array = 1.0) -> Running:
  """Returns the sums with one more gradient, of a weight above 0."""
  total = running.weight + weight
  share = weight / total
  step = jax.tree.map(lambda g, mean: g - mean, gradient, running.mean)
  mean = jax.tree.map(lambda mean, delta: mean + share * delta, running.mean, step)
  return Running(total, mean, running.spread + square_norms(step) * (running.weight * share))


# Without `compiling.jit`, since `block_variance` may be part of a jitted function.
_include = jax.jit(include)


def variance(running: Running) -> jax.Array:
  """Returns the unbiased variance of gradients of weight 1, float32 `[L]`; two are needed."""
  return running.spread / (running.weight - 1)


def make_gradient(
  classifier: Classifier, *, label_smoothing: float = 0.0, dropout_masks: int = 1
) -> Gradient:
  """Returns the gradient of the mean training loss of a batch, without L2.

  The arguments are those of `step.make_train_step`. Dropout is on, so its noise counts.
  """

  def loss(params: Any, images: jax.Array, labels: jax.Array, key: jax.Array) -> jax.Array:
    def under_one_mask(key: jax.Array) -> jax.Array:
      logits = classifier(params, key, images, is_training=True)
      return losses.cross_entropy(logits, labels, label_smoothing=label_smoothing)

    return jnp.mean(losses.mean_over_masks(under_one_mask, key, num_masks=dropout_masks))

  return jax.grad(loss)


def copies_variance(
  gradient: Gradient, params: Any, images: jax.Array, labels: jax.Array, key: jax.Array
) -> tuple[Any, jax.Array]:
  """Returns mean and unbiased variance, `[L]`, of the gradients of the m copies of one image.

  The gradients of the copies are held at once, those of different images never.

  Args:
    gradient: see `make_gradient`.
    params: where the gradient is taken.
    images: uint8 `[m, H, W, C]`, m at least 2.
    labels: int32 `[m]`.
    key: of the network's own randomness, which differs from copy to copy.
  """
  copies = len(labels)
  gradients = jax.vmap(gradient, in_axes=(None, 0, 0, 0))(
    params, images[:, None], labels[:, None], jax.random.split(key, copies)
  )
  mean = jax.tree.map(lambda g: jnp.mean(g, axis=0), gradients)
  deviations = jax.tree.map(lambda g, mean: g - mean, gradients, mean)
  return mean, square_norms(deviations) / (copies - 1)


def block_variance(
  copies_variance_fn: Callable[..., tuple[Any, jax.Array]],
  params: Any,
  block: Block,
  key: jax.Array,
) -> BlockVariance:
  """Splits the variance of the gradient of one sample, from images that were drawn with weights.

  The law of total variance: over images and augmentations together it is `image + augmentation`.
  Of S images k are drawn, with replacement; an image that is drawn with probability p has the
  weight w = 1 / (S p). With g the mean gradient of the m copies of an image, and v the unbiased
  variance of these copies, by layer,

      augmentation = sum over draws of [w v] / k
      image        = sum over pairs of draws of [w w' |g - g'|^2 / 2] / (k (k - 1))  S / (S - 1)
                     -  augmentation / m

  where the last term corrects for the finite number of copies. Both are unbiased: in expectation
  the first sum is the mean over the S images, and the second their variance with the divisor S - 1
  (Hansen and Hurwitz 1943). Dropout masks are drawn anew for each sample, so their noise counts as
  augmentation.

  Args:
    copies_variance_fn: `copies_variance` of a gradient, jitted. The loop over images is in Python,
      because convolutions inside compiled loops are several times slower on CPUs.
    params: where the gradient is taken.
    block: the images.
    key: of the network's own randomness.
  """
  draws, copies = block.draws.sum(), block.label.shape[1]
  over_images, augmentation = start(params), 0.0
  keys = jax.random.split(key, len(block.label))
  for image, label, weight, key_per_image in zip(
    block.image, block.label, block.draws * block.weight, keys, strict=True
  ):
    mean, over_copies = copies_variance_fn(params, image, label, key_per_image)
    over_images = _include(over_images, mean, weight)
    augmentation += weight * over_copies / draws
  # The sum over pairs is the spread times the sum of the weights.
  between = over_images.spread * over_images.weight / (draws * (draws - 1))
  image = block.screened / (block.screened - 1) * between - augmentation / copies
  scale = over_images.weight / draws
  return BlockVariance(
    image, augmentation, jax.tree.map(lambda leaf: scale * leaf, over_images.mean)
  )


def image_and_augmentation_variance(
  gradient: Gradient, params: Any, blocks: Iterable[Block], *, key: jax.Array
) -> tuple[np.ndarray, np.ndarray, float]:
  """Returns the two parts of the variance for each of R blocks of images, and the gradient's norm.

  Blocks are independent of each other; confidence intervals follow from how much they differ.

  Args:
    gradient: see `make_gradient`.
    params: where the gradient is taken.
    blocks: at least 2.
    key: of the network's own randomness.

  Returns:
    `image` and `augmentation`, float64 `[R, L]`, see `BlockVariance`; and an unbiased estimate of
    the squared norm of the gradient of all images, which may be negative.
  """
  copies_variance_fn = compiling.jit(functools.partial(copies_variance, gradient))
  mean = start(params)
  image, augmentation = [], []
  for number, block in enumerate(blocks):
    found = block_variance(copies_variance_fn, params, block, jax.random.fold_in(key, number))
    mean = _include(mean, found.mean)
    image.append(np.asarray(found.image, np.float64))
    augmentation.append(np.asarray(found.augmentation, np.float64))
  squared = square_norms(mean.mean) - variance(mean) / len(image)
  return np.stack(image), np.stack(augmentation), float(jnp.sum(squared))


def minibatch_gradient_variance(
  gradient: Gradient,
  params: Any,
  batches: Iterable[Batch],
  *,
  batches_per_block: int,
  key: jax.Array,
) -> np.ndarray:
  """Returns the variance between the gradients of mini-batches, measured, as in Figure 9.

  Args:
    gradient: see `make_gradient`.
    params: where the gradient is taken.
    batches: mini-batches of equal size; those of an incomplete last block are not used.
    batches_per_block: how many mini-batches each variance is taken over, at least 2.
    key: of the network's own randomness.

  Returns:
    float64 `[R, L]`, the unbiased variance in each of R blocks of mini-batches, by layer.
  """
  add = compiling.jit(lambda running, *arguments: include(running, gradient(*arguments)))
  rows = []
  running = start(params)
  for number, batch in enumerate(batches):
    key_per_batch = jax.random.fold_in(key, number)
    running = add(running, params, batch['image'], batch['label'], key_per_batch)
    if (number + 1) % batches_per_block == 0:
      rows.append(np.asarray(variance(running), np.float64))
      running = start(params)
  return np.stack(rows)
