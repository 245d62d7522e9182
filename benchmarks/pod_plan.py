"""What every part of a TPU pod has to do for one step of a run, and which of them takes longest.

Nothing here needs a pod: the work of a host is that of the run's own input, of which one host's
share is measured on this machine; the rest is arithmetic on the config and on data sheets.
"""

import dataclasses
from typing import Any

import numpy as np

from benchmarks import input_benchmark
from benchmarks.step_benchmark import model_flops
from nfnets_augmult.data.host_part import HostPart
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import memory


@dataclasses.dataclass(frozen=True)
class Chip:
  """A kind of TPU, as its makers describe it.

  Attributes:
    peak_flops: of one chip, bfloat16.
    all_reduce_bytes: per second and chip: what the makers state for a whole pod, over its chips; of
      v5p, for which they state none, the bandwidth of its links.
    host_processors: vCPUs of a host with four chips.
  """

  peak_flops: float
  all_reduce_bytes: float
  host_processors: int


# More steps than any measurement reaches.
_STOP_STEP = 2**31

CHIPS_PER_HOST = 4
# Source: the pages of Google Cloud on these chips and their machine types.
CHIPS = {
  'v4': Chip(275e12, 1.1e15 / 4096, 240),
  'v5e': Chip(197e12, 51.2e12 / 256, 112),
  'v5p': Chip(459e12, 600e9, 208),
  'v6e': Chip(918e12, 102.4e12 / 256, 180),
}


def host_part(run: Run, host_index: int, host_count: int) -> HostPart:
  """Returns what one of `host_count` hosts does of every batch of `run`."""
  is_mixed = run.settings.augmentation.mixing.is_on
  return HostPart(run.plan.multiplicity, host_index, host_count, is_mixed=is_mixed)


@dataclasses.dataclass(frozen=True)
class HostWork:
  """Of one host and step, measured.

  Attributes:
    images: unique images that it reads and decodes.
    crops: copies that it crops and scales: its own, and partners of Mixup and CutMix that belong to
      other hosts.
    copies: its slots.
    encoded_bytes: of the images that it reads, by the mean of the data set's.
    device_bytes: that it sends to its devices.
    cpu_seconds: of all threads of the process.
  """

  images: int
  crops: int
  copies: int
  encoded_bytes: float
  device_bytes: int
  cpu_seconds: float


def measure_host(run: Run, host_count: int, *, seconds: float = 5.0) -> HostWork:
  """Makes the batches of the busiest of `host_count` hosts on this machine, one after another.

  Args:
    run: on encoded images, with batches made on the host.
    host_count: divides the batch size.
    seconds: see `input_benchmark.measure_batches`.

  Raises:
    ValueError: `host_count` does not divide the batch size, or see `Run.train_batches`.
  """
  parts = [host_part(run, host, host_count) for host in range(host_count)]
  busiest = max(range(host_count), key=lambda host: parts[host].num_cropped)
  part = parts[busiest]
  _, cpu_seconds = input_benchmark.measure_batches(
    lambda: run.train_batches(0, _STOP_STEP, hosts=(busiest, host_count)), seconds
  )
  height, width, channels = run.data.image_shape
  copies = run.settings.batch_size // host_count
  source = run.data.train
  some = np.linspace(0, source.num_images - 1, num=64, dtype=int)
  return HostWork(
    images=part.num_images,
    crops=part.num_cropped,
    copies=copies,
    encoded_bytes=part.num_images * float(np.mean([len(source.read(int(i))[0]) for i in some])),
    device_bytes=copies * height * width * channels,
    cpu_seconds=cpu_seconds * copies,
  )


def step_plan(
  run: Run, chip: Chip, chips: int, work: HostWork, *, peak_share: float, link_bytes: float
) -> dict[str, Any]:
  """Returns the seconds per step of each part of a pod, were it alone, and the largest of them.

  Args:
    run: its model, batch size and SAM.
    chip: of the pod.
    chips: how many.
    work: of one of its hosts.
    peak_share: of the chips' peak that the step reaches, in the model's own FLOPs.
    link_bytes: per second from a host to its chips.

  Returns:
    `device` (forward pass and gradient, and SAM's on its part), `all-reduce` (of the float32
    gradient: each byte is sent and received once, so a bound from below), `host processors`
    (`work` over the vCPUs of a host, each taken to be as fast as one here), `host to device`; and
    `limit`, the name of the largest.
  """
  sam = run.settings.sam
  ascent = sam.ascent_fraction if sam.rho else 0.0
  params = run.network.abstract_state.params
  seconds = {
    'device': model_flops(run) * (1 + ascent) / (chips * chip.peak_flops * peak_share),
    'all-reduce': 2 * (chips - 1) / chips * memory.tree_bytes(params) / chip.all_reduce_bytes,
    'host processors': work.cpu_seconds / chip.host_processors,
    'host to device': work.device_bytes / link_bytes,
  }
  return seconds | {'limit': max(seconds, key=seconds.get)}


def checkpoint_bytes(run: Run) -> int:
  """Returns the bytes of the state that is saved."""
  return memory.tree_bytes(run.network.abstract_state)
