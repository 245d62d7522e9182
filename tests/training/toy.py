"""A tiny linear classifier and its parts, for tests of the step and the loop."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from nfnets_augmult.models.random_by_slot import dropout
from nfnets_augmult.optim import schedules, sgd
from nfnets_augmult.training import state as state_lib
from nfnets_augmult.training import step as step_lib

NORMALIZATION = step_lib.Normalization(mean=(100.0,), std=(50.0,))


def network(dropout_rate=0.0):
  def apply(images, *, is_training, slot=None):
    x = hk.Flatten()(images)
    if is_training and dropout_rate:
      x = dropout(x, dropout_rate, jnp.arange(len(x)) if slot is None else slot)
    return hk.Linear(3)(x)

  return hk.transform(apply)


def make(
  *,
  dropout_rate=0.0,
  learning_rate=0.1,
  compute_dtype='float32',
  ema_decay=0.9,
  sharpness=None,
  clipping=0.0,
  dropout_masks=1,
  is_frozen=None,
):
  """Returns (train_step, evaluation_step, initial state) of one device."""
  net = network(dropout_rate)
  classifier = step_lib.make_classifier(
    net.apply, normalization=NORMALIZATION, compute_dtype=compute_dtype
  )
  optimizer = sgd.sgd(momentum=0.9, weight_decay=0.01, clipping=clipping)
  params = net.init(jax.random.PRNGKey(0), jnp.zeros((1, 4, 4, 1)), is_training=True)
  train_step = step_lib.make_train_step(
    classifier=classifier,
    optimizer=optimizer,
    schedule=schedules.constant(learning_rate, total_steps=10),
    ema_decay=ema_decay,
    sharpness=sharpness,
    dropout_masks=dropout_masks,
    is_frozen=is_frozen,
  )
  evaluation_step = step_lib.make_evaluation_step(classifier=classifier)
  return train_step, evaluation_step, state_lib.initial_state(params, optimizer)


def batch(size=16, seed=0):
  """Images whose label can be read off their first pixel."""
  generator = np.random.default_rng(seed)
  image = generator.integers(0, 256, (size, 4, 4, 1)).astype(np.uint8)
  label = (image[:, 0, 0, 0].astype(np.int32) * 3) // 256
  return {'image': image, 'label': label, 'mask': np.ones(size, np.float32)}


def shard(tree, num_devices):
  """Successive slots to each device."""
  return jax.tree.map(lambda x: x.reshape(num_devices, -1, *x.shape[1:]), tree)


def replicate(tree, num_devices):
  return jax.tree.map(lambda x: jnp.stack([x] * num_devices), tree)
