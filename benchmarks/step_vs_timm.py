r"""Training steps next to PyTorch's on the same processors, in turn.

    python -m benchmarks.step_vs_timm --torch_python=/path/to/python \
        --config=experiments/nfnet.py:f0,n=1 --config.batch_size=8 \
        --config.dataset.image_size=128 --config.compute_dtype=float32

PyTorch's side is timm's network for an NFNet, and for a Wide-ResNet `torch_wide_resnet.py`; see
`torch_steps.py` for its step. `--torch_python` is an interpreter that has PyTorch and timm, if
they are not beside JAX. Ours is the step of the config on random images. The two are processes of
their own, of which one waits while the other works. Both use one device, and the same dtype:
float32 on CPU, bfloat16 on a GPU.
"""

import functools
import time
from typing import Any

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
import jax
from absl import flags

from benchmarks import step_benchmark, torch_process
from benchmarks.random_images import describe, random_run
from benchmarks.torch_process import Times
from nfnets_augmult.models import table
from nfnets_augmult.ops import console
from nfnets_augmult.training import devices

_WAYS = {
  'channels_last': 'eager',
  'contiguous': 'contiguous',
  'compile': 'compile',
}


def main() -> None:
  """Reads the flags, measures, prints."""
  args = flags.FLAGS
  command_line.check_devices()
  try:
    _measure(args)
  except (ValueError, RuntimeError) as error:
    command_line.fail(str(error))


def _measure(args: flags.FlagValues) -> None:
  if not torch_process.has_torch(args.torch_python):
    raise ValueError('PyTorch with timm is not installed beside JAX; see --torch_python')
  if jax.local_device_count() > 1:
    raise ValueError(f'PyTorch uses one device, and JAX has {jax.local_device_count()} here')
  run = random_run(args.config, num_classes=args.num_classes)
  asked = run.settings
  theirs = asked.model_name if asked.model_name.startswith('wrn_') else f'dm_{asked.model_name}'
  prepared = step_benchmark.prepare_step(run)
  parameters = table.count_parameters(devices.first_replica(prepared.state.params))
  print(describe(run))
  for name in args.ways:
    process = torch_process.TorchProcess(
      args.torch_python,
      'torch_steps.py',
      *(theirs, asked.batch_size, run.data.image_shape[0], args.num_classes),
    )
    try:
      process.ask(f'prepare {_WAYS[name]}')
      their = process.answer()
      if their['dtype'] != asked.compute_dtype:
        raise ValueError(
          f"compute_dtype={asked.compute_dtype!r}: PyTorch's steps are in {their['dtype']} here; "
          f'say --config.compute_dtype={their["dtype"]}'
        )
      if their['parameters'] != parameters:
        raise ValueError(
          f'--config: {asked.model_name} has {parameters:,} parameters, and {theirs} in PyTorch '
          f'{their["parameters"]:,}: they cannot be compared'
        )
      result = torch_process.in_turn(
        functools.partial(_take, prepared),
        functools.partial(torch_process.take_steps, process, _WAYS[name]),
        rounds=args.rounds,
        sample_seconds=args.seconds,
      )
    finally:
      process.end()
    print('\n'.join(lines(name, their, result)), flush=True)


def _take(prepared: step_benchmark.PreparedStep, count: int) -> Times:
  start, processor = time.perf_counter(), time.process_time()
  for _ in range(count):
    prepared.run()
  return Times(time.perf_counter() - start, time.process_time() - processor)


def lines(name: str, their: dict[str, Any], result: dict[str, Any]) -> list[str]:
  """Returns what is printed of one comparison.

  Args:
    name: of the way in which PyTorch takes its steps.
    their: what `torch_steps.py` answers to `prepare`.
    result: of `torch_process.in_turn`.
  """
  versions = ', '.join(f'{package} {version}' for package, version in their['versions'].items())
  printed = [
    f'next to {name}: {versions}, {their["threads"]} threads; rounds: {result["rounds"]}, steps in '
    f'each: {result["steps_per_round"]}'
  ]
  for text, times in (('by the clock', result), ('processor time', result['processor'])):
    ours, theirs = (
      f'{times[side]["seconds"]:.3g} s ({times[side]["seconds_min"]:.3g} to '
      f'{times[side]["seconds_max"]:.3g})'
      for side in ('ours', 'theirs')
    )
    printed.append(
      f'  {text:14}  ours {ours}, theirs {theirs}; ours takes {1 / times["ratio"]:.2f} '
      f'({1 / times["ratio_max"]:.2f} to {1 / times["ratio_min"]:.2f}) of its time'
    )
  return printed


if __name__ == '__main__':
  flags.DEFINE_string('torch_python', '', 'Interpreter with PyTorch and timm; default: this one.')
  flags.DEFINE_multi_enum(
    'ways', ['channels_last', 'contiguous'], list(_WAYS), 'How PyTorch takes its steps.'
  )
  flags.DEFINE_integer('num_classes', 1000, 'Classes.', 1, 10**6)
  flags.DEFINE_integer('rounds', 5, 'Rounds of either in turn.', 1, 1000)
  flags.DEFINE_float('seconds', 0, 'How long a round of either takes at least.', 0, 3600)
  command_line.define_config_flag()
  console.end_when_nobody_reads()
  command_line.run(main)
