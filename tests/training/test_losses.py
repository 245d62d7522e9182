"""Losses by hand, and their mean over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets_augmult.training import losses

LOGITS = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], np.float32))


def test_cross_entropy_by_hand():
  """-ln 0.7 and -ln 0.1."""
  values = losses.cross_entropy(LOGITS, np.array([0, 2]))
  np.testing.assert_allclose(values, [-np.log(0.7), -np.log(0.1)], rtol=1e-6)


def test_label_smoothing_by_hand():
  """With 0.3 over three classes the target is 0.8, 0.1, 0.1."""
  values = losses.cross_entropy(LOGITS[:1], np.array([0]), label_smoothing=0.3)
  expected = -(0.8 * np.log(0.7) + 0.1 * np.log(0.2) + 0.1 * np.log(0.1))
  np.testing.assert_allclose(values, [expected], rtol=1e-6)


def test_cross_entropy_of_bfloat16_logits_is_taken_in_float32():
  values = losses.cross_entropy(jnp.asarray(LOGITS, jnp.bfloat16), np.array([0, 2]))
  exact = losses.cross_entropy(np.asarray(jnp.asarray(LOGITS, jnp.bfloat16), np.float32), [0, 2])
  assert values.dtype == jnp.float32
  np.testing.assert_array_equal(values, exact)


@pytest.mark.parametrize('num_devices', [1, 2, 4])
def test_masked_mean_is_the_mean_over_the_global_batch(num_devices):
  """Also where the masked samples are spread unevenly over the devices."""
  values = np.arange(1.0, 9.0, dtype=np.float32)
  mask = np.array([0, 0, 0, 1, 1, 1, 1, 0], np.float32)
  values[0] = np.nan  # what is masked must not matter
  shards = [x.reshape(num_devices, -1) for x in (values, mask)]
  mean = jax.pmap(
    lambda v, m: jax.lax.pmean(losses.masked_mean(v, m, axis_name='d'), 'd'), axis_name='d'
  )(*shards)
  np.testing.assert_allclose(mean, np.full(num_devices, (4 + 5 + 6 + 7) / 4))


def test_masked_mean_of_nothing_is_zero():
  mean = jax.pmap(lambda v, m: losses.masked_mean(v, m, axis_name='d'), axis_name='d')
  np.testing.assert_array_equal(mean(np.ones((1, 3)), np.zeros((1, 3))), [0.0])


def test_top_k_counts_classes_above_and_ties_as_wrong():
  logits = jnp.array([[3.0, 2, 1, 0], [3, 2, 1, 0], [1, 1, 1, 1], [jnp.nan, 0, 0, 0]])
  labels = jnp.array([0, 1, 2, 0])
  assert losses.in_top_k(logits, labels, 1).tolist() == [True, False, False, False]
  assert losses.in_top_k(logits, labels, 2).tolist() == [True, True, False, False]


def test_top_5_of_three_classes_is_not_always_right():
  """With at most five classes top-5 would be trivial; only ties and NaN can be wrong then."""
  logits = jnp.array([[0.0, 1.0, 2.0]])
  assert losses.in_top_k(logits, jnp.array([0]), 5).tolist() == [True]


def test_labels_of_mixed_images_by_hand():
  """The loss is the weighted mean of those of both labels; the larger weight is the main label."""
  batch = {
    'label': np.array([0, 1]),
    'partner_label': np.array([2, 0]),
    'mix_weight': np.array([0.75, 0.4], np.float32),
  }
  values = losses.cross_entropy(LOGITS, losses.mixed_labels(batch, 3))
  expected = [
    -(0.75 * np.log(0.7) + 0.25 * np.log(0.1)),
    -(0.4 * np.log(0.8) + 0.6 * np.log(0.1)),
  ]
  np.testing.assert_allclose(values, expected, rtol=1e-6)
  np.testing.assert_array_equal(losses.main_label(batch), [0, 0])
  plain = {'label': batch['label']}
  assert losses.mixed_labels(plain, 3) is losses.main_label(plain) is batch['label']
