"""Measures speed on this machine.

    python -m nfnets_augmult.benchmark input [--augmult=1,4,16] [--batch_size=1024]
        [--config=experiments/cifar100_wrn16_4.py --config.dataset.data_dir=DIR]

`input` prints augmented images per second for several n, as ratios to a plain per-image pipeline
that repeats each record n times, measured in turn in the same run. Without a config it takes
random images of CIFAR's size.
"""

import os

from nfnets_augmult import front_door  # first: it quietens libraries before they are imported

# isort: split
from absl import flags

from nfnets_augmult import assembly
from nfnets_augmult.data import sources
from nfnets_augmult.data.crop_flip import CropFlip


def benchmark_input() -> None:
  """Measures the input pipeline and prints a table."""
  args = flags.FLAGS
  augmults = [int(n) for n in args.augmult]
  try:
    for n in augmults:
      if n < 1 or args.batch_size % n:
        raise ValueError(f'--augmult={n} does not divide --batch_size={args.batch_size}')
    front_door.import_tensorflow_quietly()
    if args.config:
      source = assembly.load_split(args.config, args.config.dataset.train_split)
      image_size = args.config.dataset.image_size
      if image_size < 1 and not isinstance(source, sources.ArraySource):
        raise ValueError('these images differ in size: set --config.dataset.image_size')
      augmentation = CropFlip(**args.config.augmentation)
    else:
      from nfnets_augmult.analysis.input_benchmark import random_images

      source, image_size, augmentation = random_images(), 0, CropFlip()
  except ValueError as error:
    front_door.fail(str(error))
  from nfnets_augmult.analysis.input_benchmark import compare

  print(
    f'{source.description}; batch size {args.batch_size}; {augmentation}; {os.cpu_count()} CPUs'
  )
  print('   n   images/s   plain pipeline   ratio   (range)')
  rows = compare(
    source,
    augmults=augmults,
    batch_size=args.batch_size,
    augmentation=augmentation,
    image_size=image_size,
    seconds=args.seconds,
  )
  for row in rows:
    print(
      f'{row["augmult"]:4} {row["images_per_second"]:10,.0f} '
      f'{row["plain_images_per_second"]:16,.0f} {row["ratio"]:7.1f}   '
      f'({row["ratio_min"]:.1f} to {row["ratio_max"]:.1f})'
    )


COMMANDS = {'input': benchmark_input}

if __name__ == '__main__':
  flags.DEFINE_list('augmult', '1,4,16', 'input: values of n.')
  flags.DEFINE_integer('batch_size', 1024, 'input: augmented images per batch.', lower_bound=1)
  flags.DEFINE_float('seconds', 1.0, 'input: length of each of the measurements.', lower_bound=0)
  front_door.define_config_flag(required=False)
  front_door.run_command(COMMANDS)
