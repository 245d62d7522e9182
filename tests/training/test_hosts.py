"""A single host agrees with itself; `tests/sweep/test_two_hosts.py` has two."""

import numpy as np
import pytest

from nfnets_augmult.training import checkpoints, hosts


@pytest.mark.parametrize('flag', [True, False])
def test_any_host(flag):
  assert hosts.any_host(flag) is flag


def test_broadcast():
  table = np.array([[1, 2], [3, 4]], np.int32)
  np.testing.assert_array_equal(hosts.broadcast_from_first_host(table), table)
  assert not hosts.broadcast_from_first_host(False)


def test_several_hosts_resume_from_whole_checkpoints_only(tmp_path, monkeypatch):
  """They look at names, since Orbax would wait for hosts that find no folder."""
  monkeypatch.setattr(checkpoints.jax, 'process_count', lambda: 2)
  assert not checkpoints.has_checkpoint(str(tmp_path))
  (tmp_path / 'checkpoints' / '12.orbax-checkpoint-tmp').mkdir(parents=True)
  assert not checkpoints.has_checkpoint(str(tmp_path))
  (tmp_path / 'checkpoints' / '8').mkdir()
  assert checkpoints.has_checkpoint(str(tmp_path))
