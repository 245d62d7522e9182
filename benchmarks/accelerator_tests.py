"""The tests of the networks, the optimiser and the step, run on the accelerator."""

import os
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

_ROOT = pathlib.Path(__file__).parent.parent
FOLDERS = (
  'tests/ops',
  'tests/optim',
  'tests/models',
  'tests/training/test_step.py',
  'tests/training/test_losses.py',
)
# A line of pytest -v, in a worker of pytest-xdist or not.
_OUTCOME = re.compile(r'(?:\[gw\d+\] .*?)?(PASSED|FAILED|ERROR|SKIPPED)\s+(tests/\S+)')


def run_tests(
  platform: str,
  *,
  seconds: float,
  log: str,
  tests: tuple[str, ...],
  folder: str | os.PathLike[str] = _ROOT,
) -> dict[str, Any]:
  """Runs tests with JAX on `platform`, for so many seconds at most.

  Args:
    platform: for JAX_PLATFORMS.
    seconds: then it is ended, and what is done counts.
    log: file that gets what pytest prints.
    tests: files and folders, in
    folder: of the checkout.

  Returns:
    Numbers of tests `passed`, `failed` and `skipped`; `failures`, the names of those that failed;
    `is_complete`, and the `tests`.
  """
  environment = {
    **os.environ,
    'JAX_PLATFORMS': platform,
    # By default products in float32 have the precision of TensorFloat-32 on recent GPUs.
    'JAX_DEFAULT_MATMUL_PRECISION': 'highest',
    'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
  }
  workers = max(1, min(6, (os.cpu_count() or 1) // 2))
  command = [sys.executable, '-m', 'pytest', '-v', '--tb=line', '-oaddopts=', '-pno:cacheprovider']
  command += [f'--numprocesses={workers}', '--dist=loadscope'] if workers > 1 else ['-pno:xdist']
  with open(log, 'w', encoding='utf-8') as output:
    process = subprocess.Popen(
      [*command, *tests], cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + seconds
    try:
      is_complete = process.wait(deadline - time.monotonic()) in (0, 1)
    except subprocess.TimeoutExpired:
      is_complete = False
      process.terminate()
      try:
        process.wait(5)
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
  with open(log, encoding='utf-8', errors='replace') as lines:
    outcomes = dict(reversed(match.groups()) for match in map(_match, lines) if match)
  if not outcomes:
    raise RuntimeError(f'no test was run, see {os.path.basename(log)}')
  failures = sorted(name for name, outcome in outcomes.items() if outcome in ('FAILED', 'ERROR'))
  counts = list(outcomes.values())
  return {
    'passed': counts.count('PASSED'),
    'failed': len(failures),
    'skipped': counts.count('SKIPPED'),
    'failures': failures,
    'is_complete': is_complete,
    'tests': list(tests),
  }


def _match(line: str) -> re.Match[str] | None:
  """The outcome in a line, written before the name, or after it as without pytest-xdist."""
  if plain := re.match(r'(tests/\S+) (PASSED|FAILED|ERROR|SKIPPED)', line):
    return _OUTCOME.match(f'{plain[2]} {plain[1]}')
  return _OUTCOME.match(line)
