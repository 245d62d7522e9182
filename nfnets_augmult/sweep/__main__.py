"""Runs the points of a sweep one after another, or resumes a sweep.

    python -m nfnets_augmult.sweep --config=experiments/figures/fig2_growing_batch.py:tiny
        [--workdir=DIR] [--config.KEY=VALUE ...] [--shard=I/K] [--together] [--list] [--multi_host]
    python -m nfnets_augmult.sweep --config=experiments/quickstart_digits.py
        --grid.seed=0,1,2 --grid.optimizer.learning_rate=0.1,0.2

Each point is an ordinary run in `workdir/POINT`. The same command again skips runs that finished or
diverged, resumes interrupted ones, and retries failed ones. With `--grid.KEY=VALUE,VALUE` a config
file of a single run becomes a sweep over all combinations of the values.
"""

import shlex

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
from absl import flags

from nfnets_augmult.ops import console
from nfnets_augmult.sweep import grid, running
from nfnets_augmult.training.watch import StopRequested


def main() -> None:
  """Reads the flags and runs the sweep, or lists its commands."""
  args = flags.FLAGS
  path = command_line.config_path()
  workdir = args.workdir or command_line.default_workdir(path) + ('-grid' if args.grid else '')
  try:
    original = grid.load_sweep(path, args.grid)
    sweep = original.with_base(args.config)
    if args.list:
      if args.together:
        raise ValueError('--list prints commands of single runs: leave --together out')
      console.end_when_nobody_reads()
      shard = grid.take_shard(grid.seed_by_seed(sweep.points), args.shard)
      for line in grid.commands(
        sweep, shard, original_base=original.base, config_path=path, workdir=workdir
      ):
        print(line)
      return
    command_line.join_hosts()
    command_line.check_devices()
    todo = running.prepare(sweep, workdir, together=args.together, shard=args.shard)
    running.say(f'{sweep.title}: {sum(map(len, todo))} of {len(sweep.points)} runs, in {workdir}')
    stop_signals = command_line.StopSignals()
    command = command_line.given_command()
    tally = running.run_sweep(sweep, todo, workdir, command=command, stop_requested=stop_signals)
  except ValueError as error:
    command_line.fail(str(error), cause=error)
  except OSError as error:
    command_line.fail(f'cannot write to {workdir}: {error}', cause=error)
  except StopRequested:
    running.say(
      f'stopped and saved; the same command goes on from there. Work directory: {workdir}'
    )
    return
  num_points = sum(map(len, todo))
  running.say(f'{num_points} runs: {tally.line()}' if todo else 'there are no runs in this shard')
  if tally.counts.get('elsewhere'):
    running.say('some points are being run by another process; they were left to it')
  running.say(f'the report: python -m nfnets_augmult.report --workdir={shlex.quote(workdir)}')
  if failed := tally.counts.get('failed'):
    command_line.fail(f'{failed} runs failed; their status.json and log.txt say why')


if __name__ == '__main__':
  command_line.define_path(
    'workdir', None, 'Directory of the sweep; default: runs/NAME of the config.'
  )
  flags.DEFINE_multi_string(
    'grid', [], 'Of a file with a single run: what to vary, as --grid.KEY=VALUE,VALUE.'
  )
  flags.DEFINE_string('shard', '0/1', 'I/K: only every K-th run, from the I-th on, I from 0.')
  flags.DEFINE_boolean(
    'together', False, "Train seeds and learning rates of one shape in one program; input='device'."
  )
  flags.DEFINE_boolean('list', False, 'Print the command of each run, one a line, and run nothing.')
  command_line.define_host_flags()
  command_line.define_config_flag()
  command_line.run(main)
