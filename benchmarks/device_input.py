r"""What batches that are made on the device cost a step, on this machine.

    python -m benchmarks.device_input --config=experiments/cifar100_wrn16_4.py \
        --config.input=device --config.steps_per_dispatch=10 --config.batch_size=1024 \
        --config.augmult=4 [--config.KEY=VALUE ...] [--steps=10]

The step is that of the config. Its batches are made on the device from 50,000 random images there,
and, in turn, it takes one batch that lies there ready; it needs no data.
"""

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
from absl import flags

from benchmarks import device_input_benchmark
from benchmarks.random_images import NUM_CLASSES, NUM_IMAGES, describe, random_run
from nfnets_augmult.ops import console


def main() -> None:
  """Reads the flags, measures, prints."""
  args = flags.FLAGS
  command_line.check_devices()
  try:
    run = random_run(args.config, num_classes=NUM_CLASSES, num_images=NUM_IMAGES)
    result = device_input_benchmark.compare(run, steps=args.steps)
  except ValueError as error:
    command_line.fail(str(error))
  print(f'{describe(run)}; {result["steps_per_dispatch"]} step(s) a dispatch')
  print(f'made on the device  {result["images_per_second"]:,.4g} images/s')
  print(f'lying there         {result["resident_images_per_second"]:,.4g} images/s')
  print(
    f'ratio               {result["ratio"]:.1%} '
    f'({result["ratio_min"]:.1%} to {result["ratio_max"]:.1%})'
  )


if __name__ == '__main__':
  flags.DEFINE_integer('steps', 10, 'How many to time, of each way in a round.', 1, 10**6)
  command_line.define_config_flag()
  console.end_when_nobody_reads()
  command_line.run(main)
