"""What every device holds of a run, and refusing what does not fit."""

import math

import jax
import pytest

from nfnets_augmult.runs import batches, training
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import devices, memory
from tests.toy_runs import device_config, toy_config


def _parameter_bytes(run):
  params = run.network.abstract_state.params
  return 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def test_parts_of_what_is_replicated():
  """Momentum, average and gradient are as large as the parameters; SAM needs them once more."""
  run = Run(toy_config())
  state = run.network.abstract_state
  parts = memory.replicated_bytes(state)
  assert set(parts) == {'parameters', 'optimizer', 'average', 'gradient'}
  size = _parameter_bytes(run)
  assert all(size <= part < size + 100 for part in parts.values())  # and a few counters
  with_sam = memory.replicated_bytes(state, is_sharpness_aware=True)
  assert with_sam == parts | {'perturbed parameters': size}


@pytest.mark.parametrize('rho', [0.0, 0.05])
def test_what_does_not_fit_is_refused_before_anything_is_written(rho, monkeypatch, tmp_path):
  """A byte less than the parts take is too little, and the message has the numbers."""
  config = toy_config(sam__rho=rho)
  run = Run(config, str(tmp_path / 'run'))
  needed = sum(
    memory.replicated_bytes(run.network.abstract_state, is_sharpness_aware=rho > 0).values()
  )
  monkeypatch.setattr(devices, 'memory_limit', lambda: needed)
  run.prepare()
  monkeypatch.setattr(devices, 'memory_limit', lambda: needed - 1)
  with pytest.raises(ValueError, match=r"^model\.name='toy' takes 0\.00 GiB of every") as error:
    Run(config, str(tmp_path / 'run')).prepare()
  assert ('perturbed parameters' in str(error.value)) == (rho > 0)
  assert not (tmp_path / 'run').exists()


def test_runs_of_a_group_add_up(monkeypatch, tmp_path):
  """Each of two fits, both in one program do not."""
  runs = [Run(device_config(seed=seed), str(tmp_path / f'{seed}')) for seed in (0, 1)]
  parts = memory.replicated_bytes(runs[0].network.abstract_state)
  monkeypatch.setattr(batches, 'check_device_input', lambda *_: None)  # the images
  monkeypatch.setattr(devices, 'memory_limit', lambda: int(1.5 * sum(parts.values())))
  prepared = [run.prepare(checkpoint_dir=str(tmp_path / 'group')) for run in runs]
  with pytest.raises(ValueError, match=r'of 2 runs in one program .* use fewer runs'):
    training.train(prepared, str(tmp_path / 'group'))
  assert not list(tmp_path.iterdir())


def test_limit_is_that_of_the_device_with_least(monkeypatch):
  """Backends that keep no count have none."""
  assert devices.memory_limit() is None  # CPU

  class Device:
    def __init__(self, stats):
      self._stats = stats

    def memory_stats(self):
      return self._stats

  found = [Device({'bytes_limit': 3}), Device(None), Device({}), Device({'bytes_limit': 2})]
  monkeypatch.setattr(jax, 'local_devices', lambda: found)
  assert devices.memory_limit() == 2
