"""Trains a network with augmentation multiplicity, or resumes training.

    python -m nfnets_augmult.train --config=experiments/quickstart_digits.py
        [--workdir=DIR] [--config.KEY=VALUE ...] [--multi_host] [--check]

The work directory, by default `runs/NAME` for `experiments/NAME.py`, has the checkpoints, metrics,
config and pictures. The same command again resumes the run, or reports that it is finished.
`--check` reads every image once and reports on them instead, without a device or a work directory.
"""

import contextlib
import os
import shlex
import sys
from typing import Any

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
import jax
import ml_collections
from absl import flags, logging

from nfnets_augmult.data.sources import BadDataError
from nfnets_augmult.ops import files
from nfnets_augmult.runs import assessing, run_page, summary, training, workdirs
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import hosts, records
from nfnets_augmult.training.checkpoints import CheckpointError
from nfnets_augmult.training.run_log import DivergedError
from nfnets_augmult.training.watch import StopRequested


def _finder_command() -> str:
  """Returns the command of the learning-rate finder for the same config."""
  config = [argument for argument in sys.argv[1:] if argument.lstrip('-').startswith('config')]
  return shlex.join(['python', '-m', 'nfnets_augmult.find_learning_rate', *config])


class _LockedError(Exception):
  """Another process is training in the work directory."""


def _lock(workdir: str, locks: contextlib.ExitStack) -> None:
  if not locks.enter_context(records.lock_workdir(workdir)):
    raise _LockedError(
      f'another process is training in {workdir}: wait for it, stop it, or choose another --workdir'
    )


def _assess(
  run: Run, result: dict[str, Any], params: Any = None, stop: Any = lambda: False
) -> None:
  """Prints the assessment of a finished run, which is made if it is not there, and draws its page.

  What goes wrong is a warning: the result does not depend on it.

  Args:
    run: that is finished.
    result: of it.
    params: its averaged parameters, if it was trained just now.
    stop: whether to stop, asked between batches.

  Raises:
    StopRequested: `stop` was true.
  """
  command = shlex.join(
    ['python', '-m', 'nfnets_augmult.evaluate', f'--workdir={run.workdir}', '--report']
  )
  if jax.process_count() > 1:
    if jax.process_index() == 0:
      logging.info('confusions and calibration are for one machine to find: %s', command)
      _show_page(run.workdir, is_new=params is not None)
    return

  def check_stop() -> None:
    if stop():
      raise StopRequested

  is_new = params is not None
  try:
    earlier = assessing.read(run.workdir)
    found = assessing.of_finished_run(run, params, step=result['step'], check_stop=check_stop)
    is_new |= found != earlier
    print(assessing.text(found, assessing.folder_of(run.workdir)))
  except (ValueError, CheckpointError, OSError) as error:
    logging.warning('confusions and calibration are missing: %s. To try again: %s', error, command)
  finally:
    _show_page(run.workdir, is_new=is_new)


def _show_page(workdir: str, *, is_new: bool) -> None:
  """Prints where the page of a run is, which is drawn if there is something new to show."""
  path = os.path.join(workdir, run_page.NAME)
  try:
    if is_new:
      run_page.write_run_page(workdir)
    if files.exists(path):
      print(f'  page: {path}')
  except (ValueError, OSError) as error:
    logging.warning('%s is not drawn: %s', path, error)


def check(config: ml_collections.ConfigDict) -> None:
  """Reads all images and reports; fails if something is wrong with them."""
  from nfnets_augmult.runs import checking

  try:
    report = checking.check(config)
  except ValueError as error:
    command_line.fail(str(error))
  print(checking.report_text(report))
  if report.problems:
    raise SystemExit(1)


def main() -> None:
  """Parses the flags and trains; expected errors end with one message."""
  config = flags.FLAGS.config
  if flags.FLAGS.check:
    check(config)
    return
  workdir = flags.FLAGS.workdir or command_line.default_workdir(command_line.config_path())
  try:
    command_line.join_hosts()
    command_line.check_devices()
    command_line.keep_compiled_programs()
    if result := hosts.from_first_host(lambda: workdirs.finished_result(config, workdir)):
      print(summary.result_text(result, workdir, 'This run is finished'))
      _assess(Run(config, workdir), result)
      return
    run = Run(config, workdir).prepare()
  except (ValueError, CheckpointError) as error:
    command_line.fail(str(error), cause=error)
  stop = command_line.StopSignals()
  try:
    with contextlib.ExitStack() as locks:
      hosts.from_first_host(lambda: _lock(workdir, locks))
      state, (result,) = training.train(
        [run], command=command_line.given_command(), page_after_error=True, stop_requested=stop
      )
      if result:
        print(summary.result_text(result, workdir, 'Finished'), flush=True)
        _assess(run, result, state.ema_params, stop)
  except StopRequested:
    logging.info('stopped and saved in %s; the same command goes on from there', workdir)
  except DivergedError as error:
    command_line.fail(
      f'{error}. The run stops, and nothing after that step is saved; {workdir}/curves.png shows '
      f'how it went. To measure the largest stable learning rate: {_finder_command()}. '
      'Then train with a smaller optimizer.learning_rate in another --workdir; adaptive gradient '
      'clipping (optimizer.clipping=0.1) and a warm-up (optimizer.warmup_steps) make larger ones '
      'possible'
    )
  except (
    CheckpointError,
    BadDataError,
    _LockedError,
    hosts.HostError,
    records.TakenOverError,
  ) as error:
    command_line.fail(str(error), cause=error)
  except OSError as error:
    command_line.fail(
      f'cannot write to {workdir}: {error}; the checkpoints there are kept', cause=error
    )


if __name__ == '__main__':
  command_line.define_path(
    'workdir', None, 'Directory of the run; default: runs/NAME of the config.'
  )
  flags.DEFINE_boolean(
    'check', False, 'Only read every image of both splits once, and report on them.'
  )
  command_line.define_host_flags()
  command_line.define_config_flag()
  command_line.run(main)
