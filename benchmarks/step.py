r"""How long a training step takes, what it takes to compile, and what it holds, on this machine.

    python -m benchmarks.step --config=experiments/nfnet.py:f0,n=1 --config.batch_size=8 \
        [--config.KEY=VALUE ...] [--conv_algorithm=auto] [--num_classes=1000] [--steps=10] \
        [--breakdown] [--limits]

The step is that of the config, on random images of `dataset.image_size` pixels, or of the model's
own size; it needs no data.
"""

from collections.abc import Iterator
from typing import Any

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
from absl import flags

from benchmarks import step_benchmark
from benchmarks.random_images import describe, random_run
from nfnets_augmult.ops import console


def main() -> None:
  """Reads the flags, measures, prints."""
  args = flags.FLAGS
  command_line.check_devices()
  if args.conv_algorithm:  # no key of the recipes, so that it is no key of their runs either
    with args.config.unlocked():
      args.config.update(model={'conv_algorithm': args.conv_algorithm})
  try:
    run = random_run(args.config, num_classes=args.num_classes)
    result = step_benchmark.measure_step(
      run, steps=args.steps, breakdown=args.breakdown, limits=args.limits
    )
  except ValueError as error:
    command_line.fail(str(error))
  print(describe(run))
  for name, text in _lines(result, steps=args.steps):
    print(f'{name:14} {text}')


def _lines(result: dict[str, Any], *, steps: int) -> Iterator[tuple[str, str]]:
  """Yields what `measure_step` returned, as names and texts."""
  yield (
    'compile',
    f'{result["lower_seconds"]:.1f} s to trace and lower, {result["compile_seconds"]:.1f} s by XLA',
  )
  yield (
    'step',
    f'{result["step_seconds"]:.4g} s, median of {steps} '
    f'({result["step_seconds_min"]:.4g} to {result["step_seconds_max"]:.4g})',
  )
  yield 'images/s', f'{result["images_per_second"]:,.4g}'
  share = result['peak_share']
  share_text = 'share of peak unknown' if share is None else f'{share:.1%} of bfloat16 peak'
  yield (
    'model FLOP/s',
    f'{result["flops_per_second"]:.3g}, {share_text} (2 x multiply-adds x 3 for forward and '
    'gradient, without what SAM, remat and the optimiser add)',
  )
  mebibytes = {key: f'{(value or 0) / 2**20:,.0f} MiB' for key, value in result.items()}
  yield (
    'memory',
    f'{mebibytes["program_bytes"]} per device in the plan: arguments '
    f'{mebibytes["argument_bytes"]}, outputs {mebibytes["output_bytes"]} (in their place where '
    f'possible), temporary {mebibytes["temporary_bytes"]}',
  )
  if result['device_peak_bytes'] is not None:
    yield 'device peak', mebibytes['device_peak_bytes']
  yield 'process peak', f'{mebibytes["process_peak_bytes"]}, compilation included'
  if 'update_share' in result:
    yield (
      'optimiser',
      f'{result["update_seconds"]:.4g} s, {result["update_share"]:.1%} of a step (AGC, decay, '
      'momentum and EMA as a program of their own)',
    )
  if 'product_share' in result:
    yield (
      'limits',
      f'a product of large matrices runs at {result["product_flops_per_second"]:.3g} FLOP/s here, '
      f"of which the model's own work in a step reaches {result['product_share']:.0%}; adding to "
      f'an array moves {result["addition_bytes_per_second"] / 1e9:.3g} GB/s, at which what an '
      f'update has to read and write, {result["update_bytes"] / 1e9:.3g} GB, takes '
      f'{result["update_bytes"] / result["addition_bytes_per_second"]:.3g} s',
    )


if __name__ == '__main__':
  flags.DEFINE_string('conv_algorithm', None, "Algorithm of convolutions; the model's by default.")
  flags.DEFINE_integer('num_classes', 1000, 'Classes.', 1, 10**6)
  flags.DEFINE_integer('steps', 10, 'How many to time.', 1, 10**6)
  flags.DEFINE_boolean('breakdown', False, 'Also time the optimiser by itself.')
  flags.DEFINE_boolean('limits', False, 'Also measure what the device can do at most.')
  command_line.define_config_flag()
  console.end_when_nobody_reads()
  command_line.run(main)
