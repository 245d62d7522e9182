"""Several steps in one program are those steps one by one."""

import jax
import jax.numpy as jnp
import numpy as np

from nfnets_augmult.training import feeding
from tests.training import toy


def _stacked(batches):
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)


def test_any_number_of_steps_runs_the_same_program():
  """With dropout: dispatches of 1, 3 and 2 steps of at most four, and six single steps."""
  train_step, _, start = toy.make(dropout_rate=0.5)
  batches = [toy.batch(seed=number) for number in range(6)]
  key = jax.random.PRNGKey(3)[np.newaxis]
  repeated = jax.pmap(
    feeding.multi_step(train_step), axis_name='devices', devices=jax.devices()[:1]
  )
  plain = jax.pmap(train_step, axis_name='devices', devices=jax.devices()[:1])

  def train(*counts):
    state, losses, step = toy.replicate(start, 1), [], 0
    for count in counts:
      ahead = [batches[min(step + i, 5)] for i in range(4)]
      state, metrics = repeated(
        state, toy.replicate(_stacked(ahead), 1), np.array([count], np.int32), key
      )
      losses += metrics['loss'][0, :count].tolist()
      assert not np.any(metrics['loss'][0, count:])
      step += count
    return state, losses

  state, losses = train(1, 3, 2)
  other, other_losses = train(4, 2)
  assert losses == other_losses
  for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
    np.testing.assert_array_equal(a, b)
  expected, expected_losses = toy.replicate(start, 1), []
  for batch in batches:
    expected, metrics = plain(expected, toy.shard(batch, 1), key)
    expected_losses.append(float(metrics['loss'][0]))
  np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
