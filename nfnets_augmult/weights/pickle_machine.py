"""An interpreter for the pickles of parameter files.

It has only the operations that arrays in dicts need. Long texts and bytes are skipped; only their
position and length are kept. Values are never hashed (except strings), printed or traversed, so
that time and memory are proportional to the number of operations, which is bounded.
"""

import os
import pickle  # for the names of the operations alone
import pickletools
import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, BinaryIO, ClassVar

from nfnets_augmult.weights import checks, pickle_names
from nfnets_augmult.weights.pickle_names import FileBytes, UnsafePickleError, type_name

# The largest NFNet takes 53,000. The value of an operation takes up to 100 bytes.
_MOST_OPERATIONS = 500_000
# Longer texts and bytes stay in the file until they are needed.
_LONGEST_KEPT = 1_000


class Interpreter:
  """Interprets a pickle. What the file refers to by name is looked up in `pickle_names`.

  Subclasses may know more operations, by code, more names and more types of keys.
  """

  operations: 'ClassVar[dict[bytes, Callable[[Any], None]]]'  # set at the end of this file
  key_types: tuple[type, ...] = (str,)

  def __init__(self, file: BinaryIO, size: int) -> None:
    self._file = file
    self._size = size
    self._stack: list[Any] = []
    self._marks: list[int] = []  # lengths of the stack
    self._memo: dict[int, Any] = {}

  def find(self, module: str, name: str) -> Any:
    """Returns the stand-in for `module.name`; see `pickle_names.find`."""
    return pickle_names.find(module, name)

  def set_state(self, target: Any, state: Any) -> None:
    """Does what `__setstate__` does; see `pickle_names.set_state`."""
    pickle_names.set_state(target, state)

  def run(self, *, is_all: bool = True) -> Any:
    """Returns the value that is unpickled from the file's position on.

    Args:
      is_all: whether the pickle must end where the file does.

    Raises:
      UnsafePickleError: the pickle is damaged, or needs other operations, names or calls.
    """
    read = self._file.read
    for _ in range(_MOST_OPERATIONS):
      code = read(1)
      if code == pickle.STOP:
        return self._finish(is_all)
      operation = self.operations.get(code)
      if operation is None:
        raise UnsafePickleError(_unknown_operation(code))
      operation(self)
    raise UnsafePickleError(f'more than {_MOST_OPERATIONS:,} steps; parameters take far fewer')

  def _finish(self, is_all: bool) -> Any:
    if self._marks or len(self._stack) != 1:
      raise UnsafePickleError('not a readable pickle: it ends in the middle of a value')
    if is_all and (rest := self._size - self._file.tell()):
      raise UnsafePickleError(f'{rest:,} bytes follow the end of the pickle')
    self._memo.clear()
    return self._stack.pop()

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

  # The stack.

  def push(self, value: Any) -> None:
    """Puts a value on the stack."""
    self._stack.append(value)

  def _require(self, count: int) -> None:
    if len(self._stack) - (self._marks[-1] if self._marks else 0) < count:
      raise UnsafePickleError('not a readable pickle: a value is missing')

  def _top(self) -> Any:
    self._require(1)
    return self._stack[-1]

  def pop(self, count: int) -> tuple[Any, ...]:
    """Takes `count` values off the stack."""
    self._require(count)
    return self._pop_from(len(self._stack) - count)

  def _pop_to_mark(self) -> tuple[Any, ...]:
    if not self._marks:
      raise UnsafePickleError('not a readable pickle: a mark is missing')
    return self._pop_from(self._marks.pop())

  def _pop_from(self, start: int) -> tuple[Any, ...]:
    values = tuple(self._stack[start:])
    del self._stack[start:]
    return values

  # Operations.

  def _protocol(self) -> None:
    if not 2 <= self._number(1) <= 5:
      raise UnsafePickleError('of an unknown protocol; 2 to 5 are read')

  def _frame(self) -> None:
    if self._number(8) > self._size - self._file.tell():
      raise UnsafePickleError('not a readable pickle: it is cut off')

  def _string(self, width: int, kind: str) -> None:
    """Pushes text or bytes, whose length is a number of `width` bytes."""
    length = self._number(width)
    if length <= _LONGEST_KEPT:
      data = self._take(length)
      self.push(data.decode() if kind == 'text' else data)
      return
    offset = self._file.tell()
    if length > self._size - offset:
      raise UnsafePickleError(f'not a readable pickle: {kind} beyond the end of the file')
    self._file.seek(length, os.SEEK_CUR)
    self.push(FileBytes(offset, length, kind))

  def _unpack(self, code: str) -> None:
    self.push(struct.unpack(code, self._take(struct.calcsize(code)))[0])

  def _long_integer(self) -> None:
    length = self._number(1)
    if length > 8:
      raise UnsafePickleError(f'a number of {length} bytes; sizes of arrays have 8 at most')
    self.push(int.from_bytes(self._take(length), 'little', signed=True))

  def _set_items(self, items: Sequence[Any]) -> None:
    target = self._top()
    if not isinstance(target, dict) or len(items) % 2:
      raise UnsafePickleError(f'not a readable pickle: items of a {type_name(target)}')
    for key, value in zip(items[::2], items[1::2], strict=True):
      if not isinstance(key, self.key_types):
        raise UnsafePickleError(f'a name of type {type_name(key)}; names are short texts')
      if key in target:
        raise UnsafePickleError(f'{checks.show(str(key))} is there twice')
      target[key] = value

  def _append(self, items: Sequence[Any]) -> None:
    target = self._top()
    if not isinstance(target, list):
      raise UnsafePickleError(f'not a readable pickle: items of a {type_name(target)}')
    target.extend(items)

  def _put(self, width: int) -> None:
    index = self._number(width) if width else len(self._memo)
    self._memo[index] = self._top()

  def _get(self, width: int) -> None:
    index = self._number(width)
    if index not in self._memo:
      raise UnsafePickleError('not a readable pickle: it refers to nothing')
    self.push(self._memo[index])

  def _name_from_stack(self) -> None:
    module, name = self.pop(2)
    if not isinstance(module, str) or not isinstance(name, str):
      raise UnsafePickleError('not a readable pickle: a name that is not text')
    self.push(self.find(module, name))

  def _build(self) -> None:
    target, state = self.pop(2)
    self.set_state(target, state)
    self.push(target)


Interpreter.operations = {
  pickle.PROTO: Interpreter._protocol,
  pickle.FRAME: Interpreter._frame,
  pickle.MARK: lambda machine: machine._marks.append(len(machine._stack)),
  pickle.NONE: lambda machine: machine.push(None),
  pickle.NEWTRUE: lambda machine: machine.push(True),
  pickle.NEWFALSE: lambda machine: machine.push(False),
  pickle.BININT1: partial(Interpreter._unpack, code='<B'),
  pickle.BININT2: partial(Interpreter._unpack, code='<H'),
  pickle.BININT: partial(Interpreter._unpack, code='<i'),
  pickle.LONG1: Interpreter._long_integer,
  pickle.BINFLOAT: partial(Interpreter._unpack, code='>d'),
  pickle.SHORT_BINUNICODE: partial(Interpreter._string, width=1, kind='text'),
  pickle.BINUNICODE: partial(Interpreter._string, width=4, kind='text'),
  pickle.BINUNICODE8: partial(Interpreter._string, width=8, kind='text'),
  pickle.SHORT_BINBYTES: partial(Interpreter._string, width=1, kind='bytes'),
  pickle.BINBYTES: partial(Interpreter._string, width=4, kind='bytes'),
  pickle.BINBYTES8: partial(Interpreter._string, width=8, kind='bytes'),
  pickle.BYTEARRAY8: partial(Interpreter._string, width=8, kind='bytes'),
  pickle.EMPTY_TUPLE: lambda machine: machine.push(()),
  pickle.TUPLE1: lambda machine: machine.push(machine.pop(1)),
  pickle.TUPLE2: lambda machine: machine.push(machine.pop(2)),
  pickle.TUPLE3: lambda machine: machine.push(machine.pop(3)),
  pickle.TUPLE: lambda machine: machine.push(machine._pop_to_mark()),
  pickle.EMPTY_DICT: lambda machine: machine.push({}),
  pickle.SETITEM: lambda machine: machine._set_items(machine.pop(2)),
  pickle.SETITEMS: lambda machine: machine._set_items(machine._pop_to_mark()),
  pickle.EMPTY_LIST: lambda machine: machine.push([]),
  pickle.APPEND: lambda machine: machine._append(machine.pop(1)),
  pickle.APPENDS: lambda machine: machine._append(machine._pop_to_mark()),
  pickle.BINPUT: partial(Interpreter._put, width=1),
  pickle.LONG_BINPUT: partial(Interpreter._put, width=4),
  pickle.MEMOIZE: partial(Interpreter._put, width=0),
  pickle.BINGET: partial(Interpreter._get, width=1),
  pickle.LONG_BINGET: partial(Interpreter._get, width=4),
  pickle.GLOBAL: lambda machine: machine.push(machine.find(machine._line(), machine._line())),
  pickle.STACK_GLOBAL: Interpreter._name_from_stack,
  pickle.REDUCE: lambda machine: machine.push(pickle_names.call(*machine.pop(2))),
  pickle.BUILD: Interpreter._build,
}


def _unknown_operation(code: bytes) -> str:
  """Returns the message for an operation that is not in the table."""
  if not code:
    return 'not a readable pickle: it is cut off'
  known = pickletools.code2op.get(code.decode('latin1'))
  if known is None:
    return f'not a readable pickle: there is no operation {code!r}'
  return f'it uses the operation {known.name}, which plain dicts of arrays do not need'
