r"""What a training step holds in the memory of a device, and which batch fits where.

    python -m benchmarks.memory --config=experiments/nfnet.py:f0,n=1 [--config.KEY=VALUE ...] \
        [--batch_sizes=16,32] [--topology=v5e:2x2 [--effort=-1] | --estimate=TPU] \
        [--records=FILE.json]
    python -m benchmarks.memory --records=FILE.json

The step is compiled, not run, for one device: of this machine, or with `--topology` of a TPU that
need not be there, which takes the package libtpu. `--estimate=TPU` and `--estimate=NVIDIA` only
trace it, in seconds. `--records` adds what came out to a file; without a config it prints the table
of that file.
"""

import json
import time

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
import jax
from absl import flags

from benchmarks import memory_plan
from nfnets_augmult.ops import console, files


def main() -> None:
  """Reads the flags, compiles, prints."""
  args = flags.FLAGS
  try:
    records = _read(args.records) if args.records else []
    if args.config is not None:
      records = [*records, _measure()]
      if args.records:
        files.write_whole(args.records, json.dumps(records, indent=1).encode())
    if not records:
      raise ValueError('give a --config, or --records of a file that has some')
  except (ValueError, OSError) as error:
    command_line.fail(str(error))
  if args.config is None:
    print(memory_plan.table(records))


def _read(path: str) -> list[dict]:
  return json.loads(files.read(path)) if files.exists(path) else []


def _measure() -> dict:
  args = flags.FLAGS
  command_line.check_devices()
  if args.estimate:
    record = memory_plan.estimate(args.config, args.estimate)
    print(memory_plan.table([record]))
    return record
  batch_sizes = command_line.whole_numbers('batch_sizes')
  if len(batch_sizes) != 2 or not 0 < batch_sizes[0] < batch_sizes[1]:
    raise ValueError(
      f'--batch_sizes={args.batch_sizes} must be two, the smaller first, as in 16,32'
    )
  device = memory_plan.tpu_device(args.topology) if args.topology else jax.local_devices()[0]
  start = time.perf_counter()
  record = memory_plan.measure(args.config, device, batch_sizes=batch_sizes, effort=args.effort)
  print(memory_plan.table([record]))
  parts = ', '.join(f'{name} {size / 2**20:,.0f}' for name, size in record['replicated'].items())
  plans = ', '.join(
    f'{size / 2**20:,.0f} at batch {batch}'
    for batch, size in zip(record['batch_sizes'], record['programs'], strict=True)
  )
  print(f'replicated, MiB: {parts}')
  print(
    f'planned by XLA for {record["device"]}, MiB: {plans} '
    f'({time.perf_counter() - start:.0f} s to compile both)'
  )
  return record


if __name__ == '__main__':
  flags.DEFINE_list('batch_sizes', '16,32', 'Two batch sizes of one device.')
  flags.DEFINE_string('topology', '', 'Of a TPU, such as v5e:2x2; by default this machine.')
  flags.DEFINE_enum(
    'estimate', None, [*memory_plan.DEVICE_GIB], 'Of which maker, by tracing alone.'
  )
  flags.DEFINE_float('effort', 0.0, 'Of the compiler for TPUs: -1 is quick.', -1, 1)
  flags.DEFINE_string('records', '', 'File to add to, or, without --config, to print.')
  command_line.define_config_flag(required=False)
  console.end_when_nobody_reads()
  command_line.run(main)
