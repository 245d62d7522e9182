"""A single host agrees with itself; `tests/sweep/test_two_hosts.py` has two."""

import jax
import pytest

from nfnets_augmult.training import checkpoints, hosts


@pytest.mark.parametrize('flag', [True, False])
def test_any_host(flag):
  assert hosts.any_host(flag) is flag


def test_one_host_decides_and_fails_for_itself():
  """The error is the original one, and no error of several hosts."""
  assert hosts.from_first_host(lambda: {'step': 3}) == {'step': 3}
  with pytest.raises(KeyError) as caught, hosts.failing_together():
    raise KeyError('name')
  assert not hosts.is_lost(caught.value)


def test_a_lost_host_is_told_from_other_errors(monkeypatch):
  """By an error of the runtime, also behind another; memory that runs out is this host's own."""
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  lost, full = map(jax.errors.JaxRuntimeError, ('UNAVAILABLE: closed', 'RESOURCE_EXHAUSTED: 2 GB'))
  behind = checkpoints.CheckpointError('cannot write')
  behind.__cause__ = lost
  assert hosts.is_lost(lost) and hosts.is_lost(behind)
  assert hosts.is_lost(ValueError('UNKNOWN: Gloo AllGather failed: Connection reset by peer'))
  assert not hosts.is_lost(full) and not hosts.is_lost(OSError('disk'))


def test_several_hosts_resume_from_whole_checkpoints_only(tmp_path, monkeypatch):
  """One looks by itself, and Orbax waits for no other."""
  monkeypatch.setattr(checkpoints.jax, 'process_count', lambda: 2)
  assert not checkpoints.has_checkpoint(str(tmp_path))
  (tmp_path / 'checkpoints' / '12.orbax-checkpoint-tmp').mkdir(parents=True)
  assert not checkpoints.has_checkpoint(str(tmp_path))
  (tmp_path / 'checkpoints' / '8').mkdir()
  assert checkpoints.has_checkpoint(str(tmp_path))
