"""What a run leaves in its work directory for people and tools: metrics, config, versions."""

import contextlib
import fcntl
import importlib.metadata
import json
import math
import os
import platform
import sys
import time
import types
from collections.abc import Iterator, Mapping
from typing import Any

from nfnets_augmult.ops.atomic_file import write_atomically

_PACKAGES = (
  'chex',
  'dm-haiku',
  'jax',
  'jaxlib',
  'jmp',
  'ml-collections',
  'numpy',
  'optax',
  'orbax-checkpoint',
  'tensorflow',
  'tensorflow-datasets',
)


class DamagedError(ValueError):
  """A record is not what was once written there."""


def write_json(path: str, value: Any) -> None:
  """Writes `value` as readable JSON, atomically."""
  text = json.dumps(value, indent=2, sort_keys=True) + '\n'
  write_atomically(path, lambda file: file.write(text.encode()))


def read_json(path: str) -> Any:
  """Reads a JSON file; None if there is none.

  Raises:
    DamagedError: it is not JSON.
  """
  if not os.path.exists(path):
    return None
  with open(path, encoding='utf-8') as file:
    try:
      return json.load(file)
    except (ValueError, RecursionError) as error:
      raise DamagedError(f'{path} is damaged: {error}; remove it, or the folder') from error


def read_object(path: str) -> dict[str, Any] | None:
  """Reads a JSON file of names with values; None if there is none, or if it says null.

  Raises:
    DamagedError: it is something else.
  """
  found = read_json(path)
  if found is not None and not isinstance(found, dict):
    raise DamagedError(
      f'{path} is damaged: it must hold names with values, and holds a {type(found).__name__}; '
      'remove it, or the folder'
    )
  return found


def read_data_description(workdir: str) -> dict[str, Any] | None:
  """Returns what the run in `workdir` remembers of its data; None if it was not recorded.

  See `images.describe_data`.

  Raises:
    DamagedError: the record is not what was once written there.
  """
  path = os.path.join(workdir, 'run.json')
  data = (read_object(path) or {}).get('data')
  if data is not None and not isinstance(data, dict):
    raise DamagedError(f'{path} is damaged: it must describe the data; remove it, or the folder')
  return data


def write_status(
  workdir: str, status: str, message: str, facts: Mapping[str, Any] | None = None
) -> None:
  """Leaves `status.json` in a work directory: why the run there ended before its last step.

  Args:
    workdir: of the run; made if need be.
    status: `'diverged'`, which is a result and happens again, or `'failed'`.
    message: for people.
    facts: for programs, see `loop.DivergedError`.
  """
  os.makedirs(workdir, exist_ok=True)
  ended = {'status': status, 'message': message, **(facts or {})}
  write_json(os.path.join(workdir, 'status.json'), ended)


def read_status(workdir: str) -> tuple[str, str]:
  """Returns the status of the run in `workdir` and the message that goes with it.

  `'finished'`, `'diverged'`, `'failed'`, `'unfinished'` (going on, stopped or killed) or
  `'missing'` (never started).
  """
  if os.path.exists(os.path.join(workdir, 'result.json')):
    return 'finished', ''
  path = os.path.join(workdir, 'status.json')
  try:
    ended = read_object(path)
    if ended is not None:
      return str(ended['status']), str(ended['message'])
  except (DamagedError, KeyError):
    return 'failed', f'{path} is damaged'  # to be tried again
  started = os.path.exists(os.path.join(workdir, 'config.json'))
  return 'unfinished' if started else 'missing', ''


def read_divergence(workdir: str) -> dict[str, Any] | None:
  """Returns the facts of the divergence that ended the run in `workdir`, or None.

  Those are `step`, `learning_rate` and `last_losses`, see `loop.DivergedError`.
  """
  with contextlib.suppress(DamagedError, AttributeError):
    ended = read_json(os.path.join(workdir, 'status.json')) or {}
    if ended.get('status') == 'diverged' and 'last_losses' in ended:
      return ended
  return None


def clear_status(workdir: str) -> None:
  """Removes `status.json`: the run goes on, or has gone on to its end."""
  with contextlib.suppress(FileNotFoundError):
    os.unlink(os.path.join(workdir, 'status.json'))


@contextlib.contextmanager
def lock_workdir(workdir: str) -> Iterator[bool]:
  """Locks a work directory for this process meanwhile, and yields whether it could.

  The kernel releases the lock when the process ends, however that happens. On a file system
  without locks every process gets one.
  """
  os.makedirs(workdir, exist_ok=True)
  with open(os.path.join(workdir, '.lock'), 'w', encoding='utf-8') as lock:
    is_ours = True
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      is_ours = False
    except OSError:
      pass
    yield is_ours


def versions() -> dict[str, str]:
  """Returns the versions of Python and of the packages that results depend on."""
  found = {'python': platform.python_version()}
  for package in _PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      found[package] = 'not installed'
  return found


class MetricsFile:
  """`metrics.jsonl`: one JSON object a line, each with its `step`, in order of the steps.

  A line that a kill cut short is dropped when the file is next opened, and so is whatever lies
  after the checkpoint from which the run goes on: nothing is recorded twice.
  """

  def __init__(self, path: str, *, resume_step: int = 0):
    """Opens the file for more, after dropping all records of steps after `resume_step`."""
    kept = [record for record in read_metrics(path) if record['step'] <= resume_step]
    if os.path.exists(path):
      text = ''.join(json.dumps(record) + '\n' for record in kept)
      write_atomically(path, lambda file: file.write(text.encode()))
    self.records = kept
    self._file = open(path, 'a', encoding='utf-8')  # noqa: SIM115 (open for the whole run)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Appends one record; numbers that are not finite are written as null."""
    clean = {k: v if math.isfinite(v) else None for k, v in values.items()}
    record = {'step': step, **clean}
    self._file.write(json.dumps(record) + '\n')
    self._file.flush()
    self.records.append(record)

  def close(self) -> None:
    """Closes the file."""
    self._file.close()


def read_metrics(path: str) -> list[dict[str, Any]]:
  """Returns the whole records of a `metrics.jsonl`, also of a run that is going on."""
  if not os.path.exists(path):
    return []
  with open(path, encoding='utf-8') as file:
    lines = file.read().split('\n')[:-1]  # what follows the last newline is not whole
  try:
    found = [json.loads(line) for line in lines if line]
    for record in found:
      if not isinstance(record, dict) or not isinstance(record.get('step'), int):
        raise ValueError('a line is no record of a step')
    return found
  except (ValueError, RecursionError) as error:
    raise DamagedError(f'{path} is damaged: {error}; remove it, or the folder') from error


class TensorBoard:
  """Scalars for TensorBoard, through the writer of the `tensorboard` package."""

  def __init__(self, directory: str, *, resume_step: int = 0):
    """Opens a new event file that hides earlier ones' values after `resume_step`."""
    # TensorBoard's own switch to do without TensorFlow, which it would import where it finds it.
    sys.modules.setdefault('tensorboard.compat.notf', types.ModuleType('notf'))
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer import event_file_writer

    self._event = event_pb2.Event
    self._summary = summary_pb2.Summary
    self._writer = event_file_writer.EventFileWriter(directory)
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add(resume_step + 1, session_log=start)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Adds one scalar for each of `values`."""
    scalars = [self._summary.Value(tag=k, simple_value=v) for k, v in values.items()]
    self._add(step, summary=self._summary(value=scalars))

  def _add(self, step: int, **what: Any) -> None:
    self._writer.add_event(self._event(step=step, wall_time=time.time(), **what))

  def close(self) -> None:
    """Writes what is left and closes the file."""
    self._writer.close()


class Recorder:
  """Writes metrics to `metrics.jsonl` and to TensorBoard."""

  def __init__(self, workdir: str, *, resume_step: int = 0):
    """Opens both for a run that goes on after `resume_step`."""
    self._file = MetricsFile(os.path.join(workdir, 'metrics.jsonl'), resume_step=resume_step)
    self._tensorboard = TensorBoard(os.path.join(workdir, 'tensorboard'), resume_step=resume_step)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Records `values` of `step`."""
    self._file.write(step, values)
    self._tensorboard.write(step, values)

  def has(self, step: int, name: str) -> bool:
    """Returns whether a value `name` is recorded for `step`."""
    return any(record['step'] == step and name in record for record in self._file.records)

  def last(self, name: str) -> dict[str, Any] | None:
    """Returns the last record that has `name`."""
    return next((r for r in reversed(self._file.records) if name in r), None)

  def close(self) -> None:
    """Closes both."""
    self._file.close()
    self._tensorboard.close()
