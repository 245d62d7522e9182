"""What people read of the measurement of an accelerator, from its recorded parts."""

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.accelerator_convolutions import all_convolutions
from benchmarks.measured_parts import Parts
from nfnets_augmult.ops import files
from nfnets_augmult.training import records

_TABLE = 'conv_algorithms.json'
# What one algorithm for all convolutions must gain before it replaces the fastest of each kind.
_WORTH = 0.97


def write_pages(parts: Parts) -> None:
  """Writes the page, and the entry of `conv_algorithms.json`, into the folder of the results."""
  device = parts.result('environment')
  if device is None:
    return
  page = '\n'.join(_page(parts, device)) + '\n'
  name = device_name(device['device_kind'])
  files.write_whole(os.path.join(parts.folder, f'{name}.md'), page.encode())
  if entry := table_entry(parts):
    records.write_json(os.path.join(parts.folder, _TABLE), entry)


def device_name(device_kind: str) -> str:
  """Returns a file name: `'NVIDIA H100 80GB HBM3'` is `nvidia_h100_80gb_hbm3`."""
  return re.sub(r'\W+', '_', device_kind).strip('_').lower()


def _steps(parts: Parts) -> dict[str, dict[str, Any]]:
  """The results of whole steps, by name of the part."""
  return {
    name: part['result']
    for name, part in parts.parts.items()
    if part['status'] == 'done' and 'images_per_second' in part['result']
  }


def table_entry(parts: Parts) -> dict[str, Any] | None:
  """Returns the entry of this backend for the table of convolution algorithms, or None.

  The algorithms are those that were fastest one by one, unless whole steps of the network took less
  time with one algorithm for all.
  """
  device, chosen = parts.result('environment'), all_convolutions(parts)
  if device is None or chosen is None or not chosen['algorithms']:
    return None
  algorithms = dict(chosen['algorithms'])
  what = f'convolutions of {chosen["network"]} one by one, forward and gradients'
  steps = {
    name.split(', ')[1]: result['seconds']
    for name, result in _steps(parts).items()
    if name.startswith(f'{chosen["network"]}, ') and 'largest' not in name
  }
  steps = {name: steps[name] for name in ('default', 'native', 'split') if name in steps}
  if len(steps) > 1:
    what += ', and whole steps'
    best = min(steps, key=steps.__getitem__)
    if best != 'default' and steps[best] < _WORTH * steps.get('default', math.inf):
      algorithms = dict.fromkeys(algorithms, best)
  return {
    device['backend']: {
      'algorithms': algorithms,
      'measured': {
        'device': device['device_kind'],
        'jax': device['versions']['jax'],
        'date': parts.parts['environment']['at'][:10],
        'what': f'{what}; {chosen["dtype"]}, batch {chosen["batch_size"]}',
        'seconds': chosen['totals'],
        'step_seconds': steps,
      },
    }
  }


def conclusions(parts: Parts) -> Iterator[str]:
  """Yields what should be the default on this backend, for the end of the program."""
  if entry := table_entry(parts):
    yield 'Convolutions on this backend; the entry for nfnets_augmult/models/conv_algorithms.json:'
    yield json.dumps(entry, indent=2, sort_keys=True)
  for name, part in parts.parts.items():
    if part['status'] == 'failed':
      yield f'failed: {name}: {part["message"]}'
  for name, reason in parts.skipped.items():
    yield f'skipped: {name}: {reason}'


def _page(parts: Parts, device: Mapping[str, Any]) -> Iterator[str]:
  versions = device['versions']
  yield f'# {device["device_kind"]}'
  yield ''
  yield (
    f'Measured by `launch/measure_accelerator.sh` on {device["devices"]} x '
    f'{device["device_kind"]} with {device["processors"]} processors ({device["machine"]}), on '
    f'{parts.parts["environment"]["at"][:10]}. JAX {versions["jax"]}, jaxlib {versions["jaxlib"]}, '
    f'Python {versions["python"]}; {device["platform_version"]}.'
    + (f' {device["driver"]}.' if device['driver'] else '')
  )
  yield ''
  yield (
    'Times are of one call or step, the median of samples with their range. A sample is a row of '
    'calls that are dispatched one after another, of which the last is waited for; programs are '
    'compiled and have run twice before. Inputs and parameters are random, since zeros are quicker '
    'to multiply; images already lie on the device, unless it says otherwise.'
  )
  yield from _section('Ceilings', _ceilings(device))
  yield from _section('Convolutions', _convolution_rows(all_convolutions(parts)))
  yield from _section('Steps', _step_rows(_steps(parts)))
  yield from _section('Memory and compilation', _memory_rows(_steps(parts)))
  yield from _section(
    'Batches made on the device', _input_rows(parts.result('batches on the device'))
  )
  yield from _section('Runs that train together', _group_rows(parts.result('runs together')))
  yield from _section('Next to timm', _timm_rows(parts))
  yield from _section('Tests', _test_rows(parts.result('tests on the accelerator')))
  yield from _section('Not measured', _missing(parts))


def _section(title: str, lines: Iterator[str]) -> Iterator[str]:
  found = list(lines)
  if found:
    yield from ('', f'## {title}', '')
    yield from found


def _time(times: Mapping[str, float]) -> str:
  """A median with its range, in the unit that reads best."""
  factor, unit = (1, 's') if times['seconds'] >= 1 else (1e3, 'ms')
  median, least, most = (factor * times[key] for key in ('seconds', 'seconds_min', 'seconds_max'))
  return f'{median:.3g} {unit} ({least:.3g} to {most:.3g})'


def _gib(count: int | None) -> str:
  return '' if count is None else f'{count / 2**30:.2f}'


def _ceilings(device: Mapping[str, Any]) -> Iterator[str]:
  product, copy, peak = device['matmul'], device['copy'], device['peak_flops']
  rate = product['flops'] / product['seconds']
  share = f', {rate / peak:.0%} of the peak of {peak / 1e12:,.0f}' if peak else ''
  yield (
    f'A product of two bfloat16 matrices of side {product["side"]:,} ran at {rate / 1e12:,.3g} '
    f'TFLOP/s{share}; reading and writing an array of {copy["bytes"] / 2**30:.3g} GiB, '
    f'both counted, at {copy["bytes"] / copy["seconds"] / 1e9:,.4g} GB/s.'
  )
  if device['memory_limit']:
    yield f'JAX may take {_gib(device["memory_limit"])} GiB of its memory.'


def _convolution_rows(result: Mapping[str, Any] | None) -> Iterator[str]:
  if result is None:
    return
  names = ('native', 'split', 'pieces', 'dense')
  yield (
    f'All convolutions of {result["network"]} at its training size one by one, batch '
    f'{result["batch_size"]}, {result["dtype"]}: forward pass and both gradients (one, for the '
    'first). `native` is one convolution of XLA with its feature groups, `split` one per group, '
    'and a matrix product for 1x1; `pieces` is `split` with the gradient for the weight summed '
    'over pieces of the batch; `dense` is an ungrouped convolution with zeros between groups. The '
    'last column is the rate of the fastest, without the work on zeros.'
  )
  yield ''
  yield f'| convolution | times | {" | ".join(names)} | TFLOP/s |'
  yield f'| :-- | --: |{" --: |" * (len(names) + 1)}'
  for row in result['rows']:
    cells = [_cell(row['times'].get(name)) for name in names]
    seconds = [times['seconds'] for times in row['times'].values() if 'seconds' in times]
    rate = f'{row["flops"] / min(seconds) / 1e12:.3g}' if seconds else ''
    yield f'| {row["what"]} | {row["count"]} | {" | ".join(cells)} | {rate} |'
  yield ''
  yield f'| all of a kind | {" | ".join(names)} | chosen |'
  yield f'| :-- |{" --: |" * len(names)} :-- |'
  for kind, totals in result['totals'].items():
    cells = [f'{1e3 * totals[name]:.3g} ms' if name in totals else '' for name in names]
    yield f'| {kind} | {" | ".join(cells)} | `{result["algorithms"].get(kind, "native")}` |'


def _cell(times: Mapping[str, Any] | None) -> str:
  if times is None:
    return ''
  return _time(times) if 'seconds' in times else 'failed'


def _step_rows(steps: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
  if not steps:
    return
  yield (
    'Whole steps of a run: loss, gradient, AGC, L2, Nesterov momentum and EMA. FLOP/s are 2 x '
    'multiply-adds x 3; what SAM, rematerialisation and the optimiser compute besides is not '
    'counted, so they lower the share of the bfloat16 peak. `default` has the convolutions that '
    "the package's table names, as have the rows without some of their own. SAM has radius 0.05 "
    'and ascends on a fifth of the batch. float32 has the default precision of products on this '
    'backend, which rounds inputs of products to fewer bits on recent GPUs and on TPU.'
  )
  yield ''
  yield '| step | px | batch | time | images/s | TFLOP/s | share of peak |'
  yield '| :-- | --: | --: | --: | --: | --: | --: |'
  for name, result in steps.items():
    share = '' if result['peak_share'] is None else f'{result["peak_share"]:.1%}'
    note = '' if result['loss_is_finite'] else ' (loss not finite)'
    yield (
      f'| {", ".join(name.split(", ")[:2])}{note} | {result["image_size"]} | '
      f'{result["batch_size"]:,} | {_time(result)} | {result["images_per_second"]:,.4g} | '
      f'{result["flops_per_second_per_device"] / 1e12:.3g} | {share} |'
    )


def _memory_rows(steps: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
  if not steps:
    return
  yield (
    'What XLA plans, in GiB: state and batch, temporary memory, and all that is needed at once; '
    'next to it the most that the process had in use, where this step raised it. Compile times, to '
    'trace and lower and of XLA, are given where nothing came from '
    "JAX's cache."
  )
  yield ''
  yield '| step | batch | arguments | temporary | planned | measured peak | compile |'
  yield '| :-- | --: | --: | --: | --: | --: | --: |'
  for name, result in steps.items():
    compiled = result['compile_seconds']
    seconds = '' if compiled is None else f'{result["lower_seconds"]:.1f} + {compiled:.1f} s'
    yield (
      f'| {", ".join(name.split(", ")[:2])} | {result["batch_size"]:,} | '
      f'{_gib(result["argument_bytes"])} | {_gib(result["temporary_bytes"])} | '
      f'{_gib(result["program_bytes"])} | {_gib(result["peak_bytes"])} | {seconds} |'
    )


def _input_rows(result: Mapping[str, Any] | None) -> Iterator[str]:
  if result is None:
    return
  yield (
    f'{result["model"]}, batch {result["batch_size"]:,}, n = {result["augmult"]}, '
    f'{result["compute_dtype"]}: steps that make their batch on the device, next to the bare step '
    f'on one batch that lies there, in turn, {result["steps_per_sample"]} steps a sample. To make '
    f'a batch by itself takes {_time(result["make_batch"])}.'
  )
  yield ''
  yield '| step | time | images/s | share of the bare step |'
  yield '| :-- | --: | --: | --: |'
  bare = result['times']['bare']['seconds']
  for name, times in result['times'].items():
    rate = result['batch_size'] / times['seconds']
    yield f'| {name} | {_time(times)} | {rate:,.5g} | {bare / times["seconds"]:.1%} |'


def _group_rows(result: Mapping[str, Any] | None) -> Iterator[str]:
  if result is None:
    return
  yield (
    f'{result["model"]}, batch {result["batch_size"]:,} of each run, n = {result["augmult"]}, '
    f'{result["compute_dtype"]}, {result["steps_per_dispatch"]} steps a dispatch, batches made on '
    'the device. The last column is how many times as fast as one after another.'
  )
  yield ''
  yield '| runs | step of all | images/s of all | against one by one |'
  yield '| --: | --: | --: | --: |'
  alone = result['times']['1']['seconds']
  for size, times in result['times'].items():
    rate = int(size) * result['batch_size'] / times['seconds']
    yield (
      f'| {size} | {_time(times)} | {rate:,.5g} | {int(size) * alone / times["seconds"]:.2f} |'
    )


def _timm_rows(parts: Parts) -> Iterator[str]:
  results = [
    part['result']
    for name, part in parts.parts.items()
    if name.startswith('timm, ') and part['status'] == 'done'
  ]
  if not results:
    return
  versions = results[0]['versions']
  where = 'in `channels_last`' + (
    ' under autocast to bfloat16' if results[0]['on_gpu'] else ' in float32'
  )
  yield (
    f'timm {versions["timm"]} in PyTorch {versions["torch"]}, {where}, by itself and under '
    '`torch.compile`, which compiles the network, not the optimiser. The same work: loss, '
    f'gradient, `adaptive_clip_grad`, `torch.optim.SGD` and `{results[0]["average"]}`, on images '
    'that lie on the device. Both processes take steps in turn; the ratio is of the same round, '
    'above 1 where this package is faster. Ours has the default convolutions.'
  )
  yield ''
  yield '| network | batch | timm | ours | ratio | to prepare timm |'
  yield '| :-- | --: | --: | --: | --: | --: |'
  for result in results:
    yield (
      f'| {result["model"]}, {result["way"]} | {result["batch_size"]} | '
      f'{_time(result["theirs"])} | {_time(result["ours"])} | {result["ratio"]:.2f} '
      f'({result["ratio_min"]:.2f} to {result["ratio_max"]:.2f}) | '
      f'{result["prepare_seconds"]:.0f} s |'
    )


def _test_rows(result: Mapping[str, Any] | None) -> Iterator[str]:
  if result is None:
    return
  cut = '' if result['is_complete'] else ', when the time was over'
  yield (
    f'{", ".join(f"`{test}`" for test in result["tests"])}, with products in full float32 '
    f'precision: {result["passed"]} passed, {result["failed"]} failed, {result["skipped"]} were '
    f'skipped{cut}.'
  )
  for name in result['failures']:
    yield f'* failed: `{name}`'


def _missing(parts: Parts) -> Iterator[str]:
  for name, part in parts.parts.items():
    if part['status'] == 'failed':
      yield f'* {name}: failed, {part["message"]}'
  for name, reason in parts.skipped.items():
    yield f'* {name}: {reason}'
