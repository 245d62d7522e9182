"""The gradient averaged over dropout masks (Figure 12): what it is, and what it costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import quickstart_digits
from nfnets_augmult import models
from nfnets_augmult.models import table
from nfnets_augmult.runs import settings
from nfnets_augmult.training import losses
from tests.training import toy

IMAGES = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
LABELS = jnp.arange(4)


def _loss(model, num_masks, params, key):
  def loss_per_sample(key):
    logits = model.apply(params, key, IMAGES, is_training=True)
    return losses.cross_entropy(logits, LABELS)

  return jnp.mean(losses.mean_over_masks(loss_per_sample, key, num_masks=num_masks))


def _model(name='wrn_10_1', **options):
  model = models.make_model(name, num_classes=5, dropout_rate=0.4, **options)
  params = model.init(jax.random.PRNGKey(0), IMAGES, is_training=True)
  # SkipInit gains start at zero, which would hide most of the network.
  return model, jax.tree.map(lambda leaf: leaf + 0.1 * (leaf.ndim == 0), params)


def test_the_gradient_is_the_mean_over_masks_drawn_separately():
  """On a Wide-ResNet, for every parameter; and the masks differ."""
  model, params = _model()
  key = jax.random.PRNGKey(3)
  averaged = jax.jit(jax.grad(functools.partial(_loss, model, 4)))(params, key)
  gradient = jax.jit(jax.grad(functools.partial(_loss, model, 1)))
  one_by_one = [gradient(params, k) for k in jax.random.split(key, 4)]
  for a, *parts in zip(*map(jax.tree.leaves, (averaged, *one_by_one)), strict=True):
    np.testing.assert_allclose(a, np.mean(parts, axis=0), rtol=1e-4, atol=1e-6)
  name = next(name for name in params if name.endswith('stem'))
  assert len({float(jnp.sum(part[name]['w'])) for part in one_by_one}) == 4


def test_one_mask_is_ordinary_dropout():
  """The key is passed on unchanged, so that earlier runs with dropout are reproduced."""
  model, params = _model()
  key = jax.random.PRNGKey(3)
  logits = model.apply(params, key, IMAGES, is_training=True)
  expected = jnp.mean(losses.cross_entropy(logits, LABELS))
  assert float(_loss(model, 1, params, key)) == pytest.approx(float(expected), rel=1e-5)


def test_more_masks_cost_only_more_classifiers():
  """Multiply-adds of the gradient, traced: all but the classifier is computed once."""
  model, params = _model()
  key = jax.random.PRNGKey(3)

  def multiply_adds(num_masks):
    return table.count_multiply_adds(
      jax.grad(functools.partial(_loss, model, num_masks)), params, key
    )

  # 64 features, 5 classes, 4 images; forwards, and backwards to the features and to the weights.
  assert multiply_adds(8) - multiply_adds(1) == 7 * 3 * 4 * 64 * 5


def test_the_step_averages_and_resumes():
  """An update under four masks is that of the mean gradient; steps 2 and 3 start from a copy."""
  batch = toy.shard(toy.batch(), 1)
  key = toy.replicate(jax.random.PRNGKey(5), 1)

  def train(state, steps, dropout_masks):
    train_step, _, first = toy.make(dropout_rate=0.5, dropout_masks=dropout_masks)
    state = toy.replicate(first, 1) if state is None else state
    update = jax.pmap(train_step, axis_name='devices')
    for _ in range(steps):
      state, metrics = update(state, batch, key)
    return jax.device_get(state), float(metrics['gradient_norm'][0])

  whole, _ = train(None, 4, 4)
  half, _ = train(None, 2, 4)
  resumed, _ = train(half, 2, 4)
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
    np.testing.assert_array_equal(a, b)
  # Dropout of inputs makes noise, and the mean of many masks has less of it.
  assert train(None, 1, 64)[1] < train(None, 1, 1)[1]


@pytest.mark.parametrize(('masks', 'rate'), [(0, 0.4), (4, None), (4, 0.0)])
def test_masks_without_dropout_are_refused(masks, rate):
  config = quickstart_digits.get_config()
  config.dropout_masks = masks
  config.model.dropout_rate = rate
  with pytest.raises(ValueError, match='dropout_masks'):
    settings.read(config)
