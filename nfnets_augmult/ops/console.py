"""A process as its user meets it: interrupts, and output that nobody reads or none can show.

Only programs call `prepare`, and before they import anything large: an import takes seconds, in
which people interrupt. A notebook that imports the same modules keeps what it had.
"""

import contextlib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable

# The time of day and nothing else.
LOG_FORMATTER = logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S')

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Where programs are; the benchmarks lie beside the package.
_FOLDERS = (_PACKAGE + os.sep, os.path.join(os.path.dirname(_PACKAGE), 'benchmarks', ''))
_listeners: dict[int, Callable[[int], None]] = {}
_writer: int | None = None
# The standard error as it was, also while it is turned away.
_terminal = 2


def is_program() -> bool:
  """Whether this process was started as one of our programs, as by `python -m`."""
  return str(getattr(sys.modules['__main__'], '__file__', None)).startswith(_FOLDERS)


def prepare() -> None:
  """Makes an interrupt end the process with one line, and its output safe to write to."""
  global _terminal
  if sys.stderr is not None:
    _terminal = os.dup(2)
  sys.stdout, sys.stderr = _output(1, sys.stdout), _output(2, sys.stderr)
  on_signal(signal.SIGINT, end)


def on_signal(number: int, listener: Callable[[int], None]) -> None:
  """Has `listener` called with the number of a signal that arrives, from a thread of its own.

  Python calls the handlers of signals in the main thread only, and only between its own
  instructions: not while a library compiles or computes, which can take minutes. The byte that
  Python writes to a pipe meanwhile wakes this thread at once.
  """
  global _writer
  if _writer is None:
    reader, _writer = os.pipe()
    os.set_blocking(_writer, False)
    signal.set_wakeup_fd(_writer, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(reader,), daemon=True, name='signals').start()
  _listeners[number] = listener
  signal.signal(number, lambda *_: None)  # without a handler no byte is written


def say(line: str) -> None:
  """Prints to the standard error at once, from any thread and in any state of the process."""
  with contextlib.suppress(OSError):
    os.write(_terminal, f'{line}\n'.encode('ascii', 'backslashreplace'))


def end_when_nobody_reads() -> None:
  """Lets a program that only prints end as others do when `| head` has seen enough."""
  signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def _listen(reader: int) -> None:
  while received := os.read(reader, 1):
    if listener := _listeners.get(received[0]):
      listener(received[0])


def end(number: int) -> None:
  """Ends the process: an exception would surface in any library, each with its own traceback."""
  say('interrupted')
  os._exit(128 + number)


class _Descriptor(io.FileIO):
  """A file descriptor whose reader may go away: what comes after that is dropped.

  Any other failure, such as that of a full disk, is raised once.
  """

  def write(self, data: bytes) -> int | None:
    """Writes, if anybody reads."""
    try:
      return super().write(data)
    except BlockingIOError:
      raise
    except OSError as error:
      # The descriptor itself is turned away, for libraries that write past Python.
      nowhere = os.open(os.devnull, os.O_WRONLY)
      os.dup2(nowhere, self.fileno())
      os.close(nowhere)
      if not isinstance(error, BrokenPipeError):
        raise
      return len(data)


def _output(descriptor: int, stream: io.TextIOWrapper | None) -> io.TextIOWrapper:
  """The stream anew: characters that it cannot show are escaped, and a closed pipe is no error."""
  if stream is None:  # closed by who started the process
    return open(os.devnull, 'w', encoding='utf-8')
  stream.flush()
  raw = _Descriptor(descriptor, 'w', closefd=False)
  return io.TextIOWrapper(
    io.BufferedWriter(raw),
    encoding=stream.encoding,
    errors='backslashreplace',
    line_buffering=descriptor == 2 or raw.isatty(),
    write_through=stream.write_through,
  )
