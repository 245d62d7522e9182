"""Timing on an asynchronous device, and programs compiled side by side."""

import concurrent.futures
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax

T = TypeVar('T')

_SAMPLES = 7
_MOST_CALLS = 200

_cache_hits: list[str] = []


def _note_cache_hit(event: str, **_: Any) -> None:
  if event == '/jax/compilation_cache/cache_hits':
    _cache_hits.append(event)


jax.monitoring.register_event_listener(_note_cache_hit)


def cache_hits() -> int:
  """Returns how many programs were found in JAX's compilation cache so far."""
  return len(_cache_hits)


def time_calls(
  call: Callable[[], Any], *, sample_seconds: float, most_seconds: float = 8.0
) -> dict[str, Any]:
  """Calls `call` often, after some to warm up, and returns the seconds of one call.

  A sample is as many calls as take about `sample_seconds`, dispatched one after another, of which
  the last one's result is waited for, so that the device is never idle within it.

  Args:
    call: returns arrays, after those of the calls before it are computed. Compiled already.
    sample_seconds: of one sample, at least one call.
    most_seconds: of all samples, of which there are at least three.

  Returns:
    `seconds`, the median of the samples, `seconds_min`, `seconds_max`, `samples` and `calls`, those
    of one sample.
  """
  jax.block_until_ready(call())
  start = time.perf_counter()
  jax.block_until_ready(call())
  once = time.perf_counter() - start
  calls = max(1, min(_MOST_CALLS, math.ceil(sample_seconds / once)))
  samples = max(3, min(_SAMPLES, int(most_seconds / (calls * once))))
  seconds = []
  for _ in range(samples):
    start = time.perf_counter()
    for _ in range(calls):
      result = call()
    jax.block_until_ready(result)
    seconds.append((time.perf_counter() - start) / calls)
  return summary(seconds) | {'samples': samples, 'calls': calls}


def summary(seconds: list[float]) -> dict[str, float]:
  """Returns the median and the range of times."""
  return {
    'seconds': statistics.median(seconds),
    'seconds_min': min(seconds),
    'seconds_max': max(seconds),
  }


def in_parallel(functions: Mapping[str, Callable[[], T]]) -> dict[str, T | Exception]:
  """Returns what all `functions` return or raise, each in a thread, once the last one is done.

  For compilation, which leaves Python's lock. Nothing may be timed meanwhile.
  """
  workers = max(1, min(len(functions), (os.cpu_count() or 2) // 2))
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    futures = {name: pool.submit(function) for name, function in functions.items()}
    concurrent.futures.wait(futures.values())
  return {name: future.exception() or future.result() for name, future in futures.items()}
