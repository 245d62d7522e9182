"""The update: what it computes, and that devices do not change it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets_augmult.optim import sam
from nfnets_augmult.training import step as step_lib
from tests.training import toy


def _train(num_devices, steps=5, **options):
  train_step, _, state = toy.make(**options)
  update = jax.pmap(train_step, axis_name='devices', devices=jax.devices()[:num_devices])
  state = toy.replicate(state, num_devices)
  key = toy.replicate(jax.random.PRNGKey(7), num_devices)
  metrics = []
  for number in range(steps):
    state, values = update(state, toy.shard(toy.batch(seed=number), num_devices), key)
    metrics.append(jax.tree.map(lambda x: float(x[0]), values))
  return jax.device_get(state), metrics


@pytest.mark.parametrize('num_devices', [2, 4, 8])
def test_devices_do_not_change_the_update(num_devices):
  """Without dropout, D devices compute the loss curve and the parameters of one."""
  state, metrics = _train(num_devices)
  one, one_metrics = _train(1)
  np.testing.assert_allclose(
    [m['loss'] for m in metrics], [m['loss'] for m in one_metrics], rtol=1e-5
  )
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(one), strict=True):
    np.testing.assert_array_equal(a, np.stack([a[0]] * num_devices))
    np.testing.assert_allclose(a[0], b[0], rtol=1e-4, atol=1e-6)


def test_one_step_by_hand():
  """Loss, gradient, L2 on the weight alone, momentum, learning rate and average of one step."""
  train_step, _, state = toy.make(learning_rate=0.5)
  batch = toy.batch()
  update = jax.pmap(train_step, axis_name='devices')
  new, metrics = update(
    toy.replicate(state, 1), toy.shard(batch, 1), toy.replicate(jax.random.PRNGKey(0), 1)
  )
  params = jax.device_get(state.params)['linear']
  x = (batch['image'].reshape(16, 16).astype(np.float64) - 100) / 50
  logits = x @ params['w'] + params['b']
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  target = np.eye(3)[batch['label']]
  loss = -np.mean(np.log(p[target > 0]))
  gradient = {'w': x.T @ (p - target) / 16, 'b': (p - target).mean(0)}
  expected = {
    'w': params['w'] - 0.5 * (gradient['w'] + 0.01 * params['w']),
    'b': params['b'] - 0.5 * gradient['b'],
  }
  np.testing.assert_allclose(metrics['loss'][0], loss, rtol=1e-5)
  norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
  np.testing.assert_allclose(metrics['gradient_norm'][0], norm, rtol=1e-5)
  for name in 'wb':
    np.testing.assert_allclose(new.params['linear'][name][0], expected[name], rtol=1e-4, atol=1e-6)
    # The first average has the weight min(0.9, 1 / 10) for the old parameters.
    average = 0.1 * params[name] + 0.9 * expected[name]
    np.testing.assert_allclose(new.ema_params['linear'][name][0], average, rtol=1e-4, atol=1e-6)
  assert int(new.step[0]) == 1


def test_frozen_parameters_have_no_gradient():
  """Their part of the norm is gone, and SAM climbs its whole radius along the bias alone."""
  _, (plain, *_) = _train(1)
  is_frozen = lambda params: {'linear': {'w': True, 'b': False}}  # noqa: E731
  _, (frozen, *_) = _train(1, is_frozen=is_frozen)
  _, _, state = toy.make()
  batch = toy.batch()
  x = (batch['image'].reshape(16, 16).astype(np.float64) - 100) / 50
  params = jax.device_get(state.params)['linear']
  target = np.eye(3)[batch['label']]

  def loss_and_gradient(bias):
    logits = x @ params['w'] + bias
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return -np.mean(np.log(p[target > 0])), (p - target).mean(0)

  loss, gradient = loss_and_gradient(params['b'])
  assert frozen['loss'] == plain['loss'] == pytest.approx(loss, rel=1e-5)
  assert frozen['gradient_norm'] == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
  assert frozen['gradient_norm'] < 0.9 * plain['gradient_norm']
  _, (climbed, *_) = _train(
    1, is_frozen=is_frozen, sharpness=functools.partial(sam.sharpness_aware, rho=0.5)
  )
  above, _ = loss_and_gradient(params['b'] + 0.5 * gradient / np.linalg.norm(gradient))
  assert climbed['loss'] == pytest.approx(above, rel=1e-5)


@pytest.mark.parametrize('num_devices', [1, 2])
def test_mixed_labels_reach_the_loss(num_devices):
  """A mixed batch costs and counts as by hand."""
  train_step, _, state = toy.make()
  batch = toy.batch()
  generator = np.random.default_rng(1)
  batch['partner_label'] = ((batch['label'] + 1) % 3).astype(np.int32)
  batch['mix_weight'] = generator.uniform(0, 1, 16).astype(np.float32)
  _, metrics = jax.pmap(train_step, axis_name='devices')(
    toy.replicate(state, num_devices),
    toy.shard(batch, num_devices),
    toy.replicate(jax.random.PRNGKey(0), num_devices),
  )
  params = jax.device_get(state.params)['linear']
  x = (batch['image'].reshape(16, 16).astype(np.float64) - 100) / 50
  logits = x @ params['w'] + params['b']
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  place, weight = np.arange(16), batch['mix_weight']
  per_copy = weight * log_p[place, batch['label']]
  per_copy += (1 - weight) * log_p[place, batch['partner_label']]
  np.testing.assert_allclose(metrics['loss'][0], -per_copy.mean(), rtol=1e-5)
  main = np.where(weight >= 0.5, batch['label'], batch['partner_label'])
  np.testing.assert_allclose(metrics['accuracy'][0], np.mean(logits.argmax(1) == main), rtol=1e-6)


def test_masked_slots_do_not_count():
  """A batch with masked slots gives the update of the batch without them."""
  train_step, _, state = toy.make()
  update = jax.pmap(train_step, axis_name='devices')
  whole = toy.batch()
  whole['mask'][5:9] = 0
  kept = {key: value[whole['mask'] > 0] for key, value in whole.items()}
  results = [
    update(toy.replicate(state, d), toy.shard(b, d), toy.replicate(jax.random.PRNGKey(0), d))
    for b, d in ((whole, 4), (kept, 1))
  ]
  for a, b in zip(*(jax.tree.leaves(r) for r in results), strict=True):
    np.testing.assert_allclose(a[0], b[0], rtol=1e-4, atol=1e-6)


def test_dropout_differs_by_step_and_slot_and_repeats():
  """Randomness is a function of (key, step, slot) and of nothing else."""
  train_step, _, state = toy.make(dropout_rate=0.5)
  update = jax.pmap(train_step, axis_name='devices')
  batch = toy.batch(8)

  def norm(step, batch, seed=3):
    start = state._replace(step=jnp.asarray(step, jnp.int32))
    key = toy.replicate(jax.random.PRNGKey(seed), 1)
    metrics = update(toy.replicate(start, 1), toy.shard(batch, 1), key)[1]
    return float(metrics['gradient_norm'][0])

  assert norm(0, batch) == norm(0, batch)
  assert norm(0, batch) != norm(1, batch)
  assert norm(0, batch) != norm(0, batch, seed=4)
  # The same samples in other slots meet other masks.
  assert norm(0, batch) != pytest.approx(norm(0, {k: v[::-1] for k, v in batch.items()}), rel=1e-4)


def test_learns():
  """The loss of a separable problem falls to half within 30 steps."""
  _, metrics = _train(1, steps=30, learning_rate=0.05)
  assert metrics[-1]['loss'] < 0.5 * metrics[0]['loss']


def test_bfloat16_keeps_float32_state_and_a_close_loss():
  state, metrics = _train(1, compute_dtype='bfloat16')
  _, exact = _train(1)
  assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype('float32')}
  np.testing.assert_allclose(metrics[0]['loss'], exact[0]['loss'], rtol=0.02)
  assert metrics[0]['loss'] != exact[0]['loss']


def test_evaluation_sums_only_what_is_not_masked():
  _, evaluation_step, state = toy.make()
  evaluate = jax.pmap(evaluation_step, axis_name='devices')
  batch = toy.batch()
  batch['mask'][:5] = 0
  kept = {key: value[5:13] for key, value in batch.items()}
  kept['mask'] = np.ones(8, np.float32)
  rest = {key: value[13:] for key, value in batch.items()}
  sums = evaluate(toy.replicate(state.params, 4), toy.shard(batch, 4))
  parts = [evaluate(toy.replicate(state.params, 1), toy.shard(b, 1)) for b in (kept, rest)]
  assert float(sums['count'][0]) == 11
  for name in sums:
    np.testing.assert_allclose(sums[name][0], sum(p[name][0] for p in parts), rtol=1e-5)


@pytest.mark.parametrize(
  ('options', 'word'),
  [({'compute_dtype': 'float16'}, 'compute_dtype'), ({'ema_decay': 1.0}, 'ema_decay')],
)
def test_errors_name_the_argument(options, word):
  with pytest.raises(ValueError, match=word):
    toy.make(**options)


def test_the_state_carries_over():
  """Two steps, one after the other: the counter, and momentum that carries over."""
  state, _ = _train(1, steps=2)
  assert state.step.tolist() == [2]
  assert step_lib.AXIS_NAME == 'devices'


@pytest.mark.parametrize('num_devices', [2, 8])
def test_synchronized_sam_does_not_depend_on_devices(num_devices):
  """All devices climb the gradient of the whole batch, as one device would."""
  sharpness = functools.partial(sam.sharpness_aware, rho=0.5, axis_name='devices')
  _, many = _train(num_devices, sharpness=sharpness)
  _, one = _train(1, sharpness=sharpness)
  _, plain = _train(1)
  losses = [[m['loss'] for m in metrics] for metrics in (many, one, plain)]
  np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
  assert all(a > b for a, b in zip(losses[1], losses[2], strict=True))  # it was uphill


def test_sam_per_device_climbs_each_devices_own_gradient():
  """As published, so the result differs from the synchronized one, but agrees over devices."""
  own = functools.partial(sam.sharpness_aware, rho=0.5)
  joint = functools.partial(sam.sharpness_aware, rho=0.5, axis_name='devices')
  state, metrics = _train(4, sharpness=own)
  assert metrics[0]['loss'] > _train(4, sharpness=joint)[1][0]['loss']
  for leaf in jax.tree.leaves(state):
    np.testing.assert_array_equal(leaf, np.stack([leaf[0]] * 4))


@pytest.mark.parametrize('synchronize', [True, False])
def test_ascent_reads_the_same_slots_on_any_number_of_devices(synchronize):
  """Slots 0, 5, 10, by hand from the gradients of single samples, on 1, 2 and 4 devices."""
  slots = sam.ascent_slots(batch_size=16, ascent_fraction=0.18)
  np.testing.assert_array_equal(slots, [0, 5, 10])
  axis_name = 'devices' if synchronize else None
  sharpness = functools.partial(
    sam.sharpness_aware,
    rho=0.5,
    axis_name=axis_name,
    select_ascent=sam.take_slots(slots, batch_size=16),
  )
  _, _, state = toy.make()
  batch = toy.batch(seed=0)
  x = (batch['image'].reshape(16, 16).astype(np.float64) - 100) / 50

  def loss_and_gradient(params, chosen):
    logits = x[chosen] @ params['w'] + params['b']
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    target = np.eye(3)[batch['label'][chosen]]
    delta = (p - target) / len(chosen)
    loss = -np.sum(np.log(p[target > 0])) / len(chosen)
    return loss, {'w': x[chosen].T @ delta, 'b': delta.sum(0)}

  params = jax.device_get(state.params)['linear']
  for num_devices in (1, 2) if not synchronize else (1, 2, 4):
    held = np.split(np.arange(16), num_devices)
    losses = []
    for device in held:
      climbed = slots if synchronize else np.intersect1d(slots, device)
      _, gradient = loss_and_gradient(params, climbed)
      norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
      perturbed = {name: params[name] + 0.5 * gradient[name] / norm for name in params}
      losses.append(loss_and_gradient(perturbed, device)[0])
    _, metrics = _train(num_devices, sharpness=sharpness, steps=1)
    assert metrics[0]['loss'] == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.extended
@pytest.mark.parametrize('num_devices', [2, 8])
def test_devices_do_not_change_dropout_and_the_ascent_set(num_devices):
  """SAM on a fifth of the batch, under two dropout masks; rounding grows from 1e-7 per step."""
  options = {
    'dropout_rate': 0.5,
    'dropout_masks': 2,
    'sharpness': functools.partial(
      sam.sharpness_aware,
      rho=0.5,
      axis_name='devices',
      select_ascent=sam.take_slots(
        sam.ascent_slots(batch_size=16, ascent_fraction=0.2), batch_size=16
      ),
    ),
  }
  state, metrics = _train(num_devices, **options)
  one, one_metrics = _train(1, **options)
  for name in ('loss', 'accuracy', 'gradient_norm'):
    np.testing.assert_allclose(
      [m[name] for m in metrics], [m[name] for m in one_metrics], rtol=1e-5
    )
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(one), strict=True):
    np.testing.assert_allclose(a[0], b[0], rtol=1e-4, atol=1e-6)


def test_clipping_bounds_what_a_step_changes():
  """A bias that starts at zero moves by the learning rate times clipping times eps."""
  before = jax.device_get(toy.make()[2].params)['linear']
  after, _ = _train(1, steps=1, clipping=0.01, learning_rate=1.0)
  change = np.linalg.norm(after.params['linear']['b'][0] - before['b'])
  np.testing.assert_allclose(change, 0.01 * 1e-3, rtol=1e-5)  # clipping * eps


def test_preventing_fusion_on_cpu_changes_no_result(monkeypatch):
  """The condition around the descent is there on CPU alone; both programs take the same steps."""
  apart, _ = _train(1, clipping=0.01)
  train_step, _, state = toy.make(clipping=0.01)
  arguments = toy.replicate((state, toy.batch(), jax.random.PRNGKey(7)), 1)
  program = str(jax.make_jaxpr(jax.pmap(train_step, axis_name='devices'))(*arguments))
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  plain, _ = _train(1, clipping=0.01)
  train_step, _, _ = toy.make(clipping=0.01)
  plain_program = str(jax.make_jaxpr(jax.pmap(train_step, axis_name='devices'))(*arguments))
  assert program.count('cond[') == plain_program.count('cond[') + 1
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), apart, plain)
