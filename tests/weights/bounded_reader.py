"""Reads every file of a folder as parameters, within bounds of memory and time.

    python -m tests.weights.bounded_reader FOLDER

Prints one line of JSON a file: its name, the seconds that it took, and either how many arrays it
has or the message. A file that takes too long ends the process, and so does anything but a
ValueError; the file's name is then the last that was printed to stderr.
"""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np

from nfnets_augmult.weights.param_files import flatten, read_metadata, read_params

SECONDS = 10  # for a machine that does other things as well
MEBIBYTES = 200


def _limit_memory():
  """Allows some memory on top of what the libraries have taken; on Linux only."""
  if not os.path.exists('/proc/self/statm'):
    return
  import resource

  with open('/proc/self/statm') as file:
    pages = int(file.read().split()[0])
  limit = pages * resource.getpagesize() + MEBIBYTES * 2**20
  resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _read(path):
  start = time.perf_counter()
  try:
    params = flatten(read_params(path))
    read_metadata(path)
    assert params and all(np.isfinite(leaf).all() for leaf in params.values()), path
    assert all(leaf.dtype.kind in 'biuf' and leaf.dtype.isnative for leaf in params.values()), path
    outcome = {'arrays': len(params)}
  except ValueError as error:
    outcome = {'message': str(error)}
  return outcome | {'seconds': time.perf_counter() - start}


def read_all(folder):
  """Returns what the program prints of `folder`, by name."""
  done = subprocess.run(
    [sys.executable, '-m', __name__, str(folder)],
    capture_output=True,
    text=True,
    cwd=os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
    check=False,
  )
  assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
  return {row.pop('name'): row for row in map(json.loads, done.stdout.splitlines())}


def main():
  folder = sys.argv[1]
  _limit_memory()
  for name in sorted(os.listdir(folder)):
    print(name, file=sys.stderr, flush=True)
    signal.alarm(SECONDS)
    print(json.dumps({'name': name} | _read(os.path.join(folder, name))), flush=True)
  signal.alarm(0)


if __name__ == '__main__':
  main()
