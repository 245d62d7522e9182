"""An interpreter for the pickles of parameter files.

It knows the opcodes that files of arrays use. Long strings and bytes are skipped, and only their
position and length kept. Values are never hashed (except strings), printed or traversed, so that
time and memory are proportional to the number of operations, which is bounded.
"""

import functools
import os
import pickletools
import struct
from collections.abc import Callable
from typing import Any, BinaryIO

from nfnets_augmult.weights import checks, pickle_names
from nfnets_augmult.weights.pickle_names import FileBytes, UnsafePickleError, kind

# The largest NFNet takes 53,000. The value of an operation takes up to 100 bytes.
_MOST_OPERATIONS = 500_000
# Longer strings and bytes stay in the file until they are needed.
_LONGEST_KEPT = 1_000


class Interpreter:
  """Interprets a pickle, with the values of `pickle_names`."""

  def __init__(self, file: BinaryIO, size: int) -> None:
    self._file = file
    self._size = size
    self._stack: list[Any] = []
    self._marks: list[int] = []  # lengths of the stack
    self._memo: dict[int, Any] = {}

  def run(self) -> Any:
    """Returns the unpickled value."""
    read = self._file.read
    for _ in range(_MOST_OPERATIONS):
      code = read(1)
      if code == b'.':
        return self._finish()
      operation = _OPERATIONS.get(code)
      if operation is None:
        raise UnsafePickleError(_unknown_operation(code))
      operation(self)
    raise UnsafePickleError(f'more than {_MOST_OPERATIONS:,} steps; parameters take far fewer')

  def _finish(self) -> Any:
    if self._marks or len(self._stack) != 1:
      raise UnsafePickleError('not a readable pickle: it ends in the middle of a value')
    if rest := self._size - self._file.tell():
      raise UnsafePickleError(f'{rest:,} bytes follow the end of the pickle')
    return self._stack[0]

  # Operands.

  def _take(self, length: int) -> bytes:
    data = self._file.read(length)
    if len(data) != length:
      raise UnsafePickleError('not a readable pickle: it is cut off')
    return data

  def _number(self, width: int) -> int:
    return int.from_bytes(self._take(width), 'little')

  def _line(self) -> str:
    line = self._file.readline(_LONGEST_KEPT)
    if not line.endswith(b'\n'):
      raise UnsafePickleError('not a readable pickle: a name without an end')
    return line[:-1].decode()

  def _skip(self, length: int, kind: str) -> FileBytes:
    offset = self._file.tell()
    if length > self._size - offset:
      raise UnsafePickleError(f'not a readable pickle: {kind} beyond the end of the file')
    self._file.seek(length, os.SEEK_CUR)
    return FileBytes(offset, length, kind)

  # The stack.

  def _push(self, value: Any) -> None:
    self._stack.append(value)

  def _pop(self) -> Any:
    self._require(1)
    return self._stack.pop()

  def _require(self, count: int) -> None:
    if len(self._stack) - (self._marks[-1] if self._marks else 0) < count:
      raise UnsafePickleError('not a readable pickle: a value is missing')

  def _pop_last(self, count: int) -> tuple[Any, ...]:
    self._require(count)
    start = len(self._stack) - count
    values = tuple(self._stack[start:])
    del self._stack[start:]
    return values

  def _pop_to_mark(self) -> list[Any]:
    if not self._marks:
      raise UnsafePickleError('not a readable pickle: a mark is missing')
    start = self._marks.pop()
    values = self._stack[start:]
    del self._stack[start:]
    return values

  # Operations.

  def _protocol(self) -> None:
    if not 2 <= self._number(1) <= 5:
      raise UnsafePickleError('of an unknown protocol; 2 to 5 are read')

  def _frame(self) -> None:
    if self._number(8) > self._size - self._file.tell():
      raise UnsafePickleError('not a readable pickle: it is cut off')

  def _mark(self) -> None:
    self._marks.append(len(self._stack))

  def _text(self, width: int) -> None:
    length = self._number(width)
    is_short = length <= _LONGEST_KEPT
    self._push(self._take(length).decode() if is_short else self._skip(length, 'text'))

  def _data(self, width: int) -> None:
    length = self._number(width)
    is_short = length <= _LONGEST_KEPT
    self._push(self._take(length) if is_short else self._skip(length, 'bytes'))

  def _integer(self, code: str) -> None:
    self._push(struct.unpack(code, self._take(struct.calcsize(code)))[0])

  def _long_integer(self) -> None:
    length = self._number(1)
    if length > 8:
      raise UnsafePickleError(f'a number of {length} bytes; sizes of arrays have 8 at most')
    self._push(int.from_bytes(self._take(length), 'little', signed=True))

  def _last_as_tuple(self, count: int) -> None:
    self._push(self._pop_last(count))

  def _tuple_since_mark(self) -> None:
    self._push(tuple(self._pop_to_mark()))

  def _set_item(self) -> None:
    self._store(list(self._pop_last(2)))

  def _set_items(self) -> None:
    self._store(self._pop_to_mark())

  def _store(self, items: list[Any]) -> None:
    self._require(1)
    target = self._stack[-1]
    if not isinstance(target, dict) or len(items) % 2:
      raise UnsafePickleError(f'not a readable pickle: items of a {kind(target)}')
    for key, value in zip(items[::2], items[1::2], strict=True):
      if not isinstance(key, str):
        raise UnsafePickleError(f'a name of type {kind(key)}; names are short texts')
      if key in target:
        raise UnsafePickleError(f'{checks.show(key)} is there twice')
      target[key] = value

  def _append_one(self) -> None:
    self._append(list(self._pop_last(1)))

  def _append_all(self) -> None:
    self._append(self._pop_to_mark())

  def _append(self, items: list[Any]) -> None:
    self._require(1)
    if not isinstance(self._stack[-1], list):
      raise UnsafePickleError(f'not a readable pickle: items of a {kind(self._stack[-1])}')
    self._stack[-1].extend(items)

  def _put(self, width: int) -> None:
    index = self._number(width) if width else len(self._memo)
    self._require(1)
    self._memo[index] = self._stack[-1]

  def _get(self, width: int) -> None:
    index = self._number(width)
    if index not in self._memo:
      raise UnsafePickleError('not a readable pickle: it refers to nothing')
    self._push(self._memo[index])

  def _name(self) -> None:
    module = self._line()
    self._push_name(module, self._line())

  def _name_from_stack(self) -> None:
    module, name = self._pop_last(2)
    if not isinstance(module, str) or not isinstance(name, str):
      raise UnsafePickleError('not a readable pickle: a name that is no text')
    self._push_name(module, name)

  def _push_name(self, module: str, name: str) -> None:
    self._push(pickle_names.find(module, name))

  def _call(self) -> None:
    function, arguments = self._pop_last(2)
    self._push(pickle_names.call(function, arguments))

  def _build(self) -> None:
    state = self._pop()
    self._require(1)
    pickle_names.set_state(self._stack[-1], state)


_OPERATIONS: dict[bytes, Callable[[Interpreter], None]] = {
  b'\x80': Interpreter._protocol,
  b'\x95': Interpreter._frame,
  b'(': Interpreter._mark,
  b'N': lambda machine: machine._push(None),
  b'\x88': lambda machine: machine._push(True),
  b'\x89': lambda machine: machine._push(False),
  b'K': functools.partial(Interpreter._integer, code='<B'),
  b'M': functools.partial(Interpreter._integer, code='<H'),
  b'J': functools.partial(Interpreter._integer, code='<i'),
  b'\x8a': Interpreter._long_integer,
  b'G': functools.partial(Interpreter._integer, code='>d'),
  b'\x8c': functools.partial(Interpreter._text, width=1),
  b'X': functools.partial(Interpreter._text, width=4),
  b'\x8d': functools.partial(Interpreter._text, width=8),
  b'C': functools.partial(Interpreter._data, width=1),
  b'B': functools.partial(Interpreter._data, width=4),
  b'\x8e': functools.partial(Interpreter._data, width=8),
  b'\x96': functools.partial(Interpreter._data, width=8),  # a bytearray
  b')': lambda machine: machine._push(()),
  b'\x85': functools.partial(Interpreter._last_as_tuple, count=1),
  b'\x86': functools.partial(Interpreter._last_as_tuple, count=2),
  b'\x87': functools.partial(Interpreter._last_as_tuple, count=3),
  b't': Interpreter._tuple_since_mark,
  b'}': lambda machine: machine._push({}),
  b's': Interpreter._set_item,
  b'u': Interpreter._set_items,
  b']': lambda machine: machine._push([]),
  b'a': Interpreter._append_one,
  b'e': Interpreter._append_all,
  b'q': functools.partial(Interpreter._put, width=1),
  b'r': functools.partial(Interpreter._put, width=4),
  b'\x94': functools.partial(Interpreter._put, width=0),
  b'h': functools.partial(Interpreter._get, width=1),
  b'j': functools.partial(Interpreter._get, width=4),
  b'c': Interpreter._name,
  b'\x93': Interpreter._name_from_stack,
  b'R': Interpreter._call,
  b'b': Interpreter._build,
}


def _unknown_operation(code: bytes) -> str:
  """Returns the message for an unknown opcode."""
  if not code:
    return 'not a readable pickle: it is cut off'
  known = pickletools.code2op.get(code.decode('latin1'))
  if known is None:
    return f'not a readable pickle: there is no operation {code!r}'
  return f'it uses the operation {known.name}, which plain dicts of arrays do not need'
