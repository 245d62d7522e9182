"""The plan of a pod: a host's share is counted and measured, the rest is arithmetic."""

import ml_collections
import pytest

from benchmarks import pod_plan
from experiments import nfnet
from nfnets_augmult.runs.run import Run
from tests import shared_data

pytestmark = pytest.mark.extended


@pytest.fixture(scope='module', name='run')
def _run():
  """32 images, 4 copies of each, at 16 pixels, with Mixup and CutMix."""
  config = nfnet.get_config('f0,n=4,sam')
  config.dataset.data_dir = shared_data.tfds_dir()
  config.dataset.train_split = 'validation'
  config.dataset.image_size = 16
  config.batch_size = 128
  config.augmentation.randaugment.layers = 0
  return Run(config)


@pytest.mark.parametrize(('hosts', 'images', 'crops'), [(2, 16, 64), (4, 8, 32), (16, 8, 32)])
def test_work_of_a_host(run, hosts, images, crops):
  """Partners are within eight images, so a host with less of them reads and crops all eight."""
  work = pod_plan.measure_host(run, hosts, seconds=0.05)
  assert (work.images, work.crops, work.copies) == (images, crops, 128 // hosts)
  assert work.device_bytes == 128 // hosts * 16 * 16 * 3
  assert work.encoded_bytes > images * 1000  # photographs
  assert work.cpu_seconds > 0


def test_seconds_of_a_step(run):
  """Each part by hand, and the largest is the limit."""
  chip = pod_plan.Chip(peak_flops=1e12, all_reduce_bytes=1e9, host_processors=10)
  work = pod_plan.HostWork(8, 32, 32, 1e5, device_bytes=10**6, cpu_seconds=50.0)
  plan = pod_plan.step_plan(run, chip, 4, work, peak_share=0.5, link_bytes=1e9)
  assert plan['host processors'] == 5.0 and plan['host to device'] == 1e-3
  assert plan['all-reduce'] == pytest.approx(2 * 3 / 4 * 4 * 71_489_284 / 1e9)
  assert plan['limit'] == 'host processors'
  twice = pod_plan.step_plan(run, chip, 8, work, peak_share=0.5, link_bytes=1e9)
  assert twice['device'] == pytest.approx(plan['device'] / 2)
  # A fifth of the batch climbs first.
  config = ml_collections.ConfigDict(run.config)
  config.sam.rho = 0.0
  without_sam = Run(config, data=run.data)
  plain = pod_plan.step_plan(without_sam, chip, 4, work, peak_share=0.5, link_bytes=1e9)
  assert plan['device'] == pytest.approx(1.2 * plain['device'])


def test_checkpoint_is_three_times_the_parameters(run):
  """Parameters, momentum and average, and two counters."""
  assert pod_plan.checkpoint_bytes(run) - 3 * 4 * 71_489_284 in range(16)
