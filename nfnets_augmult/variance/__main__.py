"""How much of the gradient's variance comes from sampling images, and how much from augmentation.

    python -m nfnets_augmult.variance --workdir=runs/quickstart_digits
        [--config=FILE.py --config.KEY=VALUE ...] [--checkpoint=latest] [--data_dir=DIR]
        [--blocks=16] [--images_per_block=16] [--screened_images=0] [--copies=4]
        [--augmults=1,2,4,8,16]
        [--minibatches=0] [--draw_only]

The parameters are those of a checkpoint of the run in the work directory, or, with
`--checkpoint=initialization`, those before the first step. Data set, augmentation, batch sizes and
model are those of the run, or of `--config` where one is given. Prints a table over n and advice,
and writes `variance.json` and `variance.png` into the work directory. With `--minibatches=M` it
also measures the variance between M mini-batches for every n, as in the paper's Figure 9, and
writes `fig9.png`. `--draw_only` makes tables and figures again from `variance.json`.
"""

import os

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
from absl import flags

from nfnets_augmult.ops import files
from nfnets_augmult.ops.argument_names import renamed
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training.checkpoints import CheckpointError
from nfnets_augmult.variance import measuring, report

_NUMBERS = ('blocks', 'images_per_block', 'screened_images', 'copies', 'minibatches')


def main() -> None:
  """Reads the flags, measures, prints and draws."""
  args = flags.FLAGS
  try:
    raw = report.read_raw(args.workdir) if args.draw_only else _measure()
    print(report.text(raw))
    report.write(args.workdir, raw)
  except (ValueError, CheckpointError, OSError) as error:
    command_line.fail(str(error))


def _measure() -> report.Raw:
  args = flags.FLAGS
  command_line.check_devices()
  command_line.keep_compiled_programs()
  files.make_dirs(args.workdir)
  if args.config is None and not files.exists(os.path.join(args.workdir, 'config.json')):
    raise ValueError(f'--workdir={args.workdir} holds no run (no config.json): give a --config')
  run = Run.open(args.workdir, config=args.config, data_dir=args.data_dir)
  options = {name: args[name].value for name in _NUMBERS}
  options['augmults'] = command_line.whole_numbers('augmults')
  with renamed({name: f'--{name}' for name in options}):
    return measuring.measure(run, checkpoint=args.checkpoint, **options)


if __name__ == '__main__':
  command_line.define_path(
    'workdir', None, 'Directory of the run; gets the results.', required=True
  )
  flags.DEFINE_string(
    'checkpoint', 'latest', "'latest', 'best', the number of a step, or 'initialization'."
  )
  command_line.define_path('data_dir', '', 'Where the data are, if they were moved.')
  flags.DEFINE_integer('blocks', 16, 'Independent estimates, from which intervals are made.', 2)
  flags.DEFINE_integer('images_per_block', 16, 'Images drawn for each of them.', 2)
  flags.DEFINE_integer(
    'screened_images',
    0,
    'Images they are drawn from, by their outputs; 0: all of up to 2,048, else 16 for each drawn.',
    0,
  )
  flags.DEFINE_integer('copies', 4, 'Augmented copies of each image.', 2)
  flags.DEFINE_list('augmults', '1,2,4,8,16', 'Values of n in tables and figures.')
  flags.DEFINE_integer('minibatches', 0, 'Mini-batches to measure for each n, as in Figure 9.', 0)
  flags.DEFINE_boolean('draw_only', False, 'Make tables and figures from variance.json alone.')
  command_line.define_config_flag(required=False)
  command_line.run(main)
