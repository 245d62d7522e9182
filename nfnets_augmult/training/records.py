"""The records of a run in its work directory: metrics, config, status, versions."""

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
  """A record cannot be read, or does not have the expected form."""


def write_json(path: str, value: Any) -> None:
  """Writes `value` as readable JSON, atomically."""
  text = json.dumps(value, indent=2, sort_keys=True) + '\n'
  write_atomically(path, lambda file: file.write(text.encode()))


def read_json(path: str) -> Any:
  """Reads a JSON file; None if it does not exist.

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
  """Reads a JSON object; None if the file does not exist or holds null.

  Raises:
    DamagedError: it is something else.
  """
  value = read_json(path)
  if value is not None and not isinstance(value, dict):
    raise DamagedError(
      f'{path} is damaged: it must hold names with values, and holds a {type(value).__name__}; '
      'remove it, or the folder'
    )
  return value


def read_data_description(workdir: str) -> dict[str, Any] | None:
  """Returns the recorded description of the data, see `images.describe_data`; None if none.

  Raises:
    DamagedError: the record is damaged.
  """
  path = os.path.join(workdir, 'run.json')
  data = (read_object(path) or {}).get('data')
  if data is not None and not isinstance(data, dict):
    raise DamagedError(f'{path} is damaged: it must describe the data; remove it, or the folder')
  return data


def write_status(
  workdir: str, status: str, message: str, facts: Mapping[str, Any] | None = None
) -> None:
  """Writes `status.json`: why the run in `workdir` ended before its last step.

  Args:
    workdir: of the run; created if it does not exist.
    status: `'diverged'`, which is deterministic and is not retried, or `'failed'`.
    message: for people.
    facts: for programs, see `run_log.DivergedError`.
  """
  os.makedirs(workdir, exist_ok=True)
  record = {'status': status, 'message': message, **(facts or {})}
  write_json(os.path.join(workdir, 'status.json'), record)


def read_status(workdir: str) -> tuple[str, str]:
  """Returns the status of the run in `workdir` and its message.

  The status is `'finished'`, `'diverged'`, `'failed'`, `'unfinished'` (running, stopped or killed)
  or `'missing'` (never started).
  """
  if os.path.exists(os.path.join(workdir, 'result.json')):
    return 'finished', ''
  path = os.path.join(workdir, 'status.json')
  try:
    record = read_object(path)
    if record is not None:
      return str(record['status']), str(record['message'])
  except (DamagedError, KeyError):
    return 'failed', f'{path} is damaged'  # so that it is retried
  started = os.path.exists(os.path.join(workdir, 'config.json'))
  return 'unfinished' if started else 'missing', ''


def read_divergence(workdir: str) -> dict[str, Any] | None:
  """Returns `step`, `learning_rate` and `last_losses` of a diverged run, or None.

  See `run_log.DivergedError`.
  """
  with contextlib.suppress(DamagedError, AttributeError):
    record = read_json(os.path.join(workdir, 'status.json')) or {}
    if record.get('status') == 'diverged' and 'last_losses' in record:
      return record
  return None


def clear_status(workdir: str) -> None:
  """Removes `status.json`, as when a run is resumed or finished."""
  with contextlib.suppress(FileNotFoundError):
    os.unlink(os.path.join(workdir, 'status.json'))


@contextlib.contextmanager
def lock_workdir(workdir: str) -> Iterator[bool]:
  """Locks a work directory for this process, and yields whether it got the lock.

  The kernel releases the lock when the process ends, even if it is killed. On a file system without
  locks every process gets it.
  """
  os.makedirs(workdir, exist_ok=True)
  with open(os.path.join(workdir, '.lock'), 'w', encoding='utf-8') as lock:
    is_locked = True
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      is_locked = False
    except OSError:
      pass
    yield is_locked


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
  """`metrics.jsonl`: one JSON object per line, each with its `step`, in order of the steps.

  Opening it drops an incomplete last line, and all records after the checkpoint from which the run
  resumes, so that nothing is recorded twice.
  """

  def __init__(self, path: str, *, resume_step: int = 0):
    """Opens the file to append, after dropping records of steps after `resume_step`."""
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
  """Returns the complete records of a `metrics.jsonl`, also of a run that is training."""
  if not os.path.exists(path):
    return []
  with open(path, encoding='utf-8') as file:
    lines = file.read().split('\n')[:-1]  # text after the last newline is incomplete
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
    """Opens a new event file, which hides values after `resume_step` in earlier files."""
    # TensorBoard's own switch to not import TensorFlow.
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

  def _add(self, step: int, **fields: Any) -> None:
    self._writer.add_event(self._event(step=step, wall_time=time.time(), **fields))

  def close(self) -> None:
    """Flushes and closes the file."""
    self._writer.close()


class Recorder:
  """Writes metrics to `metrics.jsonl` and to TensorBoard."""

  def __init__(self, workdir: str, *, resume_step: int = 0):
    """Opens both for a run that resumes after `resume_step`."""
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
