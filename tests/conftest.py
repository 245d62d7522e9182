"""Eight simulated CPU devices, nothing compiled twice, and what the end of the summary says.

This runs before JAX starts, in every process of pytest-xdist. With JAX_PLATFORMS, as `cuda,cpu`,
the tests run on an accelerator; those that need eight devices fail there.
"""

import collections
import math
import os
import pathlib
import re

import pytest
from absl import logging

from tests import session

_MOST_WORKERS = 8  # more of them would only wait for the longest tests
_GIB_PER_WORKER = 3.0

_session = session.start()
if _session is not None:
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  os.environ['XLA_FLAGS'] = session.quick_compilation(
    os.environ.get('XLA_FLAGS', ''), '--xla_force_host_platform_device_count=8'
  )
  # Several tests run the same program. The key of a program holds the versions and all flags.
  os.environ['JAX_COMPILATION_CACHE_DIR'] = str(session.folder() / 'compiled')
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.05'
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')


def _processors() -> int:
  """How many this process may use; a container's share counts, rounded up."""
  affinity = getattr(os, 'sched_getaffinity', None)
  count = len(affinity(0)) if affinity else os.cpu_count() or 1
  share = re.fullmatch(r'(\d+) (\d+)\s*', _read('/sys/fs/cgroup/cpu.max'))
  return min(count, math.ceil(int(share[1]) / int(share[2]))) if share else count


def _available_gib() -> float:
  """Memory that is not in use, in a container too; infinite where the system does not tell."""
  free = re.search(r'MemAvailable: *(\d+) kB', _read('/proc/meminfo'))
  limit = re.fullmatch(r'(\d+)\s*', _read('/sys/fs/cgroup/memory.max'))
  return min(
    int(free[1]) / 2**20 if free else math.inf, int(limit[1]) / 2**30 if limit else math.inf
  )


def _read(path: str) -> str:
  try:
    return pathlib.Path(path).read_text(encoding='utf-8')
  except OSError:
    return ''


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers() -> int | None:
  """One worker for each processor, as far as memory goes and up to a number that still helps."""
  if 'PYTEST_XDIST_AUTO_NUM_WORKERS' in os.environ:
    return None
  return int(max(1, min(_processors(), _MOST_WORKERS, _available_gib() / _GIB_PER_WORKER)))


if 'PYTEST_XDIST_WORKER_COUNT' in os.environ:
  # Else each worker starts as many threads as there are processors, several times over.
  _threads = max(2, _processors() // int(os.environ['PYTEST_XDIST_WORKER_COUNT']))
  for _variable in (
    'PJRT_NPROC',
    'TF_NUM_INTRAOP_THREADS',
    'TF_NUM_INTEROP_THREADS',
    'OMP_NUM_THREADS',
  ):
    os.environ.setdefault(_variable, str(_threads))


@pytest.fixture(autouse=True)
def _default_verbosity() -> None:
  """Programs set the verbosity; what a test sees of the log does not depend on earlier ones."""
  logging.set_verbosity(logging.WARNING)


@pytest.hookimpl(trylast=True)  # after tests that are not asked for are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Puts files with long tests first: one that started last would leave other workers idle."""
  long_files = {item.path for item in items if item.get_closest_marker('long')}
  items.sort(key=lambda item: item.path not in long_files)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
  """Says in one line how many tests were skipped, and what each kind of them needs."""
  reasons = collections.Counter(
    report.longrepr[2].removeprefix('Skipped: ')
    for report in terminalreporter.getreports('skipped')
    if isinstance(report.longrepr, tuple)
  )
  if reasons:
    kinds = ', '.join(f'{count} {_need(reason, count)}' for reason, count in reasons.most_common())
    terminalreporter.write_line(f'{reasons.total()} skipped: {kinds}')


def _need(reason: str, count: int) -> str:
  """A reason that begins with the verb, agreeing with the number."""
  return re.sub('^needs ', 'need ', reason) if count > 1 else reason
