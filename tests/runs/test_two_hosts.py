"""A run on two hosts: a signal on one, the loss of one, going on elsewhere; errors of one."""

import signal
import time

import numpy as np
import pytest

from nfnets_augmult import command_line
from nfnets_augmult.training import records
from nfnets_augmult.training.checkpoints import Checkpoints
from nfnets_augmult.training.watch import StopRequested
from tests import hosts_of_a_run
from tests.toy_runs import PACKAGE_MODEL, device_config, stop_after, train_run

pytestmark = pytest.mark.extended


def _config():
  return device_config(
    model__name=PACKAGE_MODEL,
    total_steps=100_000,
    checkpoint__every_steps=100_000,
    evaluation__every_epochs=100_000,
    evaluation__train_images=0,
    log_every_steps=1,
    augmult=4,
    unique_images_per_batch=16,
    model__dropout_rate=0.2,
  )


def _losses(workdir):
  metrics = records.read_metrics(str(workdir / 'metrics.jsonl'))
  return {r['step']: r['train/loss'] for r in metrics if 'train/loss' in r}


def _evaluated(workdir):
  metrics = records.read_metrics(str(workdir / 'metrics.jsonl'))
  return [record['step'] for record in metrics if 'test/ema/top_1' in record]


def _wait_for_step(workdir, step, hosts, *, of=_losses):
  """Waits until the metrics of a step, or what else is asked for, are recorded."""
  deadline = time.monotonic() + 400
  while not [found for found in of(workdir) if found >= step]:
    assert all(host.poll() is None for host in hosts), hosts[0].communicate()[0]
    assert time.monotonic() < deadline, 'the hosts train no step'
    time.sleep(0.05)


def _saved(workdir):
  with Checkpoints(str(workdir), read_only=True) as checkpoints:
    return checkpoints.latest_step


@pytest.mark.long
def test_a_run_moves_from_two_hosts_to_one(tmp_path):
  """A signal on host 1 saves; when host 1 is killed, host 0 ends; one process goes on.

  Host 0 alone has the work directory; by its clock both evaluate after six seconds.
  """
  config, workdir, nowhere = _config(), tmp_path / 'run', tmp_path / 'nowhere'
  flags = [f'--workdir={workdir}', *hosts_of_a_run.overrides(config)]
  own = [f'--workdir={nowhere}']
  by_clock = [*flags, '--config.evaluation.every_minutes=0.1']
  hosts = hosts_of_a_run.start('train', by_clock, flags_of_host_1=own)
  _wait_for_step(workdir, 2, hosts, of=_evaluated)
  asked = max(_losses(workdir))
  hosts[1].send_signal(signal.SIGTERM)
  outputs = [host.communicate(timeout=400)[0] for host in hosts]
  assert [host.returncode for host in hosts] == [0, 0], outputs
  assert all('stopped and saved' in output for output in outputs)
  stopped = _saved(workdir)
  assert stopped > asked

  hosts = hosts_of_a_run.start('train', flags, flags_of_host_1=own)
  _wait_for_step(workdir, stopped + 2, hosts)
  hosts[1].kill()
  output = hosts[0].communicate(timeout=100)[0]
  # The connection of a collective breaks, or the coordination service notices first and aborts.
  assert hosts[0].returncode in (command_line.HOST_LOST, -signal.SIGABRT), output
  last_line = output.splitlines()[-1]
  if hosts[0].returncode == command_line.HOST_LOST:
    assert 'error: the connection to another machine is lost' in last_line
  else:
    assert 'error: this process was killed or has aborted' in last_line
  assert _saved(workdir) == stopped  # nothing of it is lost
  assert not nowhere.exists()

  with pytest.raises(StopRequested):
    train_run(config, str(workdir), stop_requested=stop_after(3))
  moved = _losses(workdir)
  with pytest.raises(StopRequested):
    train_run(config, str(tmp_path / 'alone'), stop_requested=stop_after(max(moved)))
  alone = _losses(tmp_path / 'alone')
  assert moved.keys() == alone.keys() == set(range(1, stopped + 4))
  np.testing.assert_allclose(list(moved.values()), list(alone.values()), rtol=1e-3)


def test_an_error_of_one_host_ends_both_with_its_message(tmp_path):
  """Host 0 alone looks at the work directory, which here holds another run."""
  (tmp_path / 'config.json').write_text('{"seed": 1}', encoding='utf-8')
  flags = [f'--workdir={tmp_path}', *hosts_of_a_run.overrides(_config())]
  for host in hosts_of_a_run.start('train', flags):
    output = host.communicate(timeout=400)[0]
    assert host.returncode == 1
    assert 'holds a run with another config' in output.splitlines()[-1]


def test_what_both_hosts_have(tmp_path):
  """Arrays, errors, checkpoints and initial parameters of the first host; a signal ends it all."""
  flags, own = [f'--workdir={tmp_path / "run"}'], [f'--workdir={tmp_path / "nowhere"}']
  started = hosts_of_a_run.start_module('tests.runs.on_each_host', flags, own)
  outputs = [host.communicate(timeout=400)[0] for host in started]
  assert started[1].returncode == -signal.SIGTERM, '\n'.join(outputs)
  assert started[0].returncode in (command_line.HOST_LOST, -signal.SIGABRT), '\n'.join(outputs)
