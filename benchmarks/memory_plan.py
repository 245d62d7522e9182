"""What a training step holds in the memory of one device, from XLA's own plan for it.

The step is compiled for one device and not run, so that device may be one that is not there: a TPU
for which the package libtpu compiles.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import ml_collections

from benchmarks.random_images import random_run
from benchmarks.step_benchmark import program_memory
from nfnets_augmult import configs
from nfnets_augmult.ops import compiling
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import memory
from nfnets_augmult.training.devices import AXIS_NAME

# GiB that a program may take of one JAX device, by maker and name: of TPUs what the compiler of
# libtpu 0.0.42 says of each (a device is a core on v3, a chip on the others), of GPUs three
# quarters of the memory, which is JAX's default, by the maker's data sheets.
DEVICE_GIB = {
  'TPU': {'v3': 15.48, 'v4': 30.75, 'v5e': 15.75, 'v5p': 95.74, 'v6e': 31.25},
  'NVIDIA': {
    'A100 40 GB': 0.75 * 40e9 / 2**30,
    'A100, H100 80 GB': 0.75 * 80e9 / 2**30,
    'H200 141 GB': 0.75 * 141e9 / 2**30,
  },
}


def tpu_device(topology: str) -> Any:
  """Returns the first device of a TPU that need not be there, for compiling only.

  Args:
    topology: such as `'v5e:2x2'`.

  Raises:
    ValueError: libtpu is not installed, or knows no such topology.
  """
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')  # libtpu would ask the cloud who it is
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')  # it will not use a TPU
  from jax.experimental import topologies

  # A chip of v4 and v5p is one device unless the topology says otherwise.
  options = {'chip_config_name': 'megacore'} if topology.startswith(('v4:', 'v5p:')) else {}
  try:
    found = topologies.get_topology_desc(platform='tpu', topology_name=topology, **options)
  except Exception as error:  # of several kinds
    raise ValueError(
      f'topology={topology!r}: {str(error).splitlines()[0]}; it takes the package libtpu, of the '
      'version that jax[tpu] asks for, and a topology that it knows, such as v5e:2x2'
    ) from error
  return found.devices[0]


@contextlib.contextmanager
def _tracing_for(device: Any) -> Iterator[None]:
  """The package chooses some algorithms by JAX's backend: let that be the one of `device`."""
  with mock.patch.object(jax, 'default_backend', lambda: device.platform):
    yield


def step_memory(run: Run, device: Any, *, effort: float = 0.0) -> dict[str, int]:
  """Compiles the training step of `run` for `device` alone; returns `program_memory` of it.

  Args:
    run: planned for one device.
    device: a `jax.Device`, or one of a topology.
    effort: of the compiler, from -1, which takes a fraction of the time, to 1; TPUs only.
  """
  sharding = jax.sharding.SingleDeviceSharding(device)

  def of_one_device(tree: Any) -> Any:
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype, sharding=sharding), tree
    )

  batch_size = run.settings.batch_size
  batch = {
    'image': jax.ShapeDtypeStruct((batch_size, *run.data.image_shape), jnp.uint8),
    'label': jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    'mask': jax.ShapeDtypeStruct((batch_size,), jnp.float32),
  }
  with _tracing_for(device):
    state = run.network.abstract_state
    step = jax.jit(jax.vmap(run.make_train_step(), axis_name=AXIS_NAME), donate_argnums=0)
    lowered = step.lower(*map(of_one_device, (state, batch, run.key)))
    options = dict(compiling.compiler_options() or {})
    if effort:
      options |= dict.fromkeys(('exec_time_optimization_effort', 'memory_fitting_effort'), effort)
    return program_memory(lowered.compile(compiler_options=options or None))


def measure(
  config: ml_collections.ConfigDict,
  device: Any,
  *,
  batch_sizes: Sequence[int] = (16, 32),
  effort: float = 0.0,
) -> dict[str, Any]:
  """Plans the step of a config at two batch sizes per device.

  Args:
    config: of the run; its batch size and n are not used.
    device: see `step_memory`.
    batch_sizes: of one device, the smaller first.
    effort: see `step_memory`.

  Returns:
    `model`, `image_size`, `compute_dtype`, `remat`, `scan_blocks`, `device` and `batch_sizes` as
    used; in bytes `replicated`, see `memory.replicated_bytes`, and `programs`, the sum that XLA
    plans at each batch size; `bytes_per_image`, the slope between them; `fixed_bytes`, the rest.
  """
  programs = []
  for batch_size in batch_sizes:
    config = ml_collections.ConfigDict(config)
    config.update(batch_size=batch_size, unique_images_per_batch=0, augmult=1)
    run = random_run(config, num_classes=1000)
    run.plan = run.settings.make_plan(batch_size, host_count=1, device_count=1)
    programs.append(step_memory(run, device, effort=effort)['program_bytes'])
  slope = (programs[1] - programs[0]) / (batch_sizes[1] - batch_sizes[0])
  return _facts(run) | {
    'device': device.device_kind,
    'batch_sizes': list(batch_sizes),
    'programs': programs,
    'bytes_per_image': slope,
    'fixed_bytes': programs[0] - slope * batch_sizes[0],
  }


# What XLA plans for an image over what `kept_bytes` counts, by maker: the largest ratio seen. On
# TPU v5p 1.34 (F0), 1.16 (F0, remat) and 1.30 (F5, remat); on an H200 2.84 (F0).
PLANNED_OVER_KEPT = {'TPU': 1.35, 'NVIDIA': 2.85}
_KEPT = ('conv_general_dilated', 'dot_general', 'reduce_sum', 'reduce_max', 'reduce_window_sum')


def kept_bytes(run: Run, batch_size: int) -> int:
  """Returns the bytes that a step must keep from the forward pass for its gradient, by tracing it.

  Results of convolutions, products and sums, or with `remat` the stream between blocks, and the
  parameters; all else is cheap to compute again.

  Args:
    run: of the network.
    batch_size: of one device.
  """

  def keep(params: Any, images: Any, key: Any) -> Any:
    def logits(params: Any) -> jax.Array:
      return run.network.classifier(params, key, images, is_training=True)

    if not configs.flatten(run.config).get('model.remat'):
      logits = jax.checkpoint(logits, policy=lambda primitive, *_, **__: primitive.name in _KEPT)
    return jax.vjp(logits, params)[1]

  images = jax.ShapeDtypeStruct((batch_size, *run.data.image_shape), jnp.uint8)
  params = run.network.abstract_state.params
  return memory.tree_bytes(jax.eval_shape(keep, params, images, run.key))


def estimate(config: ml_collections.ConfigDict, maker: str) -> dict[str, Any]:
  """Returns what `measure` does, without compiling: `kept_bytes` times `PLANNED_OVER_KEPT`.

  What does not grow with the batch is taken to be what is replicated and the parameters once more.

  Args:
    config: of the run, see `measure`.
    maker: of the devices, a key of `DEVICE_GIB`.
  """
  config = ml_collections.ConfigDict(config)
  config.update(batch_size=8, unique_images_per_batch=0, augmult=1)
  run = random_run(config, num_classes=1000)
  kept = [kept_bytes(run, batch_size) for batch_size in (4, 8)]
  facts = _facts(run)
  return facts | {
    'device': f'{maker}, estimated',
    'bytes_per_image': PLANNED_OVER_KEPT[maker] * (kept[1] - kept[0]) / 4,
    'fixed_bytes': sum(facts['replicated'].values()) + facts['replicated']['parameters'],
  }


def _facts(run: Run) -> dict[str, Any]:
  """Returns what is known of a run without a plan."""
  keys = configs.flatten(run.config)
  return {
    'model': run.settings.model_name,
    'image_size': run.data.image_shape[0],
    'compute_dtype': run.settings.compute_dtype,
    **{key: bool(keys.get(f'model.{key}')) for key in ('remat', 'scan_blocks')},
    'replicated': memory.replicated_bytes(
      run.network.abstract_state, is_sharpness_aware=bool(run.settings.sam.rho)
    ),
  }


def largest_batch(measured: Mapping[str, Any], device_bytes: float) -> int:
  """Returns the largest batch of one device by the straight line through the measured ones."""
  left = device_bytes - measured['fixed_bytes']
  return max(0, int(left // measured['bytes_per_image']))


def table(records: Sequence[Mapping[str, Any]]) -> str:
  """Returns Markdown: a row for each record, with the largest batch for each of `DEVICE_GIB`.

  The columns are devices of the maker of the first record's; programs of others need other memory.

  Args:
    records: see `measure`, of devices of one maker.
  """
  maker = next((name for name in DEVICE_GIB if name in records[0]['device']), '')
  columns = DEVICE_GIB.get(maker, {})
  heads = ('model', 'pixels', 'replicated, GiB', 'besides, GiB', 'per image, MiB', *columns)
  lines = [f'| {" | ".join(heads)} |', f'| :-- |{" --: |" * (len(heads) - 1)}']
  for record in records:
    options = [key for key in ('scan_blocks', 'remat') if record[key]]
    replicated = sum(record['replicated'].values())
    cells = [
      ', '.join([record['model'], *options]),
      str(record['image_size']),
      f'{replicated / 2**30:.2f}',
      f'{(record["fixed_bytes"] - replicated) / 2**30:.2f}',
      f'{record["bytes_per_image"] / 2**20:.1f}',
      *(f'{largest_batch(record, gib * 2**30):,}' for gib in columns.values()),
    ]
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)
