"""The records of a run in its work directory: metrics, config, status, versions."""

import contextlib
import fcntl
import importlib.metadata
import json
import math
import os
import platform
import sys
import tempfile
import time
import types
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from nfnets_augmult.ops import files

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


class TakenOverError(RuntimeError):
  """Another process was started in the same work directory, and this one must not write there."""


def write_json(path: str, value: Any) -> None:
  """Writes `value` as readable JSON, atomically."""
  text = json.dumps(value, indent=2, sort_keys=True) + '\n'
  files.write_whole(path, text.encode())


def read_json(path: str) -> Any:
  """Reads a JSON file; None if it does not exist.

  Raises:
    DamagedError: it is not JSON.
  """
  if not files.exists(path):
    return None
  text = files.read(path)
  try:
    return json.loads(text.decode())
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
  files.make_dirs(workdir)
  record = {'status': status, 'message': message, **(facts or {})}
  write_json(os.path.join(workdir, 'status.json'), record)


def read_status(workdir: str) -> tuple[str, str]:
  """Returns the status of the run in `workdir` and its message.

  The status is `'finished'`, `'diverged'`, `'failed'`, `'unfinished'` (running, stopped or killed)
  or `'missing'` (never started).
  """
  if files.exists(os.path.join(workdir, 'result.json')):
    return 'finished', ''
  path = os.path.join(workdir, 'status.json')
  try:
    record = read_object(path)
    if record is not None:
      return str(record['status']), str(record['message'])
  except (DamagedError, KeyError):
    return 'failed', f'{path} is damaged'  # so that it is retried
  started = files.exists(os.path.join(workdir, 'config.json'))
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
    files.remove(os.path.join(workdir, 'status.json'))


@contextlib.contextmanager
def lock_workdir(workdir: str) -> Iterator[bool]:
  """Locks a work directory for this process, and yields whether it got the lock.

  The kernel releases the lock when the process ends, even if it is killed. On a file system without
  locks every process gets it, and in a bucket, where the last one that starts wins: see `Claim`.
  """
  if files.is_url(workdir):
    yield True
    return
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


class Claim:
  """That a work directory in a bucket belongs to the process that was started in it last.

  There are no locks in a bucket, and one that outlives a machine that was taken away would block
  the restart. So each start leaves a token there, and reads it again before whatever it writes.
  Elsewhere it does nothing.
  """

  def __init__(self, workdir: str):
    """Writes the token; raises OSError if it cannot be written."""
    self._path = os.path.join(workdir, '.started')
    self._token = uuid.uuid4().bytes if files.is_url(workdir) else b''
    if self._token:
      files.write_whole(self._path, self._token)

  def check(self) -> None:
    """Reads the token.

    Raises:
      TakenOverError: it is that of another start.
      OSError: it cannot be read.
    """
    if self._token and files.read(self._path) != self._token:
      raise TakenOverError(
        f'another process was started in {os.path.dirname(self._path)} after this one, which stops '
        'here and writes nothing more: the later one goes on from the last checkpoint'
      )


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
  resumes, so that nothing is recorded twice. In a bucket the file is what was uploaded last.
  """

  def __init__(self, path: str, *, resume_step: int = 0):
    """Opens the file to append, after dropping records of steps after `resume_step`."""
    kept = [record for record in read_metrics(path) if record['step'] <= resume_step]
    self._path = path
    self.records = kept
    if files.exists(path):
      self._write_all()
    # Open for the whole run.
    self._file = None if files.is_url(path) else open(path, 'a', encoding='utf-8')  # noqa: SIM115

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Appends one record; numbers that are not finite are written as null."""
    clean = {k: v if math.isfinite(v) else None for k, v in values.items()}
    record = {'step': step, **clean}
    if self._file:
      self._file.write(json.dumps(record) + '\n')
      self._file.flush()
    self.records.append(record)

  def _write_all(self) -> None:
    text = ''.join(json.dumps(record) + '\n' for record in self.records)
    files.write_whole(self._path, text.encode())

  def upload(self) -> None:
    """Uploads all records, if the file is one of a bucket."""
    if not self._file:
      self._write_all()

  def close(self) -> None:
    """Closes the file; uploads nothing."""
    if self._file:
      self._file.close()


def read_metrics(path: str) -> list[dict[str, Any]]:
  """Returns the complete records of a `metrics.jsonl`, also of a run that is training."""
  if not files.exists(path):
    return []
  try:
    lines = files.read(path).decode().split('\n')[:-1]  # text after the last newline is incomplete
    found = [json.loads(line) for line in lines if line]
    for record in found:
      if not isinstance(record, dict) or not isinstance(record.get('step'), int):
        raise ValueError('a line is no record of a step')
    return found
  except (ValueError, RecursionError) as error:
    raise DamagedError(f'{path} is damaged: {error}; remove it, or the folder') from error


def _wait_for_later_name(directory: str) -> None:
  """Waits while the directory has an event file of this second.

  TensorBoard reads files in the order of their names, which begin with the second; of two of the
  same second, the later one might come first, and what it replaces would be shown.
  """
  while files.is_dir(directory):
    now = f'events.out.tfevents.{int(time.time()):010d}.'
    if not any(name.startswith(now) for name in files.list_dir(directory)):
      return
    time.sleep(0.05)


class TensorBoard:
  """Scalars for TensorBoard, through the writer of the `tensorboard` package.

  For a bucket the file is written to a temporary folder. Each start writes a file of its own name.
  """

  def __init__(self, directory: str, *, resume_step: int = 0):
    """Opens a new event file, which hides values after `resume_step` in earlier files."""
    # TensorBoard's own switch to not import TensorFlow.
    sys.modules.setdefault('tensorboard.compat.notf', types.ModuleType('notf'))
    from tensorboard.compat.proto import event_pb2, summary_pb2
    from tensorboard.summary.writer import event_file_writer

    self._event = event_pb2.Event
    self._summary = summary_pb2.Summary
    self._directory = directory
    self._local = tempfile.TemporaryDirectory() if files.is_url(directory) else None
    _wait_for_later_name(directory)
    self._writer = event_file_writer.EventFileWriter(self._local.name if self._local else directory)
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add(resume_step + 1, session_log=start)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Adds one scalar for each of `values`."""
    scalars = [self._summary.Value(tag=k, simple_value=v) for k, v in values.items()]
    self._add(step, summary=self._summary(value=scalars))

  def _add(self, step: int, **fields: Any) -> None:
    self._writer.add_event(self._event(step=step, wall_time=time.time(), **fields))

  def upload(self) -> None:
    """Uploads the file, if it is one of a bucket."""
    if self._local:
      self._writer.flush()
      for name in os.listdir(self._local.name):
        events = files.read(os.path.join(self._local.name, name))
        files.write_whole(os.path.join(self._directory, name), events)

  def close(self) -> None:
    """Flushes and closes the file; uploads nothing."""
    self._writer.close()
    if self._local:
      self._local.cleanup()


class Recorder:
  """Writes metrics to `metrics.jsonl` and to TensorBoard.

  In a bucket both are uploaded whole, at most every 15 seconds and when `upload` is called.

  Attributes:
    is_taken_over: whether `write` found that the work directory belongs to another process by now.
  """

  def __init__(self, workdir: str, *, resume_step: int = 0, claim: Claim | None = None):
    """Opens both for a run that resumes after `resume_step`; `claim` is that on `workdir`."""
    self._is_remote = files.is_url(workdir)
    self._claim = claim
    self._clock = files.UploadClock()
    self._is_uploaded = True
    self.is_taken_over = False
    self._file = MetricsFile(os.path.join(workdir, 'metrics.jsonl'), resume_step=resume_step)
    self._tensorboard = TensorBoard(os.path.join(workdir, 'tensorboard'), resume_step=resume_step)

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Records `values` of `step`; whether the run was taken over is only noted."""
    self._file.write(step, values)
    self._tensorboard.write(step, values)
    self._is_uploaded = False
    if self._clock.is_due():
      try:
        self.upload()
      except TakenOverError:
        self.is_taken_over = True

  def upload(self) -> None:
    """Uploads what is new, if the work directory is in a bucket.

    Raises:
      TakenOverError: the work directory belongs to another process by now.
    """
    if self._is_remote and not self._is_uploaded:
      if self._claim:
        self._claim.check()
      self._file.upload()
      self._tensorboard.upload()
      self._is_uploaded = True
      self._clock.reset()

  def has(self, step: int, name: str) -> bool:
    """Returns whether a value `name` is recorded for `step`."""
    return any(record['step'] == step and name in record for record in self._file.records)

  def last(self, name: str) -> dict[str, Any] | None:
    """Returns the last record that has `name`."""
    return next((r for r in reversed(self._file.records) if name in r), None)

  def best(self, name: str) -> float | None:
    """Returns the largest value of `name`; None if there is none."""
    values = (record.get(name) for record in self._file.records)
    return max((value for value in values if value is not None), default=None)

  def close(self) -> None:
    """Closes both; uploads nothing."""
    self._file.close()
    self._tensorboard.close()
