"""Eight devices of 1, 2 and 4 hosts get the same, so that they compute the same."""

import numpy as np
import pytest

from nfnets_augmult.data import device_input
from nfnets_augmult.runs.run import Run
from tests.toy_runs import toy_config


def _of_devices(make_part, host_count):
  """What each of eight devices gets, `[8, ...]`: the parts of the hosts, one after another."""
  parts = [make_part(host, host_count) for host in range(host_count)]
  shares = [
    {key: array.reshape(8 // host_count, -1, *array.shape[1:]) for key, array in part.items()}
    for part in parts
  ]
  return {key: np.concatenate([share[key] for share in shares]) for key in shares[0]}


@pytest.mark.parametrize('host_count', [2, 4])
@pytest.mark.parametrize('input_kind', ['tf.data', 'device'])
def test_devices_get_the_same_on_any_number_of_hosts(input_kind, host_count):
  """Every array of a batch, of mixed images; with input on the devices, the slots they fill."""
  config = toy_config(
    unique_images_per_batch=16,
    augmentation__mixup__share=0.5,
    augmentation__cutmix__share=0.5,
  )
  run = Run(config)

  def batch(host, count):
    return next(run.train_batches(3, 4, hosts=(host, count)))

  def slots(host, count):
    devices = {'device_count': 8 // count, 'host_index': host, 'host_count': count}
    return {'slot': device_input.device_slots(run.plan.multiplicity, **devices)}

  make_part = batch if input_kind == 'tf.data' else slots
  alone, several = _of_devices(make_part, 1), _of_devices(make_part, host_count)
  assert alone.keys() == several.keys()
  for key, array in alone.items():
    np.testing.assert_array_equal(several[key], array, err_msg=key)
  if input_kind == 'tf.data':
    assert 0 < np.mean(alone['mix_weight'] < 1) <= 1
