"""Which images the gradient is taken of: those that it depends on, from a look at all outputs.

Once a network has learnt its images, a few of them may make most of the variance of the gradient,
and a sample of some hundred images seldom has them. An output takes a third of the time of a
gradient and no memory to speak of, and the gradient of the loss for it tells how large that for the
parameters is. So the outputs of many images are looked at, and the images whose gradients are taken
are drawn in proportion, with weights that keep the estimates unbiased
(`gradient_variance.block_variance`).

Images pass by once, in batches, and only those that are drawn at the moment are kept.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nfnets_augmult.ops import addressed_random, compiling
from nfnets_augmult.training import losses
from nfnets_augmult.training.step import Classifier
from nfnets_augmult.variance.gradient_variance import Batch, Block

# From params, images uint8 [B, H, W, C], labels int32 [B] and a key to float32 [B].
Score = Callable[..., jax.Array]
# Share of the draws in which all images are alike. It bounds the weights by 2: a score that is too
# low for its image costs little.
_UNIFORM_SHARE = 0.5


def make_score(classifier: Classifier, *, label_smoothing: float = 0.0) -> Score:
  """Returns the squared norm of the gradient of the training loss for the logits, by sample."""

  def score(params: Any, images: jax.Array, labels: jax.Array, key: jax.Array) -> jax.Array:
    logits = classifier(params, key, images, is_training=True).astype(jnp.float32)

    def loss(logits: jax.Array) -> jax.Array:
      return jnp.sum(losses.cross_entropy(logits, labels, label_smoothing=label_smoothing))

    return jnp.sum(jnp.square(jax.grad(loss)(logits)), axis=1)

  return compiling.jit(score)


def blocks(
  score: Callable[[Batch, int], np.ndarray],
  batches: Iterable[Batch],
  *,
  count: int,
  screened: int,
  draws: int,
  copies: int,
  seed: int,
) -> Iterator[Block]:
  """Yields `count` blocks of `draws` images each, out of `screened` successive images.

  Args:
    score: of every sample of a batch, float `[B]` and not negative, from the batch and its number.
    batches: of one size, image by image, each image with its copies next to each other. An image
      that comes twice among those of a block is its own neighbour; where a block crosses from one
      epoch of N images into the next, that makes the image part smaller by at most 1 / (2 N).
    count: R, number of blocks.
    screened: S, at least 2.
    draws: k, at least 2.
    copies: m of each image.
    seed: of the draws.
  """
  key = np.stack(addressed_random.key_for(seed, 'images of a block'), axis=-1)
  position, block = 0, 0
  reservoir = None
  for number, batch in enumerate(batches):
    scores = np.asarray(score(batch, number), np.float64).reshape(-1, copies).mean(axis=1)
    by_image = {
      name: batch[name].reshape(-1, copies, *batch[name].shape[1:]) for name in ('image', 'label')
    }
    # Of each position of the stream: kinds of draws, if a block begins there, and the draws.
    first = 2 * draws * position
    uniform = addressed_random.random_uniform(
      key, np.arange(first, first + 2 * draws * len(scores))
    ).reshape(-1, 2, draws)
    for index, value in enumerate(scores):
      if position % screened == 0:
        reservoir = _Reservoir(uniform[index, 0] < _UNIFORM_SHARE, screened)
      entry = (position, value, by_image['image'][index], by_image['label'][index])
      reservoir.offer(entry, uniform[index, 1])
      position += 1
      if position % screened == 0:
        yield reservoir.block()
        block += 1
        if block == count:
          return


# Position in the stream, score, image uint8 [m, H, W, C] and label int32 [m].
_Entry = tuple[int, float, np.ndarray, np.ndarray]


class _Reservoir:
  """Draws with replacement from images that pass by once (Chao 1982).

  Some draws take each image with the same probability, the others in proportion to its score.
  """

  def __init__(self, is_uniform: np.ndarray, screened: int):
    """Before the first image, with the kind of each draw, bool `[k]`."""
    self._is_uniform = is_uniform
    self._screened = screened
    self._kept: list[_Entry] = [()] * len(is_uniform)
    self._sum = 0.0
    self._offered = 0

  def offer(self, entry: _Entry, uniform: np.ndarray) -> None:
    """Includes one more image, with random numbers in `[0, 1)`, `[k]`."""
    _, score, *_ = entry
    self._sum += score
    self._offered += 1
    by_score = score / self._sum if self._sum > 0 else 1 / self._offered
    chance = np.where(self._is_uniform, 1 / self._offered, by_score)
    for draw in np.flatnonzero(uniform < chance):
      self._kept[draw] = entry

  def block(self) -> Block:
    """Returns what was drawn, every image once."""
    drawn = {position: rest for position, *rest in self._kept}
    scores, images, labels = zip(*drawn.values(), strict=True)
    counts = collections.Counter(position for position, *_ in self._kept)
    # Where all scores are 0, so is every gradient; the draws were uniform.
    shares = (
      np.array(scores) / self._sum if self._sum > 0 else np.full(len(drawn), 1 / self._screened)
    )
    probability = _UNIFORM_SHARE / self._screened + (1 - _UNIFORM_SHARE) * shares
    return Block(
      np.stack(images),
      np.stack(labels),
      np.array([counts[position] for position in drawn]),
      1 / (self._screened * probability),
      self._screened,
    )
