"""Interrupts, signals and output streams of the command line programs.

Only programs call `prepare`, before imports that take seconds, in which users may interrupt. A
notebook that imports the same modules is not affected.
"""

import atexit
import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

LOG_FORMATTER = logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S')

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Where programs are; the benchmarks lie beside the package.
_FOLDERS = (_PACKAGE + os.sep, os.path.join(os.path.dirname(_PACKAGE), 'benchmarks', ''))
_listeners: dict[int, Callable[[int], None]] = {}
_writer: int | None = None
_watcher: subprocess.Popen | None = None
# File descriptor of the original standard error, which stays open while 2 is redirected.
_terminal = 2


def is_program() -> bool:
  """Whether this process was started as one of our programs, as by `python -m`."""
  return str(getattr(sys.modules['__main__'], '__file__', None)).startswith(_FOLDERS)


def prepare() -> None:
  """Sets up interrupts, which end the process with one line, and robust output streams."""
  global _terminal
  if sys.stderr is not None:
    _terminal = os.dup(2)
  sys.stdout, sys.stderr = _output(1, sys.stdout), _output(2, sys.stderr)
  on_signal(signal.SIGINT, end)


def on_signal(number: int, listener: Callable[[int], None]) -> None:
  """Registers `listener`, to be called with the number of the signal, from a separate thread.

  Python runs signal handlers in the main thread, between bytecode instructions: not while a library
  compiles or computes, which can take minutes. The byte that Python writes to the wakeup pipe
  reaches this thread at once.
  """
  global _writer
  if _writer is None:
    reader, _writer = os.pipe()
    os.set_blocking(_writer, False)
    signal.set_wakeup_fd(_writer, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(reader,), daemon=True, name='signals').start()
  _listeners[number] = listener
  signal.signal(number, lambda *_: None)  # without a Python handler no byte is written


def say(line: str) -> None:
  """Prints to the standard error at once, from any thread, without Python's buffers or locks."""
  with contextlib.suppress(OSError):
    os.write(_terminal, f'{line}\n'.encode('ascii', 'backslashreplace'))


def end_when_nobody_reads() -> None:
  """Lets a broken pipe, as of `| head`, end the process silently."""
  signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def _listen(reader: int) -> None:
  while received := os.read(reader, 1):
    if listener := _listeners.get(received[0]):
      listener(received[0])


def end(number: int) -> None:
  """Ends the process without an exception, which libraries would print or swallow."""
  say('interrupted')
  leave(128 + number)


def leave(status: int) -> None:
  """Ends the process at once, without waiting for what libraries do at the end."""
  _end_orderly()
  os._exit(status)


def explain_abort(message: str) -> None:
  """Has `message` printed to the standard error if this process is aborted or killed.

  A shell waits for the end of a pipe that only this process holds, and prints it if no line came.
  """
  global _watcher
  _watcher = subprocess.Popen(
    ['sh', '-c', 'read -r line || echo "$0" >&2', message],
    stdin=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
    start_new_session=True,
  )
  atexit.register(_end_orderly)


def _end_orderly() -> None:
  if _watcher is not None:
    with contextlib.suppress(OSError, ValueError):
      _watcher.stdin.write(b'\n')
      _watcher.stdin.close()


class _Descriptor(io.FileIO):
  """A file descriptor that drops output once its pipe is closed.

  Other errors, such as of a full disk, are raised once.
  """

  def write(self, data: bytes) -> int | None:
    """Writes `data`, or drops it after an error."""
    try:
      return super().write(data)
    except BlockingIOError:
      raise
    except OSError as error:
      # Redirects the descriptor itself, since libraries in C++ write to it, too.
      devnull = os.open(os.devnull, os.O_WRONLY)
      os.dup2(devnull, self.fileno())
      os.close(devnull)
      if not isinstance(error, BrokenPipeError):
        raise
      return len(data)


def _output(descriptor: int, stream: io.TextIOWrapper | None) -> io.TextIOWrapper:
  """Wraps a stream: unencodable characters are escaped, and a closed pipe is no error."""
  if stream is None:  # closed by the parent process
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
