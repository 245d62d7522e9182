"""Tests the paper's claim about equal updates in the time there is, and draws the report.

    python -m nfnets_augmult.reproduce --hours=8 --config=experiments/equal_updates.py
        [--workdir=DIR] [--processes=1] [--config.dataset.data_dir=DIR] [--config.KEY=VALUE ...]

It measures the speed of the machine, chooses the longest runs that fit, searches the learning rates
of n = 1 and n = 4, and then adds pairs of runs, seed by seed, until the time is over. The same
command again goes on from there, for as many hours more. The report is in DIR/report.
"""

import os
import subprocess
import sys
import time

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# Several processes share the memory of an accelerator. Before any import of JAX.
os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')

# isort: split
from absl import flags

from nfnets_augmult.report import writing
from nfnets_augmult.reproduce import working
from nfnets_augmult.reproduce.design import load_design


def main() -> None:
  """Reads the flags, works until the time is over, draws the report."""
  args = flags.FLAGS
  path = command_line.config_path()
  workdir = args.workdir or command_line.default_workdir(path)
  until = args.until or time.time() + 3600 * args.hours
  others = []
  try:
    design = load_design(path).with_base(args.config)
    for _ in range(0 if args.until else args.processes - 1):
      command = [sys.executable, '-m', 'nfnets_augmult.reproduce', *sys.argv[1:]]
      others.append(subprocess.Popen([*command, f'--until={until}']))
    command_line.check_devices()
    signals, parent = command_line.StopSignals(), os.getppid()
    is_done = working.work(
      design,
      workdir,
      seconds=until - time.time(),
      stop_requested=lambda: (
        signals() or time.time() > until or (args.until and os.getppid() != parent)
      ),
    )
    if args.until:
      return
    if signals():
      for other in others:
        other.terminate()
    statuses = [other.wait() for other in others]
    print('all runs are done' if is_done else 'stopped; the same command goes on from there')
    if os.path.isdir(runs := os.path.join(workdir, working.RUNS)):
      print('\n'.join(writing.write_report(runs, os.path.join(workdir, 'report'))))
  except ValueError as error:
    command_line.fail(str(error), cause=error)
  except OSError as error:
    command_line.fail(f'cannot write to {workdir}: {error}', cause=error)
  finally:
    for other in others:
      other.terminate()
  if any(statuses):
    command_line.fail('a process that worked beside this one failed; its message is above')


if __name__ == '__main__':
  command_line.define_path('workdir', None, 'Folder of the runs; default: runs/NAME.')
  flags.DEFINE_float('hours', None, 'How long to train; saving and the report come on top.', 0)
  flags.mark_flag_as_required('hours')
  flags.DEFINE_integer('processes', 1, 'How many runs train side by side on the accelerator.', 1)
  flags.DEFINE_float('until', 0, 'Set for the further processes: when to stop, Unix time.', 0)
  command_line.define_config_flag()
  command_line.run(main)
