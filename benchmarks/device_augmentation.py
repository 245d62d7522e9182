r"""What it takes a device to make the copies of encoded images, by itself and beside a step.

    python -m benchmarks.device_augmentation --config=experiments/nfnet.py:f0 \
        --config.batch_size=64 [--config.KEY=VALUE ...] [--peak_share=0.4]

Images are noise that fills the canvases; it needs no data. Prints the time and the memory of making
the copies of a batch on one device, with more and more of the augmentation; and what XLA counts per
copy, floating-point operations and bytes of memory. The share of a step is that of the time which
the network's own work takes at a share of the peak of the device in bfloat16.
"""

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
import jax
from absl import flags

from benchmarks import device_augmentation_benchmark, step_benchmark
from benchmarks.random_images import describe, random_run
from nfnets_augmult.data import quiet_tensorflow
from nfnets_augmult.ops import console


def main() -> None:
  """Reads the flags, measures, prints."""
  args = flags.FLAGS
  command_line.check_devices()
  quiet_tensorflow.import_quietly()
  try:
    run = random_run(args.config, num_classes=1000, num_images=1)
    stages = device_augmentation_benchmark.measure(run)
  except ValueError as error:
    command_line.fail(str(error))
  size = run.settings.batch_size
  of_step = step_benchmark.model_flops(run) / size
  peak = step_benchmark.peak_flops(jax.local_devices()[0].device_kind)
  print(f'{describe(run)}; canvases of {run.settings.dataset.canvas} pixels')
  print('                  ms/copy   GFLOP/copy   MB/copy   temporary MiB   operations / step')
  for name, stage in stages.items():
    milliseconds = 1e3 * stage.seconds / size
    line = f'{name:16} {milliseconds:8.4f} {stage.flops / 1e9:12.3f}'
    line += f' {stage.bytes_accessed / 1e6:9.1f} {stage.temporary_bytes / 2**20:15,.0f}'
    line += f' {stage.flops / of_step:19.2%}'
    if peak:
      of_network = of_step / (args.peak_share * peak)
      line += (
        f'; {stage.seconds / size / of_network:.1%} of its time at {args.peak_share:.0%} of peak'
      )
    print(line)


if __name__ == '__main__':
  flags.DEFINE_float(
    'peak_share', 0.4, 'Share of the peak that a step reaches.', lower_bound=0.01, upper_bound=1
  )
  command_line.define_config_flag()
  console.end_when_nobody_reads()
  command_line.run(main)
