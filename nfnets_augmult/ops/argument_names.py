"""Replaces the names of arguments in error messages, for example by config keys."""

import contextlib
import re
from collections.abc import Iterator, Mapping

# A name before `=`, unless it is the end of a key or flag, or of a path such as `/split=train`.
_ARGUMENT = re.compile(r"""(?<![\w.\-/\\'"])\w+(?==)""")


@contextlib.contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
  """Renames arguments in the text of a ValueError: `pad=3` becomes `group.pad=3`.

  A context manager and a decorator. The error keeps its class and its attributes; one whose text is
  not its only argument is not changed.

  Args:
    names: from the names of arguments to their replacements.
  """
  try:
    yield
  except ValueError as error:
    text = _ARGUMENT.sub(lambda found: names.get(found[0], found[0]), str(error))
    if text == str(error) or error.args != (str(error),):
      raise
    # Without `__init__`, whose arguments subclasses may change.
    renamed_error = type(error).__new__(type(error), text)
    vars(renamed_error).update(vars(error))
    raise renamed_error from error
