"""Measures speed on this machine.

    python -m nfnets_augmult.benchmark input [--augmult=1,4,16] [--batch_size=1024]
        [--config=experiments/cifar100_wrn16_4.py --config.dataset.data_dir=DIR]
    python -m nfnets_augmult.benchmark step [--model=nfnet_f0] [--image_size=128] [--batch=8]
        [--bfloat16] [--sam=RHO] [--ascent_fraction=0.2] [--remat] [--scan_blocks]
        [--conv_algorithm=auto] [--num_classes=1000] [--steps=10] [--breakdown]
    python -m nfnets_augmult.benchmark device_input [--model=wrn_16_4] [--image_size=32]
        [--batch=1024] [--copies=4] [--steps_per_dispatch=10] [--bfloat16] [--steps=10]

`input` prints augmented images per second and CPU time for several n, beside a plain per-image
pipeline that repeats each record n times and beside this one without sharing anything between
copies, measured in turn in the same run; then what the parts of the work cost, and the peak memory.
Without a config it takes random images of CIFAR's size.

`step` compiles a training step of a model and prints how long that takes, how long the step takes,
and how much memory, on random images; it needs no data.

`device_input` measures the same step with batches that are made on the device from 50,000 random
images there, as `config.input = 'device'` does, and on one batch that lies there ready, in turn.
"""

import os
from collections.abc import Iterator
from typing import Any

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
import jax
from absl import flags

from nfnets_augmult import assembly
from nfnets_augmult.analysis import step_benchmark
from nfnets_augmult.data import sources
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.inception_crop import InceptionCrop
from nfnets_augmult.data.multiplicity import MAX_AUGMULT
from nfnets_augmult.models import model_spec
from nfnets_augmult.ops import checks, console
from nfnets_augmult.ops.argument_names import renamed


def benchmark_input() -> None:
  """Measures the input pipeline and prints a table."""
  args = flags.FLAGS
  _refuse_other_flags('input')
  try:
    augmults = command_line.whole_numbers('augmult')
    checks.check_number('--seconds', args.seconds, least=0, most=_LONGEST_SECONDS)
    for n in augmults:
      checks.check_int('--augmult', n, least=1, most=MAX_AUGMULT)
      if args.batch_size % n:
        raise ValueError(f'--augmult={n} does not divide --batch_size={args.batch_size}')
    command_line.import_tensorflow_quietly()
    from nfnets_augmult.analysis import input_benchmark
    from nfnets_augmult.data.decoding import ReadOptions

    if args.config:
      source = assembly.load_split(args.config, args.config.dataset.train_split)
      augmentation = assembly.make_augmentation(args.config)
      with renamed(assembly.DATASET_KEYS | assembly.AUGMENTATION_KEYS):
        sources.check_image_size(source, args.config.dataset.image_size)
        for n in augmults:
          augmentation.mixing.check_unique_images(args.batch_size // n)
      read_options = assembly.read_options(args.config)
    else:
      source, augmentation = input_benchmark.random_images(), Augmentation()
      read_options = ReadOptions()
  except ValueError as error:
    command_line.fail(str(error))
  print(
    f'{source.description}; batch size {args.batch_size}; {augmentation}; {os.cpu_count()} CPUs'
  )
  options = dict(batch_size=args.batch_size, augmentation=augmentation, read_options=read_options)
  print('   n  pipeline          images/s   CPU ms/image   ours is faster by   of CPU time')
  for n in augmults:
    table = input_benchmark.compare(source, augmult=n, seconds=args.seconds, **options)
    for name, speed in table.items():
      line = f'{n:4}  {name:15} {speed.images_per_second:10,.0f} {speed.cpu_milliseconds:14.3f}'
      if speed.ratio:
        line += '   {:4.1f} ({:.1f} to {:.1f})'.format(*speed.ratio)
        line += f'   {speed.cpu_ratio:11.1f}'
      print(line, flush=True)
  if isinstance(augmentation.crop, InceptionCrop) and not isinstance(source, sources.ArraySource):
    print('CPU milliseconds per augmented image, each part by itself:')
    for n in augmults:
      parts = input_benchmark.stages(source, augmult=n, **options)
      print(f'{n:4}  ' + ', '.join(f'{name} {value:.3f}' for name, value in parts.items()))
  print(f'peak memory of this process: {input_benchmark.peak_memory_mib():,.0f} MiB')


def benchmark_step() -> None:
  """Measures a training step and prints what it found."""
  args = flags.FLAGS
  _refuse_other_flags('step')
  command_line.check_devices()
  model, batch = args.model or 'nfnet_f0', args.batch or 8
  # Only what was asked for: not every model has every option.
  options = {
    name: args[name].value
    for name in ('remat', 'scan_blocks', 'conv_algorithm')
    if args[name].value != args[name].default
  }
  try:
    checks.check_number('--sam', args.sam, least=0)
    checks.check_number('--ascent_fraction', args.ascent_fraction, above=0, most=1)
    with renamed({'name': '--model'}):
      spec = model_spec(model)
    image_size = args.image_size or spec.train_image_size
    result = step_benchmark.measure_step(
      model,
      image_size=image_size,
      batch_size=batch,
      num_classes=args.num_classes,
      compute_dtype='bfloat16' if args.bfloat16 else 'float32',
      rho=args.sam,
      ascent_fraction=args.ascent_fraction,
      steps=args.steps,
      breakdown=args.breakdown,
      **options,
    )
  except ValueError as error:
    command_line.fail(str(error))
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    command_line.fail(
      'this step does not fit into memory; try a smaller --batch, --remat, --bfloat16'
    )
  device = jax.local_devices()[0]
  words = [model, f'{image_size} pixels', f'batch {batch}']
  words += ['bfloat16' if args.bfloat16 else 'float32']
  words += [f'SAM of {args.ascent_fraction:.0%}'] if args.sam else []
  words += [name if value is True else f'{name}={value}' for name, value in options.items()]
  print(f'{", ".join(words)}; {jax.local_device_count()} x {device.device_kind}')
  for name, text in _step_lines(result, steps=args.steps):
    print(f'{name:14} {text}')


def _step_lines(result: dict[str, Any], *, steps: int) -> Iterator[tuple[str, str]]:
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


def benchmark_device_input() -> None:
  """Measures what batches that are made on the device cost a step, and prints it."""
  args = flags.FLAGS
  _refuse_other_flags('device_input')
  command_line.check_devices()
  model, batch = args.model or 'wrn_16_4', args.batch or 1024
  from nfnets_augmult.analysis.device_input_benchmark import compare

  image_size = args.image_size or 32
  try:
    result = compare(
      model,
      image_size=image_size,
      batch_size=batch,
      augmult=args.copies,
      compute_dtype='bfloat16' if args.bfloat16 else 'float32',
      steps=args.steps,
      steps_per_dispatch=args.steps_per_dispatch,
    )
  except ValueError as error:
    command_line.fail(str(error))
  device = jax.local_devices()[0]
  print(
    f'{model}, {image_size} pixels, batch {batch}, n = {args.copies}, '
    f'{result["steps_per_dispatch"]} step(s) a dispatch; '
    f'{jax.local_device_count()} x {device.device_kind}'
  )
  print(f'made on the device  {result["images_per_second"]:,.4g} images/s')
  print(f'lying there         {result["resident_images_per_second"]:,.4g} images/s')
  print(
    f'ratio               {result["ratio"]:.1%} '
    f'({result["ratio_min"]:.1%} to {result["ratio_max"]:.1%})'
  )


def _refuse_other_flags(command: str) -> None:
  """Fails if a flag was given that only other commands than `command` read."""
  for name in sorted({*sum(_FLAGS_OF.values(), ())} - {*_FLAGS_OF[command]}):
    if flags.FLAGS[name].present:
      owners = [other for other, names in _FLAGS_OF.items() if name in names]
      command_line.fail(f'--{name} is a flag of the command {" and ".join(owners)}')


_LONGEST_SECONDS = 3600

COMMANDS = {
  'input': benchmark_input,
  'step': benchmark_step,
  'device_input': benchmark_device_input,
}
_FLAGS_OF = {
  'input': ('augmult', 'batch_size', 'seconds', 'config'),
  'step': (
    'model',
    'image_size',
    'batch',
    'num_classes',
    'bfloat16',
    'sam',
    'ascent_fraction',
    'remat',
    'scan_blocks',
    'conv_algorithm',
    'steps',
    'breakdown',
  ),
  'device_input': (
    'model',
    'image_size',
    'batch',
    'copies',
    'steps_per_dispatch',
    'bfloat16',
    'steps',
  ),
}


def _define_step_flags() -> None:
  """Defines the flags of `step`."""
  flags.DEFINE_string('model', None, 'step, device_input: name of the model; nfnet_f0, wrn_16_4.')
  flags.DEFINE_integer('image_size', None, "step: pixels; the model's own by default.", 1, 2**14)
  flags.DEFINE_integer(
    'batch', None, 'step, device_input: samples on all devices; 8, 1024.', 1, 2**24
  )
  flags.DEFINE_integer('num_classes', 1000, 'step: classes.', 1, 10**6)
  flags.DEFINE_boolean('bfloat16', False, 'step: compute in bfloat16.')
  flags.DEFINE_float('sam', 0.0, 'step: radius rho of SAM; 0 for none.', 0)
  flags.DEFINE_float('ascent_fraction', 0.2, 'step: share of the batch that SAM climbs by.')
  flags.DEFINE_boolean('remat', False, 'step: compute blocks anew for the gradient.')
  flags.DEFINE_boolean('scan_blocks', False, 'step: compile equal blocks of a stage once.')
  flags.DEFINE_string('conv_algorithm', 'auto', 'step: algorithm of convolutions.')
  flags.DEFINE_integer('steps', 10, 'step: how many to time.', 1, 10**6)
  flags.DEFINE_boolean('breakdown', False, 'step: also time the optimiser by itself.')


if __name__ == '__main__':
  flags.DEFINE_list('augmult', '1,4,16', 'input: values of n.')
  flags.DEFINE_integer('batch_size', 1024, 'input: augmented images per batch.', 1, 2**24)
  flags.DEFINE_float('seconds', 1.0, 'input: length of each of the measurements.', lower_bound=0)
  flags.DEFINE_integer('copies', 4, 'device_input: n, copies of each unique image.', 1, MAX_AUGMULT)
  flags.DEFINE_integer('steps_per_dispatch', 10, 'device_input: steps in one dispatch.', 1, 10_000)
  command_line.define_config_flag(required=False)
  _define_step_flags()
  console.end_when_nobody_reads()
  command_line.run_command(COMMANDS)
