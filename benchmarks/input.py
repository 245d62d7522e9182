r"""How fast the input is on this machine, beside a plain pipeline that repeats each record n times.

    python -m benchmarks.input --config=experiments/cifar100_wrn16_4.py \
        --config.batch_size=1024 --config.dataset.data_dir=DIR [--config.KEY=VALUE ...] \
        [--random_images] [--augmults=1,4,16] [--seconds=1] [--input=tf.data] \
        [--torch] [--torch_python=/path/to/python] [--torch_workers=2]

Prints augmented images per second and CPU time for several n at the batch size of the config,
beside the plain pipeline and beside this one without sharing anything between copies, measured in
turn in the same run; then what the parts of the work cost, and the peak memory. With
`--random_images` there are 50,000 of them in place of the data set. With `--input=device,tf.data`
it is instead what the host does where the device makes the copies and where the host does.
`--torch` adds a `DataLoader` of PyTorch with timm's transforms, in the interpreter
`--torch_python`, if not this one; measure for as many seconds then as several of its batches take.
"""

import contextlib
import os
import typing

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
from absl import flags

from benchmarks import torch_process
from benchmarks.random_images import NUM_CLASSES, NUM_IMAGES, random_run
from nfnets_augmult.data import quiet_tensorflow
from nfnets_augmult.ops import checks, console
from nfnets_augmult.ops.argument_names import renamed
from nfnets_augmult.runs.run import Run

if typing.TYPE_CHECKING:
  from benchmarks import input_benchmark

_LONGEST_SECONDS = 3600


def main() -> None:
  """Reads the flags, measures, prints."""
  try:
    _measure()
  except (ValueError, RuntimeError) as error:
    command_line.fail(str(error))


def _measure() -> None:
  args = flags.FLAGS
  checks.check_number('--seconds', args.seconds, least=0, most=_LONGEST_SECONDS)
  augmults = command_line.whole_numbers('augmults')
  if args.random_images:
    run = random_run(args.config, num_classes=NUM_CLASSES, num_images=NUM_IMAGES)
  else:
    run = Run(args.config)
  quiet_tensorflow.import_quietly()
  from benchmarks import input_benchmark

  places = flags.FLAGS.input
  if places not in (['tf.data'], ['device', 'tf.data']):
    raise ValueError(f'--input={",".join(places)} must be tf.data, or device,tf.data')
  with renamed({'augmult': '--augmults'}):
    input_benchmark.check(run, augmults)
  if args.torch and not torch_process.has_torch(args.torch_python):
    raise ValueError('PyTorch with timm is not installed beside JAX; see --torch_python')
  source, augmentation = run.data.train, run.settings.augmentation
  print(
    f'{source.description}; batch size {run.settings.batch_size}; {augmentation}; '
    f'{os.cpu_count()} CPUs'
  )
  if len(places) > 1:
    _compare_places(run, augmults, args.seconds)
    return
  print('   n  pipeline          images/s   CPU ms/image   ours is faster by   of CPU time')
  for n in augmults:
    for name, speed in _compare(run, n).items():
      line = f'{n:4}  {name:15} {speed.images_per_second:10,.0f} {speed.cpu_milliseconds:14.3f}'
      if speed.ratio:
        line += '   {:4.1f} ({:.1f} to {:.1f})'.format(*speed.ratio)
        line += f'   {speed.cpu_ratio:11.1f}'
      print(line, flush=True)
  if input_benchmark.has_stages(run):
    print('CPU milliseconds per augmented image, each part by itself:')
    for n in augmults:
      parts = input_benchmark.stages(run, augmult=n)
      print(f'{n:4}  ' + ', '.join(f'{name} {value:.3f}' for name, value in parts.items()))
  print(f'peak memory of this process: {input_benchmark.peak_memory_mib():,.0f} MiB')


def _compare(run: Run, augmult: int) -> 'dict[str, input_benchmark.Speed]':
  """Measures one n, with PyTorch's input if that is asked for."""
  from benchmarks import input_benchmark

  args = flags.FLAGS
  with contextlib.ExitStack() as stack:
    others = {}
    if args.torch:
      options = {'python': args.torch_python, 'workers': args.torch_workers}
      others['torch'] = stack.enter_context(
        input_benchmark.torch_input(run, augmult=augmult, **options)
      )
    return input_benchmark.compare(run, augmult=augmult, seconds=args.seconds, others=others)


def _compare_places(run: Run, augmults: list[int], seconds: float) -> None:
  """Prints what a copy costs the host, with and without RandAugment, and what an image does."""
  from benchmarks import input_places_benchmark

  print(f'canvases of {run.settings.dataset.canvas} pixels')
  print('layers     n  made by   CPU ms/copy   bytes to device/copy   of CPU time      of bytes')
  for changed in input_places_benchmark.with_and_without_layers(run):
    layers = changed.settings.augmentation.randaugment.layers
    for n in augmults:
      costs = input_places_benchmark.compare(changed, augmult=n, seconds=seconds)
      for place, cost in costs.items():
        line = f'{layers:6} {n:5}  {place:8}'
        line += f'{cost.cpu_milliseconds:13.3f} {cost.bytes_per_copy:22,.0f}'
        if cost.cpu_ratio:
          line += '   {:4.1f} ({:.1f} to {:.1f})'.format(*cost.cpu_ratio)
          line += f'   {cost.bytes_ratio:7.2f}'
        print(line, flush=True)
  unique = run.settings.batch_size // max(augmults)
  steps = input_places_benchmark.cost_of_steps(
    run, augmults, unique_images_per_batch=unique, seconds=seconds
  )
  print(f'CPU ms of the host per step of {unique} unique images, copies made by the device:')
  for n, (median, least, greatest) in steps.items():
    print(f'{n:12}  {median:8.1f} ({least:.1f} to {greatest:.1f})')


if __name__ == '__main__':
  flags.DEFINE_list('input', 'tf.data', 'tf.data, or device,tf.data to compare the two.')
  flags.DEFINE_boolean('random_images', False, 'Random images in place of the data set.')
  flags.DEFINE_list('augmults', '1,4,16', 'Values of n in the table.')
  flags.DEFINE_float('seconds', 1.0, 'Length of each of the measurements.', lower_bound=0)
  flags.DEFINE_boolean('torch', False, 'Also measure a DataLoader of PyTorch with timm.')
  flags.DEFINE_string('torch_python', '', 'Interpreter with PyTorch and timm; default: this one.')
  flags.DEFINE_integer('torch_workers', 2, 'Processes of the DataLoader.', 1, 1024)
  command_line.define_config_flag()
  console.end_when_nobody_reads()
  command_line.run(main)
