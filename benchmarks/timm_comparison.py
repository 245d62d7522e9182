"""Steps of an NFNet next to timm's in PyTorch, in turn on the same device."""

import functools
import time
from typing import Any

import jax

from benchmarks import accelerator_parts, torch_process
from benchmarks.accelerator_parts import Program, States
from benchmarks.accelerator_scale import Scale
from benchmarks.measured_parts import Parts
from benchmarks.torch_process import Times
from nfnets_augmult import models

_CLASSES = 1000
_ROUNDS = 5
# What is measured for a network without a counterpart, in a test of this.
_TIMM_NAMES = {'nfnet_toy': 'dm_nfnet_f0'}


def compare(parts: Parts, scale: Scale, index: int, python: str) -> None:
  """Measures timm's network without and with `torch.compile`, as two parts.

  Args:
    parts: records the results.
    scale: of the measurement.
    index: 0 for the small network of `scale`, 1 for the middle one.
    python: see `torch_process.TorchProcess`.
  """
  model, batch_size = scale.networks[index], scale.batch_sizes[index]
  names = {way: f'timm, {model}, {way}, batch {batch_size}' for way in ('eager', 'compile')}
  if all(parts.is_over(name) for name in names.values()):
    return
  if jax.local_device_count() > 1:
    for name in names.values():
      parts.skip(name, 'it compares steps of one device, and here are more')
    return
  image_size = models.model_spec(model).train_image_size
  theirs = _TIMM_NAMES.get(model, f'dm_{model}')
  process = torch_process.TorchProcess(
    python, 'torch_steps.py', theirs, batch_size, image_size, _CLASSES
  )
  states = States()
  program: list[Program] = []

  def measure(way: str) -> dict[str, Any]:
    process.ask(f'prepare {way}')
    if not program:  # meanwhile
      program.append(
        accelerator_parts.compile_step(
          accelerator_parts.nfnet_run(model, batch_size, dtype=scale.dtype), states
        )
      )
    prepared = process.answer()
    return {
      'model': model,
      'way': way,
      'batch_size': batch_size,
      'image_size': image_size,
      'on_gpu': jax.default_backend() == 'gpu',
      **prepared,
      **torch_process.in_turn(
        functools.partial(_take, program[0], states),
        functools.partial(torch_process.take_steps, process, way),
        rounds=_ROUNDS if scale.sample_seconds else 1,
        sample_seconds=scale.sample_seconds,
      ),
    }

  try:
    parts.measure(names['eager'], 50 * scale.budgets, lambda: measure('eager'))
    parts.measure(names['compile'], 75 * scale.budgets, lambda: measure('compile'))
  finally:
    process.end()


def _take(program: Program, states: States, count: int) -> Times:
  """Takes steps of ours, and waits for the last one."""
  start, processor = time.perf_counter(), time.process_time()
  for _ in range(count):
    state, metrics = program.compiled(states.get(program.run), program.batch, program.key)
    states.put(program.run, state)
  jax.block_until_ready((state, metrics))
  return Times(time.perf_counter() - start, time.process_time() - processor)
