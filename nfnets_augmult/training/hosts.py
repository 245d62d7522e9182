"""Agreement between the processes of several hosts; trivial with a single one.

All functions here are collective: every host must call them, in the same order.
"""

import collections
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from nfnets_augmult.training import devices

# Errors of the runtime that are no failed communication.
_OWN_ERRORS = ('RESOURCE_EXHAUSTED', 'INVALID_ARGUMENT', 'UNIMPLEMENTED', 'NOT_FOUND')
# Texts of different lengths share programs, which are compiled for each shape.
_TEXT_BLOCK = 4096


class SharedError(Exception):
  """All hosts raise it at the same place of the program. Any other error is one host's own."""


class HostError(SharedError, ValueError):
  """What only one host could find out, and all raise; with a single host the original error."""


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


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
  """Waits for all hosts at the end of the body, which fails on all if it fails on any.

  The body itself must not be collective.

  Raises:
    HostError: the body raised an error on one of several hosts, whose message this has.
  """
  if jax.process_count() == 1:
    yield
    return
  own = None
  try:
    yield
  except Exception as error:
    own = error
  messages = _gather_texts('' if own is None else str(own) or type(own).__name__)
  for index, message in enumerate(messages):
    if message:
      raise HostError(f'on host {index}: {message}' if index else message) from own


def is_lost(error: BaseException | None) -> bool:
  """Whether an error of several hosts says that the connection to one of them is lost."""
  if jax.process_count() == 1 or error is None:
    return False
  if isinstance(error, jax.errors.JaxRuntimeError):
    return not str(error).startswith(_OWN_ERRORS)
  return is_lost(error.__cause__)


class StopVotes:
  """Whether any host was asked to stop, without any host waiting for the others.

  A vote is a maximum over all devices: a program by itself, which the devices run after the steps
  dispatched so far. It is counted as many votes later as steps may be in flight.
  """

  def __init__(self, requested: Callable[[], bool]):
    """Stores what says whether this host was asked to stop."""
    self._requested = requested
    self._votes = collections.deque()
    self._is_agreed = False

  def is_agreed(self) -> bool:
    """Whether to stop here: with the same call, all hosts learn that one was asked to."""
    if jax.process_count() == 1:
      return self._requested()
    self._votes.append(devices.any_device(self._requested()))
    while len(self._votes) > devices.max_steps_in_flight():
      self._is_agreed |= bool(devices.first_replica(self._votes.popleft()))
    return self._is_agreed


def _gather(array: np.ndarray) -> np.ndarray:
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.process_allgather(array))


def _gather_texts(text: str) -> list[str]:
  data = np.frombuffer(text.encode(), np.uint8)
  sizes = _gather(np.array(len(data)))
  padded = np.zeros(max(1, -(-sizes.max() // _TEXT_BLOCK)) * _TEXT_BLOCK, np.uint8)
  padded[: len(data)] = data
  rows = _gather(padded)
  return [bytes(row[:size]).decode() for row, size in zip(rows, sizes, strict=True)]
