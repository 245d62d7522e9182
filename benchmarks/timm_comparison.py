"""Steps of an NFNet next to timm's in PyTorch, in turn on the same device."""

import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any

import jax

from benchmarks import accelerator_parts, device_timing
from benchmarks.accelerator_parts import Program, States
from benchmarks.accelerator_scale import Scale
from benchmarks.measured_parts import Parts
from nfnets_augmult import models

_PROGRAM = pathlib.Path(__file__).parent / 'torch_steps.py'
_CLASSES = 1000
_ROUNDS = 5
# What is measured for a network without a counterpart, in a test of this.
_TIMM_NAMES = {'nfnet_toy': 'dm_nfnet_f0'}


class TorchProcess:
  """`torch_steps.py`, which takes steps on request."""

  def __init__(self, python: str, model: str, batch_size: int, image_size: int):
    """Starts it, and does not wait.

    Args:
      python: interpreter that has PyTorch and timm; '' for that of this process.
      model: of this package.
      batch_size: of all steps.
      image_size: of both sides.
    """
    name = _TIMM_NAMES.get(model, f'dm_{model}')
    arguments = [name, *map(str, (batch_size, image_size, _CLASSES))]
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    self._process = subprocess.Popen(
      [python or sys.executable, '-u', str(_PROGRAM), *arguments],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=environment if python else None,
    )

  def ask(self, command: str) -> None:
    """Sends a command."""
    try:
      print(command, file=self._process.stdin, flush=True)
    except OSError as error:
      raise RuntimeError(f'PyTorch is not running: {error}') from None

  def answer(self) -> dict[str, Any]:
    """Waits for the answer; raises RuntimeError for an error, or if the process has ended."""
    for line in self._process.stdout:
      if line.startswith('RESULT '):
        answer = json.loads(line.removeprefix('RESULT '))
        if 'error' in answer:
          raise RuntimeError(f'PyTorch: {answer["error"]}')
        return answer
    raise RuntimeError(f'PyTorch has ended, with status {self._process.wait()}; see the log')

  def end(self) -> None:
    """Ends it."""
    self._process.stdin.close()
    self._process.stdout.close()
    self._process.terminate()
    self._process.wait()


def has_timm(python: str) -> bool:
  """Whether the interpreter, or that of this process, has PyTorch and timm."""
  code = (
    'import importlib.util as u, sys; sys.exit(not (u.find_spec("torch") and u.find_spec("timm")))'
  )
  return subprocess.run([python or sys.executable, '-c', code], check=False).returncode == 0


def compare(parts: Parts, scale: Scale, index: int, python: str) -> None:
  """Measures timm's network without and with `torch.compile`, as two parts.

  Args:
    parts: records the results.
    scale: of the measurement.
    index: 0 for the small network of `scale`, 1 for the middle one.
    python: see `TorchProcess`.
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
  process = TorchProcess(python, model, batch_size, image_size)
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
      **_in_turn(program[0], states, process, way, scale.sample_seconds),
    }

  try:
    parts.measure(names['eager'], 50 * scale.budgets, lambda: measure('eager'))
    parts.measure(names['compile'], 75 * scale.budgets, lambda: measure('compile'))
  finally:
    process.end()


def _in_turn(
  program: Program, states: States, process: TorchProcess, way: str, sample_seconds: float
) -> dict[str, Any]:
  """Takes steps of both in turn; seconds of one step of each, and theirs over ours by round."""

  def ours() -> float:
    start = time.perf_counter()
    for _ in range(count):
      state, metrics = program.compiled(states.get(program.run), program.batch, program.key)
      states.put(program.run, state)
    jax.block_until_ready((state, metrics))
    return (time.perf_counter() - start) / count

  def theirs() -> float:
    process.ask(f'steps {way} {count}')
    return process.answer()['seconds'] / count

  count = 1
  first = [ours(), theirs()]
  once = max(ours(), theirs()) if sample_seconds else max(first)
  count = max(1, min(50, math.ceil(sample_seconds / once)))
  seconds = [(ours(), theirs()) for _ in range(_ROUNDS if sample_seconds else 1)]
  ratios = [torch / jax for jax, torch in seconds]
  return {
    'ours': device_timing.summary([pair[0] for pair in seconds]),
    'theirs': device_timing.summary([pair[1] for pair in seconds]),
    'ratio': statistics.median(ratios),
    'ratio_min': min(ratios),
    'ratio_max': max(ratios),
    'rounds': len(seconds),
    'steps_per_round': count,
  }
