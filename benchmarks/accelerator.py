r"""Measures what matters on an accelerator, by worth, within a limit of time; needs no data.

    launch/measure_accelerator.sh [MINUTES] [--output=runs/accelerator] [--tiny]

The folder gets `results.json`, written whole after every part; a page NAME.md, named after the
device, to be read and to be put in `docs/results/accelerators/`; and `conv_algorithms.json`, the
entry of this backend for the file of that name in `nfnets_augmult/models/`. Once more with the same
folder, the parts that are missing are measured. Each group of parts has a process of its own, so
that none holds another's memory, and a crash ends no more than one part.
"""

import os
import signal
import subprocess
import sys
import threading
import time

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
from absl import flags

from benchmarks import accelerator_page, accelerator_tests
from benchmarks.measured_parts import Parts, log
from nfnets_augmult.ops import checks, console, files

_TESTS = 'tests on the accelerator'
# In order of worth.
_WORKERS = ('first', 'timm small', 'tests', 'variants', 'timm middle', 'large', 'convolutions')
# After the deadline, for the part that runs to end by itself.
_GRACE_SECONDS = 3.0

_running: list[subprocess.Popen] = []
_stopping = threading.Event()


def main() -> None:
  """Starts one process for each group of parts, until all are done or the time is over."""
  args = flags.FLAGS
  started = args.started or time.time()
  deadline = args.deadline or started + 60 * args.minutes
  try:
    checks.check_number('minutes', args.minutes, above=0)
    files.make_dirs(args.output)
    parts = Parts(
      args.output, started=started, deadline=deadline, pages=accelerator_page.write_pages
    )
  except ValueError as error:
    command_line.fail(str(error))
  if args.worker:
    _work(args.worker, parts)
    return
  if args.retry_failed:
    parts.forget_failed()
  for number in (signal.SIGINT, signal.SIGTERM):
    console.on_signal(number, _stop)
  late = [worker for worker in _WORKERS if not _run_worker(worker, started, deadline)]
  parts = Parts(args.output, started=started, deadline=deadline, pages=accelerator_page.write_pages)
  for worker in late:
    parts.skip(f'what is left of: {worker}', 'the time was over')
  for line in accelerator_page.conclusions(parts):
    print(line)
  log(started, f'the results are in {args.output}; the same command measures what is missing')


def _run_worker(worker: str, started: float, deadline: float) -> bool:
  """Runs the parts of a worker in a process, again if it died; returns whether time is left."""
  args = flags.FLAGS
  environment = dict(os.environ)
  # Next to PyTorch JAX takes what it needs; by itself all, since memory taken bit by bit is in
  # pieces, into which the largest programs do not fit.
  environment.setdefault(
    'XLA_PYTHON_CLIENT_PREALLOCATE', 'false' if worker.startswith('timm') else 'true'
  )
  environment.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.92')
  cache = args.cache or os.path.join(args.output, 'compiled')
  environment.setdefault('JAX_COMPILATION_CACHE_DIR', os.path.abspath(cache))
  command = [
    *(sys.executable, '-u', '-m', 'benchmarks.accelerator', f'--worker={worker}'),
    *(f'--started={started}', f'--deadline={deadline}', f'--output={args.output}'),
    *(f'--torch_python={args.torch_python}', f'--tiny={args.tiny}'),
  ]
  while time.time() < deadline:
    # A session of its own, to end it with the processes that it starts.
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    _running[:] = [process]
    try:
      status = process.wait(max(deadline - time.time(), 0) + _GRACE_SECONDS)
    except subprocess.TimeoutExpired:
      status = None
    finally:
      _end(process)
    if _stopping.is_set():  # what was interrupted has not failed; `_stop` ends this process
      threading.Event().wait()
    if status == 0:
      return True
    parts = Parts(
      args.output, started=started, deadline=deadline, pages=accelerator_page.write_pages
    )
    interrupted = parts.interrupted()
    for name in interrupted:
      if status is None:
        parts.skip(name, 'the time was over while it was measured or compiled')
      else:
        parts.fail(name, f'its process ended with status {status}; the log says why')
    if status is None:
      return False
    if not interrupted:
      parts.fail(worker, f'its process ended with status {status}; the log says why')
      return True
  return False


def _end(process: subprocess.Popen) -> None:
  """Ends a process and all of its session, if they are still there."""
  for number in (signal.SIGTERM, signal.SIGKILL):
    try:
      os.killpg(process.pid, number)
      process.wait(5)
    except ProcessLookupError:
      break
    except subprocess.TimeoutExpired:
      continue


def _stop(number: int) -> None:
  """Ends the worker, which has a session of its own, and then this process."""
  _stopping.set()
  for process in _running:
    _end(process)
  console.end(number)


def _work(worker: str, parts: Parts) -> None:
  """Measures the parts of one worker, in this process."""
  args = flags.FLAGS
  if worker == 'tests':
    _measure_tests(parts, tiny=args.tiny)
    return
  python = args.torch_python
  if worker.startswith('timm'):
    from benchmarks import timm_comparison, torch_process

    if not torch_process.has_torch(python):
      parts.skip(worker, 'PyTorch with timm is not installed beside JAX; see --torch_python')
      return
  command_line.check_devices()
  parts.skipped.pop(f'what is left of: {worker}', None)
  from benchmarks import accelerator_convolutions, accelerator_parts, accelerator_scale

  scale = accelerator_scale.TINY if args.tiny else accelerator_scale.FULL
  if args.tiny:
    accelerator_scale.add_toy_network()
  parts.log(f'{worker}: JAX is ready')
  if worker.startswith('timm'):
    parts.skipped.pop(worker, None)
    timm_comparison.compare(parts, scale, ('timm small', 'timm middle').index(worker), python)
  else:
    measure = {
      'first': accelerator_parts.measure_first,
      'variants': accelerator_parts.measure_variants,
      'large': accelerator_parts.measure_large,
      'convolutions': accelerator_convolutions.measure_convolutions,
    }
    measure[worker](parts, scale)


def _measure_tests(parts: Parts, *, tiny: bool) -> None:
  backend = (parts.result('environment') or {}).get('backend')
  if backend in (None, 'cpu') and not tiny:
    parts.skip(_TESTS, 'there is no accelerator, or it was not measured')
    return
  tests = ('tests/optim/test_masks.py',) if tiny else accelerator_tests.FOLDERS
  budget = 0.0 if tiny else 40.0
  parts.measure(
    _TESTS,
    budget,
    lambda: accelerator_tests.run_tests(
      'cpu' if tiny else f'{"cuda" if backend == "gpu" else backend},cpu',
      seconds=min(max(parts.seconds_left - 5, 30), 100),
      log=os.path.join(parts.folder, 'tests.log'),
      tests=tests,
    ),
  )


if __name__ == '__main__':
  flags.DEFINE_float('minutes', 9.0, 'How long it may take.')
  command_line.define_path('output', os.path.join('runs', 'accelerator'), 'Folder of the results.')
  command_line.define_path('cache', '', 'Folder of compiled programs; by default in --output.')
  command_line.define_path('torch_python', '', 'Python that has PyTorch and timm, if not this one.')
  flags.DEFINE_boolean('retry_failed', False, 'Measure parts that failed once more.')
  flags.DEFINE_boolean('tiny', False, 'Toy sizes, to try the program itself.')
  flags.DEFINE_string('worker', '', 'Set by the program itself: the group of parts to measure.')
  flags.DEFINE_float('started', 0.0, 'Set by the program itself.')
  flags.DEFINE_float('deadline', 0.0, 'Set by the program itself.')
  console.end_when_nobody_reads()
  command_line.run(main)
