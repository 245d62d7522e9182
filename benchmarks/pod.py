r"""What a run asks of a TPU pod: hosts, links and chips, and which of them limits it.

    python -m benchmarks.pod --config=experiments/nfnet_f5_sam.py \
        --config.dataset.data_dir=DIR [--config.KEY=VALUE ...] [--chips=32,128] [--kinds=v4] \
        [--peak_share=0.3] [--link_gigabytes=10] [--write_gigabytes=0.2] [--seconds=5]

One host's share of every batch is made on this machine, as the input of a run makes it; the rest is
arithmetic, see docs/planning.md. It takes images in the files they are trained from.
"""

import os
from collections.abc import Sequence

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
from absl import flags

from nfnets_augmult.data import quiet_tensorflow
from nfnets_augmult.ops import console
from nfnets_augmult.runs.run import Run

_MOST_GIGABYTES = 10_000


def main() -> None:
  """Reads the flags, measures, prints."""
  try:
    _measure()
  except ValueError as error:
    command_line.fail(str(error))


def _measure() -> None:
  quiet_tensorflow.import_quietly()
  from benchmarks import pod_plan

  args = flags.FLAGS
  command_line.check_devices()
  columns = command_line.whole_numbers('chips')
  if wrong := [chips for chips in columns if chips < 1 or chips % pod_plan.CHIPS_PER_HOST]:
    raise ValueError(
      f'--chips={wrong[0]} must be a multiple of {pod_plan.CHIPS_PER_HOST}, the chips of a host'
    )
  if unknown := set(args.kinds) - set(pod_plan.CHIPS):
    raise ValueError(f'--kinds: {min(unknown)} is none of {", ".join(pod_plan.CHIPS)}')
  run = Run(args.config)
  if run.settings.is_device_input:
    raise ValueError("input='device' makes batches on the devices; say --config.input=tf.data")
  works = [
    pod_plan.measure_host(run, chips // pod_plan.CHIPS_PER_HOST, seconds=args.seconds)
    for chips in columns
  ]
  size = pod_plan.checkpoint_bytes(run)
  print(
    f'{run.settings.model_name}, {run.data.image_shape[0]} pixels, batch '
    f'{run.settings.batch_size}, n = {run.settings.augmult}, {run.plan.total_steps:,} steps; '
    f'measured on {os.cpu_count()} processors'
  )
  _print_row('chips', columns)
  _print_row('hosts', [chips // pod_plan.CHIPS_PER_HOST for chips in columns])
  print('per host and step:')
  _print_row('images read and decoded', [work.images for work in works])
  _print_row('  MB of them', [f'{work.encoded_bytes / 1e6:.2f}' for work in works])
  _print_row('copies cropped', [work.crops for work in works])
  _print_row('copies of its own', [work.copies for work in works])
  _print_row('  MB of them, to the devices', [f'{work.device_bytes / 1e6:.1f}' for work in works])
  _print_row('processor time, s, measured', [f'{work.cpu_seconds:.2f}' for work in works])
  for kind in args.kinds:
    chip = pod_plan.CHIPS[kind]
    plans = [
      pod_plan.step_plan(
        run,
        chip,
        chips,
        work,
        peak_share=args.peak_share,
        link_bytes=args.link_gigabytes * 1e9,
      )
      for chips, work in zip(columns, works, strict=True)
    ]
    print(f'{kind}, {chip.host_processors} processors a host, ms per step:')
    for part in ('host processors', 'host to device', 'device', 'all-reduce'):
      _print_row(part, [f'{1e3 * plan[part]:.1f}' for plan in plans])
    _print_row('limit', [plan['limit'] for plan in plans])
    seconds = [plan[plan['limit']] for plan in plans]
    _print_row('hours of the run', [f'{s * run.plan.total_steps / 3600:.1f}' for s in seconds])
    rates = [
      chips // pod_plan.CHIPS_PER_HOST * work.encoded_bytes / s / 1e6
      for chips, work, s in zip(columns, works, seconds, strict=True)
    ]
    _print_row('MB/s read from storage, all hosts', [f'{rate:,.0f}' for rate in rates])
  print(
    f'checkpoint: {size / 1e9:.2f} GB, {size / 1e9 / args.write_gigabytes:.0f} s at '
    f'{args.write_gigabytes:g} GB/s, written beside the training'
  )


def _print_row(name: str, values: Sequence[object]) -> None:
  print(f'{name:34}' + ''.join(f'{value!s:>17}' for value in values))


if __name__ == '__main__':
  flags.DEFINE_list('chips', '32,128,512', 'Sizes of the pod.')
  flags.DEFINE_list('kinds', 'v4,v5e,v5p,v6e', 'Kinds of TPU.')
  flags.DEFINE_float('peak_share', 0.3, 'Share of its peak that a step reaches.', 0.001, 1)
  flags.DEFINE_float(
    'link_gigabytes', 10.0, 'Per second from host to chips.', 1e-3, _MOST_GIGABYTES
  )
  flags.DEFINE_float('write_gigabytes', 0.2, 'Per second to storage.', 1e-3, _MOST_GIGABYTES)
  flags.DEFINE_float('seconds', 5.0, 'To measure at least, per size.', 0.01, 3600)
  command_line.define_config_flag()
  console.end_when_nobody_reads()
  command_line.run(main)
