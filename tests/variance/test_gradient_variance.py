"""The estimators on linear regression, where both parts of the variance are known in closed form.

The loss is (z w + b - y)^2 / 2 with z = x + e, where the noise e ~ N(0, S^2) in each of the D
dimensions stands for augmentation. With a = x w + b - y the gradient of one sample is (a + e w) for
the offset b and (a + e w) (x + e) for the weights w.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets_augmult.variance import gradient_variance, screening
from nfnets_augmult.variance.components import Components, jackknife

N, D, S = 60, 3, 0.7
_GENERATOR = np.random.default_rng(0)
X = _GENERATOR.normal(size=(N, D))
Y = X @ [1.0, -1.0, 0.5] + 0.5 * _GENERATOR.normal(size=N)
W, B = np.array([0.6, -0.2, 0.9]), 0.3
PARAMS = {'offset': {'b': jnp.asarray(B)}, 'weights': {'w': jnp.asarray(W, jnp.float32)}}
REPEATS, BLOCKS, DRAWS, COPIES = 400, 8, 4, 3


def _gradient(params, z, y, key):
  del key

  def loss(params):
    return jnp.mean((z @ params['weights']['w'] + params['offset']['b'] - y) ** 2) / 2

  return jax.grad(loss)(params)


def _truth(y=Y):
  """Image and augmentation part, [2] each: offset, weights."""
  a = X @ W + B - y
  mean = np.concatenate([a[:, None], a[:, None] * X + S**2 * W], axis=1)
  image = mean.var(axis=0, ddof=1)
  # E|(a + e w)(x + e)|^2, term by term, with E[(e w)^2 |e|^2] = S^4 |w|^2 (D + 2).
  ww, xx = W @ W, (X**2).sum(axis=1)
  second = a**2 * (xx + D * S**2) + 4 * a * S**2 * (X @ W) + S**2 * ww * xx + S**4 * ww * (D + 2)
  augmentation = [S**2 * ww, np.mean(second - (mean[:, 1:] ** 2).sum(axis=1))]
  return np.array([image[0], image[1:].sum()]), np.array(augmentation)


def _samples(generator, index, copies, y=Y):
  z = X[index][..., None, :] + S * generator.normal(size=(*index.shape, copies, D))
  labels = np.broadcast_to(y[index][..., None], z.shape[:-1])
  return z.astype(np.float32), labels.astype(np.float32)


def _square_residual(batch, number):
  """The squared gradient for the output of each sample, as `screening.make_score` has it."""
  del number
  return (batch['image'] @ W + B - batch['label']) ** 2


def _blocks(score, screened, y=Y, repeats=REPEATS):
  """`BLOCKS` blocks for each repeat."""
  generator = np.random.default_rng(1)

  def batches():
    while True:
      for index in generator.permutation(N).reshape(4, -1):
        z, labels = _samples(generator, index, COPIES, y)
        yield {'image': z.reshape(-1, D), 'label': labels.reshape(-1)}

  return list(
    screening.blocks(
      score,
      batches(),
      count=repeats * BLOCKS,
      screened=screened,
      draws=DRAWS,
      copies=COPIES,
      seed=7,
    )
  )


def _estimates(score, screened, y=Y, repeats=REPEATS):
  """Image and augmentation part, [repeats, BLOCKS, 2] each."""
  drawn = _blocks(score, screened, y, repeats)
  # One entry for each draw, so that all have the same shape.
  each = [
    screening.Block(
      *(np.repeat(column, block.draws, axis=0) for column in (block.image, block.label)),
      np.ones(DRAWS),
      np.repeat(block.weight, block.draws),
      screened,
    )
    for block in drawn
  ]
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
  of_copies = functools.partial(gradient_variance.copies_variance, _gradient)

  of_block = functools.partial(gradient_variance.block_variance, of_copies, PARAMS)
  found = jax.jit(jax.vmap(of_block))(stacked, jax.random.split(jax.random.PRNGKey(0), len(each)))
  return tuple(np.asarray(x).reshape(repeats, BLOCKS, 2) for x in (found.image, found.augmentation))


def _coverage(estimates, y=Y):
  """The share of repeats whose 95 % interval has the truth, by statistic."""
  truth = [part.sum() for part in _truth(y)]
  statistics = {
    'image': lambda image, augmentation: image,
    'augmentation': lambda image, augmentation: augmentation,
    'share': lambda image, augmentation: augmentation / (image + augmentation),
    'mini-batch': lambda image, augmentation: image / 8 + augmentation / 32,
  }
  covered = dict.fromkeys(statistics, 0)
  for image, augmentation in zip(*estimates, strict=True):
    for name, statistic in statistics.items():
      interval = jackknife(statistic, image.sum(axis=1), augmentation.sum(axis=1))
      covered[name] += interval.low <= statistic(*truth) <= interval.high
  return {name: count / len(estimates[0]) for name, count in covered.items()}


@pytest.fixture(scope='module')
def estimates():
  """Of blocks that screen half of the images each."""
  return _estimates(_square_residual, N // 2)


def test_both_parts_are_unbiased(estimates):
  """For each layer, within four standard errors, which would show a missing correction."""
  for values, truth in zip(estimates, _truth(), strict=True):
    by_repeat = values.mean(axis=1)
    error = by_repeat.std(axis=0, ddof=1) / np.sqrt(REPEATS)
    assert np.all(np.abs(by_repeat.mean(axis=0) - truth) < 4 * error)
    # What the image part would be too large by without the correction for finite copies.
    assert np.all(_truth()[1] / COPIES > 8 * error)


def test_intervals_cover_the_truth(estimates):
  """Near 95 % of the repeats, for the parts, the share and a mini-batch."""
  for name, covered in _coverage(estimates).items():
    assert 0.88 < covered < 0.995, (name, covered)


def test_the_squared_norm_of_the_gradient_is_unbiased():
  """Of two blocks, whose mean has a variance that is most of its squared norm."""
  blocks = _blocks(_square_residual, N, repeats=25)
  found = [
    gradient_variance.image_and_augmentation_variance(
      _gradient, PARAMS, blocks[start : start + 2], key=jax.random.PRNGKey(0)
    )[2]
    for start in range(0, len(blocks), 2)
  ]
  a = X @ W + B - Y
  gradient = np.append((a[:, None] * X + S**2 * W).mean(axis=0), a.mean())
  error = np.std(found, ddof=1) / np.sqrt(len(found))
  assert abs(np.mean(found) - gradient @ gradient) < 4 * error
  image, augmentation = (part.sum() for part in _truth())
  assert (image / DRAWS + augmentation / (DRAWS * COPIES)) / 2 > 8 * error


@pytest.mark.extended
def test_few_images_that_dominate():
  """Two of 60 images have nearly all of the variance: uniform samples miss them, others do not."""
  y = Y + np.where(np.arange(N) < 2, 30.0, 0.0)
  a = X @ W + B - y
  assert (a[:2] ** 2).sum() > 0.9 * (a**2).sum()
  uniform = _coverage(_estimates(lambda batch, number: np.ones(len(batch['label'])), N, y, 150), y)
  by_output = _coverage(_estimates(_square_residual, N, y, 150), y)
  for name in ('image', 'mini-batch'):
    assert uniform[name] < 0.8
    assert 0.88 < by_output[name] < 0.995, (name, by_output)


@pytest.mark.parametrize(('unique_images', 'augmult'), [(4, 1), (4, 4), (20, 2)])
def test_prediction_of_a_mini_batch(unique_images, augmult):
  """Simulated mini-batches without replacement, a third of the data set in the last row."""
  generator = np.random.default_rng(2)
  index = np.stack([generator.permutation(N)[:unique_images] for _ in range(8000)])
  z, y = _samples(generator, index, augmult)
  flat = z.reshape(8000, -1, D), y.reshape(8000, -1)
  gradients = jax.jit(jax.vmap(_gradient, (None, 0, 0, None)))(PARAMS, *flat, None)
  simulated = sum(float(np.var(leaf, axis=0).sum()) for leaf in jax.tree.leaves(gradients))
  image, augmentation = (np.full(2, part.sum()) for part in _truth())
  components = Components(image, augmentation, num_images=N)
  predicted = components.minibatch(unique_images=unique_images, augmult=augmult)
  assert predicted.value == pytest.approx(simulated, rel=0.06)


def test_measured_between_mini_batches():
  """The direct measurement is unbiased too, by layer, whatever the size of its blocks."""
  generator = np.random.default_rng(3)
  index = generator.integers(N, size=(1200, 5))  # with replacement: independent batches
  z, y = _samples(generator, index, 2)
  batches = [{'image': a.reshape(10, D), 'label': b.reshape(10)} for a, b in zip(z, y, strict=True)]
  rows = gradient_variance.minibatch_gradient_variance(
    _gradient, PARAMS, batches, batches_per_block=4, key=jax.random.PRNGKey(0)
  )
  image, augmentation = _truth()
  expected = image * (N - 1) / N / 5 + augmentation / 10
  assert rows.shape == (300, 2)
  error = rows.std(axis=0, ddof=1) / np.sqrt(300)
  assert np.all(np.abs(rows.mean(axis=0) - expected) < 4 * error)


def test_running_variance_is_that_of_all_gradients():
  """Against NumPy on gradients held at once, with a mean a thousand times the spread."""
  generator = np.random.default_rng(4)
  values = (1000 + generator.normal(size=(50, 7))).astype(np.float32)
  running = gradient_variance.start({'a': {'w': values[0, :5]}, 'b': {'w': values[0, 5:]}})
  for row in values:
    running = gradient_variance.include(running, {'a': {'w': row[:5]}, 'b': {'w': row[5:]}})
  exact = values.astype(np.float64).var(axis=0, ddof=1)
  np.testing.assert_allclose(
    gradient_variance.variance(running), [exact[:5].sum(), exact[5:].sum()], rtol=1e-3
  )
