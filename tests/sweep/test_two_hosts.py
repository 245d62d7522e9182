"""A sweep on two hosts: groups, results, and an end that both reach."""

import os
import socket
import subprocess
import sys

import pytest

from experiments import quickstart_digits
from nfnets_augmult import configs
from nfnets_augmult.training import records
from tests.toy_runs import device_config, train_run


def test_two_hosts_run_a_sweep(tmp_path):
  """Two processes of one device each: the results of this one with eight."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  config = device_config(
    total_steps=4, evaluation__train_images=0, optimizer__warmup_steps=0, augmult=4
  )
  plain = configs.flatten(quickstart_digits.get_config())
  overrides = [
    f'--config.{key}={value}'
    for key, value in configs.flatten(config).items()
    if value != plain[key] and key != 'augmentation.pad'
  ]
  workdir = tmp_path / 'two'
  hosts = [
    subprocess.Popen(
      [
        *(sys.executable, '-m', 'nfnets_augmult.sweep', '--together', f'--workdir={workdir}'),
        *('--config=experiments/quickstart_digits.py', *overrides),
        *('--grid.augmentation.pad=2,1', '--grid.seed=0,3'),
        *('--multi_host', f'--coordinator={address}', '--num_hosts=2', f'--host_index={index}'),
      ],
      env={**os.environ, 'XLA_FLAGS': '--xla_backend_optimization_level=0'},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for index in (0, 1)
  ]
  first, second = (host.communicate(timeout=400)[0] for host in hosts)
  assert [host.returncode for host in hosts] == [0, 0], f'{first}\n{second}'
  assert '2 runs of pad=1: 2 finished' in first and '4 runs: 4 finished' in first
  assert 'finished' not in second
  config.seed = 3
  _, alone = train_run(config, str(tmp_path / 'alone'))
  result = records.read_json(str(workdir / 'pad=2,seed=3' / 'result.json'))
  assert result['test/raw/cross_entropy'] == pytest.approx(
    alone['test/raw/cross_entropy'], rel=1e-4
  )
