"""Agreement between the processes of several hosts; trivial with a single one.

All functions here are collective: every host must call them, in the same order.
"""

import collections
import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from nfnets_augmult.training import devices, records

# Errors of the runtime that are no failed communication.
_OWN_ERRORS = ('RESOURCE_EXHAUSTED', 'INVALID_ARGUMENT', 'UNIMPLEMENTED', 'NOT_FOUND')
# What is sent is padded to a multiple of this, since a program is compiled for each size.
_BLOCK = 4096
# Bytes of arrays that are sent at a time.
_MOST_BYTES = 2**26


class SharedError(Exception):
  """All hosts raise it at the same place of the program. Any other error is one host's own."""


class HostError(SharedError, ValueError):
  """What only one host could find out, and all raise; with a single host the original error."""


class HostTakenOverError(HostError, records.TakenOverError):
  """That another process was started in the work directory, which one host has found."""


def any_host(flag: bool) -> bool:
  """Whether `flag` is true on any host."""
  if jax.process_count() == 1:
    return flag
  return bool(np.any(_gather(np.array(flag))))


def from_first_host(make: Callable[[], Any]) -> Any:
  """Returns on all hosts what `make` returns on the first, where alone it is called.

  Args:
    make: returns what JSON can hold. An error that it raises ends all hosts.

  Raises:
    HostError: `make` raised an error.
  """
  if jax.process_count() == 1:
    return make()
  value = None
  with failing_together():
    if jax.process_index() == 0:
      value = make()
  return json.loads(_gather_texts(json.dumps(value))[0])


def arrays_from_first_host(make: Callable[[], Sequence[np.ndarray]]) -> list[np.ndarray]:
  """Returns on all hosts the arrays that `make` returns on the first, where alone it is called.

  They are the same bit for bit. They are sent in parts, so that no host holds them twice.

  Args:
    make: returns arrays. An error that it raises ends all hosts.

  Raises:
    HostError: `make` raised an error.
  """
  if jax.process_count() == 1:
    return list(make())
  is_first = jax.process_index() == 0
  arrays = []

  def describe() -> list[tuple[tuple[int, ...], str]]:
    for array in map(np.asarray, make()):
      arrays.append(np.asarray(array, array.dtype.newbyteorder('='), order='C'))
    return [(array.shape, array.dtype.name) for array in arrays]

  described = from_first_host(describe)
  if not is_first:
    arrays = [np.empty(shape, dtype) for shape, dtype in described]
  as_bytes = [array.reshape(-1).view(np.uint8) for array in arrays]
  size = _padded(min(_MOST_BYTES, sum(map(len, as_bytes))))
  for parts in _in_parts(as_bytes, size):
    sent = np.zeros(size, np.uint8)
    if is_first:
      np.concatenate(parts, out=sent[: sum(map(len, parts))])
    received = _broadcast(sent)
    for part in () if is_first else parts:
      part[:], received = received[: len(part)], received[len(part) :]
  return arrays


def _in_parts(arrays: Sequence[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
  """Yields lists of slices of the arrays, in order, with `size` elements in each but the last."""
  parts, free = [], size
  for array in arrays:
    while len(array):
      parts.append(array[:free])
      array, free = array[free:], free - len(parts[-1])
      if not free:
        yield parts
        parts, free = [], size
  if parts:
    yield parts


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
  """Waits for all hosts at the end of the body, which fails on all if it fails on any.

  The body itself must not be collective.

  Raises:
    HostError: the body raised an error on one of several hosts, whose message this has.
    HostTakenOverError: likewise, and it was a TakenOverError.
  """
  if jax.process_count() == 1:
    yield
    return
  own = None
  try:
    yield
  except Exception as error:
    own = error
  message = '' if own is None else str(own) or type(own).__name__
  found = _gather_texts(json.dumps([message, is_from(own, records.TakenOverError)]))
  for index, (message, is_taken_over) in enumerate(map(json.loads, found)):
    if message:
      kind = HostTakenOverError if is_taken_over else HostError
      raise kind(f'on host {index}: {message}' if index else message) from own


def is_from(error: BaseException | None, kinds: type | tuple[type, ...]) -> bool:
  """Whether an error, or one from which it was raised, is of these classes."""
  return error is not None and (isinstance(error, kinds) or is_from(error.__cause__, kinds))


def is_lost(error: BaseException | None) -> bool:
  """Whether an error of several hosts says that the connection to one of them is lost."""
  if jax.process_count() == 1 or error is None:
    return False
  if isinstance(error, jax.errors.JaxRuntimeError):
    return not str(error).startswith(_OWN_ERRORS)
  if isinstance(error, ValueError) and str(error).startswith('UNKNOWN: Gloo'):
    return True  # as JAX raises it if a program fails while it is started
  return is_lost(error.__cause__)


class Votes:
  """Whether any host asks for something, such as to stop, without any waiting for the others.

  A vote is a maximum over all devices: a program by itself, which the devices run after the steps
  dispatched so far. It is counted as many votes later as steps may be in flight.
  """

  def __init__(self, requested: Callable[[], bool]):
    """Stores what says whether this host asks for it."""
    self._requested = requested
    self._votes = collections.deque()
    self._is_agreed = False

  def is_agreed(self) -> bool:
    """Whether to do it here: with the same call, all hosts learn that one asks for it."""
    if jax.process_count() == 1:
      return self._requested()
    self._votes.append(devices.any_device(self._requested()))
    while len(self._votes) > devices.max_steps_in_flight():
      self._is_agreed |= bool(devices.first_replica(self._votes.popleft()))
    return self._is_agreed


def _gather(array: np.ndarray) -> np.ndarray:
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.process_allgather(array))


def _broadcast(data: np.ndarray) -> np.ndarray:
  """Returns the bytes of the first host; their number is a multiple of 4."""
  from jax.experimental import multihost_utils

  # As integers: zeros are added to them, which would make 0.0 of -0.0.
  words = data.view(np.uint32)
  return np.asarray(multihost_utils.broadcast_one_to_all(words)).view(np.uint8)


def _padded(size: int) -> int:
  return max(1, -(-size // _BLOCK)) * _BLOCK


def _gather_texts(text: str) -> list[str]:
  data = np.frombuffer(text.encode(), np.uint8)
  sizes = _gather(np.array(len(data)))
  padded = np.zeros(_padded(int(sizes.max())), np.uint8)
  padded[: len(data)] = data
  rows = _gather(padded)
  return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]
