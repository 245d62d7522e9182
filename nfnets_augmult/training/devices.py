"""Data parallelism: functions on all devices, and transfers of trees and batches.

The only module that uses `jax.shard_map`. Arrays have a leading axis of all devices of all hosts,
sharded over them; a host sees its own part.
"""

import collections
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nfnets_augmult.ops import compiling

# The mapped axis of all devices of all hosts.
AXIS_NAME = 'devices'

# The keys of a batch that are transferred; the identities of the slots stay on the host.
DEVICE_KEYS = ('image', 'label', 'mask', 'partner_label', 'mix_weight')


# Those of one run, which all seeds of a sweep share; older ones are let go with their programs.
@functools.lru_cache(maxsize=8)
def on_each_device(function: Callable[..., Any], *, donate_state: bool = False) -> Any:
  """Returns `function`, the program of one device, compiled for all devices.

  Args:
    function: from trees to a tree; its collectives are over `AXIS_NAME`.
    donate_state: whether to donate the first argument.

  Returns:
    A jitted function from and to trees whose leaves have a leading axis of devices, see `place`;
    for one of the last `function`s the same as then, so that it is traced and compiled once.
  """

  def on_one_device(*trees: Any) -> Any:
    result = function(*jax.tree.map(lambda leaf: jax.lax.squeeze(leaf, (0,)), trees))
    return jax.tree.map(lambda leaf: jnp.expand_dims(leaf, 0), result)

  spec = PartitionSpec(AXIS_NAME)
  mapped = jax.shard_map(
    on_one_device, mesh=_mesh(), in_specs=spec, out_specs=spec, check_vma=False
  )
  return compiling.jit(mapped, donate_argnums=0 if donate_state else ())


@functools.cache
def _mesh() -> Mesh:
  """All devices, those of a host next to each other."""
  of_hosts = map(jax.local_devices, range(jax.process_count()))
  return Mesh(np.array(list(itertools.chain.from_iterable(of_hosts))), (AXIS_NAME,))


def replicate(tree: Any) -> Any:
  """Returns `tree` with a leading axis of devices, one copy on each."""
  count = jax.local_device_count()

  def put(leaf: Any) -> jax.Array:
    leaf = np.asarray(leaf)
    return place(np.broadcast_to(leaf, (count, *leaf.shape)))

  return jax.tree.map(put, tree)


def place(array: np.ndarray) -> jax.Array:
  """Shards `array` over the local devices, along its leading axis of that size.

  Returns:
    With a leading axis of all devices of all hosts, of which the others are not addressable.
  """
  sharding = NamedSharding(_mesh(), PartitionSpec(AXIS_NAME))
  if jax.process_count() == 1:
    return jax.device_put(array, sharding)
  return jax.make_array_from_process_local_data(sharding, array)


def first_replica(tree: Any) -> Any:
  """Returns the copy of the first local device as NumPy arrays; waits until it is computed.

  Reads one shard, since indexing a sharded array with `[0]` would compile and run a gather.
  """
  shards = jax.tree.map(lambda leaf: leaf.addressable_shards[0].data, tree)
  return jax.tree.map(lambda leaf: np.asarray(leaf[0]), jax.device_get(shards))


def copy_to_host(tree: Any) -> Any:
  """Returns what `first_replica` does, as arrays that share no memory with the devices."""
  replica = first_replica(tree)
  return jax.tree.map(np.array, replica) if jax.default_backend() == 'cpu' else replica


@functools.cache
def _maximum() -> Any:
  return on_each_device(lambda flag: jax.lax.pmax(flag, AXIS_NAME))


def any_device(flag: bool) -> jax.Array:
  """Returns whether `flag` is true on any host, replicated int32; does not wait for the result."""
  return _maximum()(place(np.full(jax.local_device_count(), flag, np.int32)))


def place_batch(batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
  """Divides a host's batch among the local devices, transferring asynchronously.

  Args:
    batch: arrays `[B, ...]`; image and copy indices are not transferred.

  Returns:
    Arrays `[D, B / D, ...]`; each device gets slots that follow each other.
  """
  count = jax.local_device_count()
  return {
    key: place(batch[key].reshape(count, -1, *batch[key].shape[1:]))
    for key in DEVICE_KEYS
    if key in batch
  }


def prefetch(
  batches: Iterator[Any], *, place: Callable[[Any], Any] = place_batch, ahead: int = 2
) -> Iterator[Any]:
  """Yields placed batches while the next `ahead` are transferred.

  Args:
    batches: in order.
    place: transfers one, asynchronously.
    ahead: how many.
  """
  placed = map(place, batches)
  queue = collections.deque(itertools.islice(placed, ahead))
  while queue:
    yield queue.popleft()
    queue.extend(itertools.islice(placed, 1))


def memory_limit() -> int | None:
  """Returns the bytes that JAX may take of the local device with least memory, None if unknown."""
  limits = [(device.memory_stats() or {}).get('bytes_limit') for device in jax.local_devices()]
  return min((limit for limit in limits if limit is not None), default=None)


def max_steps_in_flight() -> int:
  """Returns how many dispatched steps may be in flight before a result is waited for.

  Two keep an accelerator busy. Simulated CPU devices share a thread pool, in which a second step
  can take the threads that a collective of the first one waits for.
  """
  return 0 if jax.default_backend() == 'cpu' and jax.local_device_count() > 1 else 2
