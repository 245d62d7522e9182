"""Config keys, or other names, in the place of the arguments that errors name."""

import contextlib
import re
from collections.abc import Iterator, Mapping

# A name before `=`, unless it is the end of a key or flag, or of a path such as `/split=train`.
_ARGUMENT = re.compile(r"""(?<![\w.\-/\\'"])\w+(?==)""")


@contextlib.contextmanager
def renamed(names: Mapping[str, str]) -> Iterator[None]:
  """Inside of it the text of a ValueError says `group.pad=3` where it said `pad=3`.

  The error keeps its class and its attributes. One whose text is not its only argument passes as it
  is. Serves as a decorator, too.

  Args:
    names: from the names of arguments to what stands for them.
  """
  try:
    yield
  except ValueError as error:
    text = _ARGUMENT.sub(lambda found: names.get(found[0], found[0]), str(error))
    if text == str(error) or error.args != (str(error),):
      raise
    # Not by a call, because constructors of subclasses take what they like.
    told = type(error).__new__(type(error), text)
    vars(told).update(vars(error))
    raise told from error
