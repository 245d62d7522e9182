"""Programs of PyTorch that answer commands, and training steps of both sides in turn."""

import io
import json
import math
import os
import pathlib
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks import device_timing

_FOLDER = pathlib.Path(__file__).parent


class Times(NamedTuple):
  """What some steps took together, in seconds: by the clock, and of all threads."""

  clock: float
  processor: float


class TorchProcess:
  """A program of this folder that answers commands, in an interpreter that has PyTorch."""

  def __init__(self, python: str, program: str, *arguments: str | float):
    """Starts it, and does not wait.

    Args:
      python: interpreter that has PyTorch and timm; '' for that of this process.
      program: name of its file.
      *arguments: of the program, see there.
    """
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    self._process = subprocess.Popen(
      [python or sys.executable, '-u', str(_FOLDER / program), *map(str, arguments)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      bufsize=0,  # nothing of a command that could not be sent is left for `end`
      env=environment if python else None,
    )
    self._answers = io.TextIOWrapper(io.BufferedReader(self._process.stdout), encoding='utf-8')

  def ask(self, command: str) -> None:
    """Sends a command; raises RuntimeError if the process has ended."""
    # Where a broken pipe ends the program, as with `| head`, that is not meant of this one.
    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
      self._process.stdin.write(f'{command}\n'.encode())
    except OSError as error:
      raise RuntimeError(f'PyTorch is not running: {error}') from None
    finally:
      signal.signal(signal.SIGPIPE, before)

  def answer(self) -> dict[str, Any]:
    """Waits for the answer; raises RuntimeError for an error, or if the process has ended."""
    for line in self._answers:
      if line.startswith('RESULT '):
        answer = json.loads(line.removeprefix('RESULT '))
        if 'error' in answer:
          raise RuntimeError(f'PyTorch: {answer["error"]}')
        return answer
    raise RuntimeError(f'PyTorch has ended, with status {self._process.wait()}; see the log')

  def end(self) -> None:
    """Ends it."""
    self._process.stdin.close()
    self._answers.close()
    self._process.terminate()
    self._process.wait()


def take_steps(process: TorchProcess, way: str, count: int) -> Times:
  """Has `torch_steps.py` take steps; what they took together."""
  process.ask(f'steps {way} {count}')
  answer = process.answer()
  return Times(answer['seconds'], answer['processor_seconds'])


def has_torch(python: str) -> bool:
  """Whether the interpreter, or that of this process, has PyTorch and timm."""
  code = (
    'import importlib.util as u, sys; sys.exit(not (u.find_spec("torch") and u.find_spec("timm")))'
  )
  return subprocess.run([python or sys.executable, '-c', code], check=False).returncode == 0


def in_turn(
  ours: Callable[[int], Times],
  theirs: Callable[[int], Times],
  *,
  rounds: int,
  sample_seconds: float,
) -> dict[str, Any]:
  """Takes steps of both in turn, after two of each.

  Args:
    ours: takes so many steps, and says what they took together.
    theirs: likewise.
    rounds: how often.
    sample_seconds: how long a round of either takes at least; 0 for a single step.

  Returns:
    Of steps by the clock `ours` and `theirs`, seconds of one step as `device_timing.summary`, and
    `ratio`, `ratio_min` and `ratio_max`, of theirs over ours in a round; the same of processor time
    in `processor`; `rounds` and `steps_per_round`.
  """
  first = [ours(1).clock, theirs(1).clock]
  once = max(ours(1).clock, theirs(1).clock) if sample_seconds else max(first)
  count = max(1, min(50, math.ceil(sample_seconds / once)))
  pairs = [(ours(count), theirs(count)) for _ in range(rounds)]
  return {
    **_compare([(our.clock / count, their.clock / count) for our, their in pairs]),
    'processor': _compare(
      [(our.processor / count, their.processor / count) for our, their in pairs]
    ),
    'rounds': rounds,
    'steps_per_round': count,
  }


def _compare(seconds: Sequence[tuple[float, float]]) -> dict[str, Any]:
  ratios = [their / our for our, their in seconds]
  ours, theirs = (device_timing.summary(list(side)) for side in zip(*seconds, strict=True))
  return {
    'ours': ours,
    'theirs': theirs,
    'ratio': statistics.median(ratios),
    'ratio_min': min(ratios),
    'ratio_max': max(ratios),
  }
