"""Drawing images in proportion to their outputs, while they pass by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets_augmult.training import losses
from nfnets_augmult.variance import screening

COPIES = 2


def _batches(screened, count):
  """`count` rounds of images 0 to `screened - 1`, three per batch; labels are their numbers."""
  numbers = np.tile(np.arange(screened), count)
  numbers = numbers[: len(numbers) // 3 * 3]
  for three in numbers.reshape(-1, 3):
    label = np.repeat(three, COPIES).astype(np.int32)
    yield {'image': np.broadcast_to(label[:, None, None, None], (6, 1, 1, 1)), 'label': label}


def _blocks(scores, *, count, draws, seed=0):
  def score(batch, number):
    del number
    # The copies of an image differ; their mean counts.
    return scores[batch['label']] * np.tile([0.5, 1.5], 3)

  return list(
    screening.blocks(
      score,
      _batches(len(scores), count),
      count=count,
      screened=len(scores),
      draws=draws,
      copies=COPIES,
      seed=seed,
    )
  )


def test_images_are_drawn_in_proportion_to_their_scores():
  """Half of the draws are uniform, half follow the scores; weights are the inverse."""
  scores = np.array([0.0, 1.0, 1.0, 2.0, 4.0, 0.0])
  probability = 0.5 / 6 + 0.5 * scores / 8
  counts, weighted = np.zeros(6), 0.0
  found = _blocks(scores, count=600, draws=5)
  for block in found:
    assert block.draws.sum() == 5 and block.screened == 6
    assert len(set(block.label[:, 0])) == len(block.label)
    np.testing.assert_array_equal(block.image[:, :, 0, 0, 0], block.label)
    np.testing.assert_allclose(block.weight, 1 / (6 * probability[block.label[:, 0]]))
    counts[block.label[:, 0]] += block.draws
    weighted += (block.draws * block.weight).sum()
  error = np.sqrt(probability * (1 - probability) / 3000)
  assert np.all(np.abs(counts / 3000 - probability) < 4 * error)
  assert weighted / 3000 == pytest.approx(1, abs=0.05)


def test_draws_are_addressed():
  """By the seed; blocks differ from each other."""
  scores = np.arange(1.0, 13.0)
  first, again, other = (
    [block.label[:, 0].tolist() for block in _blocks(scores, count=5, draws=6, seed=seed)]
    for seed in (0, 0, 1)
  )
  assert first == again != other
  assert len({tuple(labels) for labels in first}) > 1


def test_images_without_a_gradient():
  """All outputs are right: the draws are uniform, and their weights are 1."""
  for block in _blocks(np.zeros(6), count=20, draws=3):
    np.testing.assert_allclose(block.weight, 1)


def test_the_score_is_the_gradient_for_the_logits():
  """Softmax less the smoothed label, squared and summed."""
  logits = np.array([[1.0, -1.0, 0.5], [3.0, 0.0, 0.0]], np.float32)
  score = screening.make_score(
    lambda params, key, images, is_training: params * images, label_smoothing=0.3
  )
  labels = jnp.array([1, 0])
  found = score(jnp.float32(1.0), logits, labels, None)
  targets = 0.7 * np.eye(3)[[1, 0]] + 0.1
  np.testing.assert_allclose(found, ((jax.nn.softmax(logits) - targets) ** 2).sum(1), rtol=1e-5)
  gradient = jax.grad(
    lambda z: losses.cross_entropy(z[None], labels[:1], label_smoothing=0.3).sum()
  )(logits[0])
  np.testing.assert_allclose(found[0], (gradient**2).sum(), rtol=1e-5)
