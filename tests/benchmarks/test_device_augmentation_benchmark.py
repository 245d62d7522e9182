"""The costs of copies on the host, and on the device, where the device makes them."""

import dataclasses

import numpy as np
import pytest

from benchmarks import device_augmentation_benchmark, input_places_benchmark
from benchmarks.random_images import random_run
from experiments import nfnet
from nfnets_augmult.data.canvases import HostInputs
from nfnets_augmult.runs.run import Run
from tests import shared_data

pytestmark = pytest.mark.extended


def _config(**changes):
  config = nfnet.get_config()
  config.dataset.data_dir = shared_data.tfds_dir()
  config.dataset.train_split = 'validation'
  config.dataset.image_size = 24
  config.dataset.canvas = (40, 60)
  config.batch_size, config.augmult = 8, 4
  config.augmentation.randaugment.layers = 2
  config.update_from_flattened_dict(changes)
  return config


def test_costs_of_the_host():
  """Bytes are those of canvases and draws, or of images; of batches that share them, once."""
  run = Run(_config())
  with_layers, without = input_places_benchmark.with_and_without_layers(run)
  assert with_layers is run
  assert without.settings.augmentation == dataclasses.replace(
    run.settings.augmentation,
    randaugment=dataclasses.replace(run.settings.augmentation.randaugment, layers=0),
  )
  costs = input_places_benchmark.compare(run, augmult=4, seconds=0.01)
  device, host = costs['device'], costs['tf.data']
  assert 40 * 60 * 3 / 4 < device.bytes_per_copy < 40 * 60 * 3 / 4 + 300
  assert 24 * 24 * 3 < host.bytes_per_copy < 24 * 24 * 3 + 30
  assert host.bytes_ratio == host.bytes_per_copy / device.bytes_per_copy
  median, least, greatest = host.cpu_ratio
  assert 0 < least <= median <= greatest and device.cpu_ratio is None
  steps = input_places_benchmark.cost_of_steps(run, [1, 2], unique_images_per_batch=2, seconds=0)
  assert all(0 < least <= median <= greatest for median, least, greatest in steps.values())


def test_bytes_of_a_group_count_once():
  canvases, label = np.zeros((1, 2, 3), np.uint8), np.zeros(4, np.int32)
  steps = [HostInputs(canvases, (), {'label': label})] * 5
  _, sent = input_places_benchmark.measure(lambda: (step for step in steps), 0)
  assert sent == canvases.nbytes + label.nbytes
  endless = (HostInputs(canvases, (), {'label': label}) for _ in range(10**9))
  _, sent = input_places_benchmark.measure(lambda: endless, 0.05)
  assert label.nbytes < sent < label.nbytes + 1


def test_costs_of_the_device():
  """More of the augmentation takes more operations; the crop's are two products of matrices."""
  run = random_run(_config(), num_classes=10, num_images=1)
  stages = device_augmentation_benchmark.measure(run)
  assert list(stages) == ['crop', 'and mixing', 'and RandAugment']
  flops = [stage.flops for stage in stages.values()]
  assert flops == sorted(flops)
  products = 2 * 24 * 60 * 3 * (40 + 24)
  assert products < flops[0] < 1.5 * products
  assert all(stage.seconds > 0 and stage.temporary_bytes > 0 for stage in stages.values())
  more = random_run(_config(**{'augmentation.randaugment.layers': 4}), num_classes=10, num_images=1)
  four = device_augmentation_benchmark.measure(more)['and RandAugment'].flops
  assert four - flops[1] == pytest.approx(2 * (flops[2] - flops[1]))
