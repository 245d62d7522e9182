"""A sweep on two hosts: groups, results, and an end that both reach."""

import pytest

from nfnets_augmult.training import records
from tests import hosts_of_a_run
from tests.toy_runs import PACKAGE_MODEL, device_config, train_run


@pytest.mark.long
def test_two_hosts_run_a_sweep(tmp_path):
  """Two processes of one device each: the results of this one with eight.

  With dropout, and with SAM on a fifth of the batch. Rounding is 6e-8 per operation, and a few
  steps add up that of sums of thousands of terms.
  """
  config = device_config(
    model__name=PACKAGE_MODEL,
    total_steps=4,
    evaluation__train_images=0,
    optimizer__warmup_steps=0,
    augmult=4,
    model__dropout_rate=0.2,
    sam__rho=0.05,
    sam__ascent_fraction=0.2,
    sam__synchronize=True,
  )
  workdir = tmp_path / 'two'
  hosts = hosts_of_a_run.start(
    'sweep',
    [
      *('--together', f'--workdir={workdir}', '--grid.log_every_steps=3,2', '--grid.seed=0,3'),
      *hosts_of_a_run.overrides(config, varied=['log_every_steps']),
    ],
  )
  first, second = (host.communicate(timeout=400)[0] for host in hosts)
  assert [host.returncode for host in hosts] == [0, 0], f'{first}\n{second}'
  assert '2 runs of log_every_steps=2: 2 finished' in first and '4 runs: 4 finished' in first
  assert 'finished' not in second
  config.seed = 3
  _, alone = train_run(config, str(tmp_path / 'alone'))
  result = records.read_json(str(workdir / 'log_every_steps=3,seed=3' / 'result.json'))
  assert result['test/raw/cross_entropy'] == pytest.approx(
    alone['test/raw/cross_entropy'], rel=1e-4
  )
