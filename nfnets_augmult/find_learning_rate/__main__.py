"""Finds the largest stable learning rate of a run before it is trained.

    python -m nfnets_augmult.find_learning_rate --config=experiments/quickstart_digits.py
        [--workdir=DIR] [--config.KEY=VALUE ...] [--seeds=3] [--ramp_steps=300] [--check_steps=200]
        [--lowest=1e-4] [--highest=10] [--safety=2]

The steps are those of the real run: its data, batches, n, model, clipping and SAM. For every seed
the learning rate first rises exponentially; short trainings with the schedule of the run follow,
at learning rates that differ by factors of 2. Prints the largest one that is stable for all seeds,
a suggestion below it and the paper's findings on other n; writes `learning_rate.json` and
`learning_rate.png` to the work directory, by default `runs/NAME-find_learning_rate`.
"""

import os

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
from absl import flags

from nfnets_augmult.data.sources import BadDataError
from nfnets_augmult.find_learning_rate import figure, search
from nfnets_augmult.find_learning_rate.findings import report
from nfnets_augmult.ops import files, paths
from nfnets_augmult.ops.argument_names import renamed
from nfnets_augmult.training import records
from nfnets_augmult.training.checkpoints import CheckpointError

_OPTIONS = ('seeds', 'ramp_steps', 'check_steps', 'lowest', 'highest', 'safety')
JSON_NAME, PICTURE_NAME = 'learning_rate.json', 'learning_rate.png'


def main() -> None:
  """Reads the flags, searches, prints, draws and writes."""
  args = flags.FLAGS
  name = command_line.default_workdir(command_line.config_path())
  workdir = args.workdir or f'{name}-find_learning_rate'
  command_line.check_devices()
  command_line.keep_compiled_programs()
  try:
    paths.check_writable('--workdir', workdir)
    options = {name: args[name].value for name in _OPTIONS}
    with renamed({name: f'--{name}' for name in _OPTIONS}):
      findings = search.find(args.config, **options)
    result = findings.to_json()
    files.make_dirs(workdir)
    records.write_json(os.path.join(workdir, JSON_NAME), result)
    figure.save(result, os.path.join(workdir, PICTURE_NAME))
  except (ValueError, BadDataError, CheckpointError) as error:
    command_line.fail(str(error))
  except OSError as error:
    command_line.fail(f'cannot write to {workdir}: {error}')
  print(report(findings))
  print(f'\npicture: {workdir}/{PICTURE_NAME}, numbers: {workdir}/{JSON_NAME}')


if __name__ == '__main__':
  command_line.define_path(
    'workdir', None, 'Folder of the results; default: runs/NAME-find_learning_rate.'
  )
  flags.DEFINE_integer('seeds', 3, "Number of seeds, from the config's on.")
  flags.DEFINE_integer('ramp_steps', 300, 'Steps in which the learning rate rises, for each seed.')
  flags.DEFINE_integer('check_steps', 200, 'Steps of each short training with the real schedule.')
  flags.DEFINE_float('lowest', 1e-4, 'Learning rate at which the ramp starts.')
  flags.DEFINE_float('highest', 10.0, 'Learning rate at which it ends; nothing larger is tried.')
  flags.DEFINE_float('safety', 2.0, 'Least ratio of the largest stable one to the suggestion.')
  command_line.define_config_flag()
  command_line.run(main)
