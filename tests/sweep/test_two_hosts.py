"""A sweep on two hosts: groups, results, a run that is taken over, and an end that both reach."""

import pytest

from nfnets_augmult.ops import files
from nfnets_augmult.training import records
from tests import buckets, hosts_of_a_run
from tests.toy_runs import PACKAGE_MODEL, device_config, train_run

pytestmark = pytest.mark.extended


@pytest.mark.long
def test_two_hosts_run_a_sweep(tmp_path, monkeypatch):
  """Two processes of one device each, in a bucket: the results of this one with eight.

  With dropout, and with SAM on a fifth of the batch. Rounding is 6e-8 per operation, and a few
  steps add up that of sums of thousands of terms. The first of two groups is taken over, which
  host 0 alone finds; both leave it as it is, and go on with the other.
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
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'compiled'))
  with buckets.in_environment() as bucket:
    workdir = bucket.url('two')
    taken = f'{workdir}/log_every_steps=3,seed=0'

    def start_another(method, path):
      if method == 'DELETE' and 'log_every_steps=3,seed=0%2Fstatus.json' in path:  # at its start
        bucket.refuse = lambda method, path: 0
        records.Claim(taken)
      return 0

    with bucket.refusing(start_another):
      hosts = hosts_of_a_run.start(
        'sweep',
        [
          *('--together', f'--workdir={workdir}'),
          *('--grid.log_every_steps=3,2', '--grid.seed=0,3'),
          *hosts_of_a_run.overrides(config, varied=['log_every_steps']),
        ],
      )
      first, second = (host.communicate(timeout=900)[0] for host in hosts)
      assert bucket.refuse is not start_another
    assert [host.returncode for host in hosts] == [0, 0], f'{first}\n{second}'
    assert '2 runs of log_every_steps=3: left to a process that was started later' in first
    assert '2 runs of log_every_steps=2: 2 finished' in first
    assert '4 runs: 2 unfinished, 2 finished' in first
    assert 'finished' not in second
    assert records.read_status(taken) == ('unfinished', '')
    assert not files.exists(f'{taken}/metrics.jsonl')
    result = records.read_json(f'{workdir}/log_every_steps=2,seed=3/result.json')
  config.seed = 3
  _, alone = train_run(config, str(tmp_path / 'alone'))
  assert result['test/raw/cross_entropy'] == pytest.approx(
    alone['test/raw/cross_entropy'], rel=1e-4
  )
