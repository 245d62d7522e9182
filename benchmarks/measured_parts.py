"""A long measurement in parts, each recorded when it is done, within a limit of time."""

import datetime
import json
import os
import time
from collections.abc import Callable
from typing import Any

from nfnets_augmult.training import records

RESULTS = 'results.json'
# Characters of a result in the log.
_MOST_SHOWN = 1000


def log(started: float, text: str) -> None:
  """Prints `text` with the seconds since `started`, at once."""
  print(f'{time.time() - started:6.1f} s  {text}', flush=True)


def one_line(error: BaseException | str, *, most: int = 300) -> str:
  """Returns the first line of a message, with the kind of an exception, not longer than `most`."""
  kind = '' if isinstance(error, str) else f'{type(error).__name__}: '
  lines = str(error).strip().splitlines() or ['']
  return (kind + lines[0])[:most]


class Parts:
  """What was measured, in `results.json` of a folder, which is written whole after every part.

  Attributes:
    parts: by name, with a `status`: `'done'`, with a `result`; `'failed'`, with a `message`;
      or `'running'`. The time is that of the end, or of the begin.
    skipped: why a part was not begun, or not ended, by name.
  """

  def __init__(self, folder: str, *, started: float, deadline: float, pages: Any = None):
    """Reads what is there.

    Args:
      folder: exists.
      started: of this measurement, in seconds of `time.time()`.
      deadline: when it must be over, likewise.
      pages: called with this object after every part, to write what people read.

    Raises:
      DamagedError: `results.json` is not what this class writes.
    """
    self._path = os.path.join(folder, RESULTS)
    self._pages = pages
    self._started, self._deadline = started, deadline
    self.folder = folder
    recorded = records.read_object(self._path) or {}
    self.parts: dict[str, dict[str, Any]] = recorded.get('parts', {})
    self.skipped: dict[str, str] = recorded.get('skipped', {})

  @property
  def seconds_left(self) -> float:
    """Until the deadline."""
    return self._deadline - time.time()

  def log(self, text: str) -> None:
    """Prints a line, see `log`."""
    log(self._started, text)

  def is_over(self, name: str) -> bool:
    """Whether the part has a result, or has failed."""
    return self.parts.get(name, {}).get('status') in ('done', 'failed')

  def result(self, name: str) -> Any:
    """Returns the result of a part, or None."""
    return self.parts.get(name, {}).get('result')

  def forget_failed(self) -> None:
    """Lets parts that failed be tried again."""
    self.parts = {name: part for name, part in self.parts.items() if part['status'] == 'done'}
    self.write()

  def has_time(self, name: str, budget: float) -> bool:
    """Whether `budget` seconds are left; if not, records that the part was skipped, and why."""
    if self.seconds_left >= budget:
      return True
    self.skip(
      name, f'{max(self.seconds_left, 0):.0f} s of the time were left, and it takes {budget:.0f}'
    )
    return False

  def skip(self, name: str, reason: str) -> None:
    """Records that a part has no result, and why; it is measured the next time."""
    self.parts.pop(name, None)
    self.skipped[name] = reason
    self.log(f'{name}: skipped, {reason}')
    self.write()

  def fail(self, name: str, message: str) -> None:
    """Records that a part failed."""
    self.skipped.pop(name, None)
    self.parts[name] = {'status': 'failed', 'message': message, 'at': _now()}
    self.log(f'{name}: failed, {message}')
    self.write()

  def measure(self, name: str, budget: float, function: Callable[[], Any]) -> None:
    """Calls `function` and records what it returns, unless the part is over or time is short.

    An exception is recorded, and goes no further.

    Args:
      name: of the part.
      budget: seconds that it takes; with less time left it is skipped.
      function: returns what JSON can hold.
    """
    if self.is_over(name) or not self.has_time(name, budget):
      return
    self._begin(name)
    start = time.time()
    self.log(f'{name} ...')
    try:
      result = function()
    except Exception as error:
      self.fail(name, one_line(error))
      return
    seconds = round(time.time() - start, 1)
    self.parts[name] = {'status': 'done', 'result': result, 'at': _now(), 'seconds': seconds}
    self.write()
    # For a log that is all that is left.
    self.log(f'{name}: done in {seconds} s: {json.dumps(result)[:_MOST_SHOWN]}')

  def _begin(self, name: str) -> None:
    self.skipped.pop(name, None)
    self.parts[name] = {'status': 'running', 'at': _now()}
    self.write()

  def interrupted(self) -> list[str]:
    """Returns what ran when its process ended, and forgets it."""
    names = [name for name in self.parts if not self.is_over(name)]
    for name in names:
      del self.parts[name]
    return names

  def write(self) -> None:
    """Writes `results.json`, whole or not at all, and the pages."""
    records.write_json(self._path, {'parts': self.parts, 'skipped': self.skipped})
    if self._pages is not None:
      self._pages(self)


def _now() -> str:
  return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
