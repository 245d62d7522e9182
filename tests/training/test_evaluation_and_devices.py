"""Placement of batches on devices, and evaluation over them."""

import jax
import numpy as np
import pytest

from nfnets_augmult.training import devices, evaluation
from tests.training import toy


def _batches(num_images, batch_size):
  data = toy.batch(num_images)
  for start in range(0, num_images, batch_size):
    part = {key: value[start : start + batch_size] for key, value in data.items()}
    missing = batch_size - len(part['mask'])
    yield {
      key: np.concatenate([value, np.zeros((missing, *value.shape[1:]), value.dtype)])
      for key, value in part.items()
    }


@pytest.mark.parametrize('batch_size', [8, 16, 40])
def test_every_example_counts_once_at_any_batch_size(batch_size):
  """37 examples: the means are those of NumPy over all of them."""
  _, evaluation_step, state = toy.make()
  params = devices.replicate(state.params)
  other = devices.replicate(jax.tree.map(lambda x: -x, state.params))
  step = jax.pmap(evaluation_step, axis_name='devices')
  means = evaluation.evaluate(step, {'raw': params, 'ema': other}, _batches(37, batch_size))
  data = toy.batch(37)
  weights = jax.device_get(state.params)['linear']
  for sign, name in ((1, 'raw'), (-1, 'ema')):
    x = (data['image'].reshape(37, 16).astype(np.float64) - 100) / 50
    logits = sign * (x @ weights['w'] + weights['b'])
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert means[name]['count'] == 37
    np.testing.assert_allclose(means[name]['top_1'], np.mean(logits.argmax(1) == data['label']))
    np.testing.assert_allclose(
      means[name]['cross_entropy'], -np.mean(log_p[np.arange(37), data['label']]), rtol=1e-5
    )


def test_no_examples_is_an_error():
  _, evaluation_step, state = toy.make()
  step = jax.pmap(evaluation_step, axis_name='devices')
  with pytest.raises(ValueError, match='no example'):
    evaluation.evaluate(step, {'raw': devices.replicate(state.params)}, iter([]))


def test_stop_is_checked_between_batches():
  _, evaluation_step, state = toy.make()
  step = jax.pmap(evaluation_step, axis_name='devices')
  asked = []

  def check_stop():
    asked.append(True)
    if len(asked) == 2:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    evaluation.evaluate(
      step, {'raw': devices.replicate(state.params)}, _batches(37, 8), check_stop=check_stop
    )


def test_replicate_and_first_replica_are_inverse():
  tree = {'a': np.arange(6.0).reshape(2, 3), 'b': np.int32(7)}
  there = devices.replicate(tree)
  assert there['a'].shape == (jax.local_device_count(), 2, 3)
  assert len(there['a'].sharding.device_set) == jax.local_device_count()
  back = devices.first_replica(there)
  np.testing.assert_array_equal(back['a'], tree['a'])
  assert back['b'] == 7


def test_devices_hold_slots_that_follow_each_other():
  """Of 16 slots on 8 devices, device d holds 2 d and 2 d + 1."""
  image_index = np.repeat(np.arange(4), 4)
  batch = {
    'image': image_index.astype(np.uint8).reshape(16, 1, 1, 1),
    'label': image_index.astype(np.int32),
    'mask': np.ones(16, np.float32),
    'image_index': image_index,
  }
  placed = devices.place_batch(batch)
  assert set(placed) == {'image', 'label', 'mask'}  # identities stay on the host
  for device, shard in enumerate(placed['label'].addressable_shards):
    assert shard.device == jax.local_devices()[device]
    held = np.asarray(shard.data).ravel()
    np.testing.assert_array_equal(held, image_index[2 * device : 2 * device + 2])


def test_mixed_batches_are_placed():
  """The partner's label and the weight go to the devices, the partner's index does not."""
  keys = ('image', 'label', 'mask', 'partner_label', 'mix_weight', 'partner_index')
  placed = devices.place_batch({key: np.arange(16, dtype=np.int32) for key in keys})
  assert set(placed) == set(keys) - {'partner_index'}


def test_prefetch_keeps_order_and_runs_ahead():
  made = []

  def numbers():
    for number in range(5):
      made.append(number)
      yield {key: np.full(8, number, np.int32) for key in ('image', 'label', 'mask')}

  stream = devices.prefetch(numbers(), ahead=2)
  assert int(np.asarray(next(stream)['label'])[0, 0]) == 0
  assert made == [0, 1]
  assert [int(np.asarray(b['label'])[0, 0]) for b in stream] == [1, 2, 3, 4]


def test_a_program_is_traced_once():
  """Also if it is asked for again, with the same function; not if the first argument is donated."""
  traced = []

  def double(x):
    traced.append(1)
    return 2 * x

  x = devices.replicate(np.arange(3.0))
  for _ in range(2):
    np.testing.assert_array_equal(
      devices.first_replica(devices.on_each_device(double)(x)), [0.0, 2.0, 4.0]
    )
  assert len(traced) == 1
  doubled = devices.on_each_device(double, donate_state=True)(x)
  assert len(traced) == 2 and x.is_deleted()
  np.testing.assert_array_equal(devices.first_replica(doubled), [0.0, 2.0, 4.0])
