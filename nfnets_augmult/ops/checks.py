"""Checks of arguments, with one wording: `KEY=VALUE must be a whole number from 1 to 4096`.

A key is the name of an argument, config key or flag. All raise ValueError.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

# Counts of steps, samples and pixels are int32 in compiled programs.
LARGEST_COUNT = 2**31 - 1
_LARGEST_NUMBER = float(np.finfo(np.float32).max)


def check_int(key: str, value: Any, *, least: int = 0, most: int = LARGEST_COUNT) -> None:
  """Raises ValueError unless `value` is an integer in `[least, most]`; True and 1.0 are not."""
  is_int = isinstance(value, int | np.integer) and not isinstance(value, bool)
  if is_int and least <= value <= most:
    return
  names_most = most != LARGEST_COUNT or (is_int and value > most)
  bounds = f'from {least} to {most}' if names_most else f'of at least {least}'
  raise ValueError(f'{key}={shown(value)} must be a whole number {bounds}')


def check_number(
  key: str,
  value: Any,
  *,
  least: float | None = None,
  above: float | None = None,
  most: float | None = None,
  below: float | None = None,
) -> None:
  """Raises ValueError unless `value` is a finite number within the bounds that are given.

  It is compared as the float32 that it becomes in a compiled program, where 0.999999999 is 1 and
  1e-50 is 0. An integer is a number; True is not.

  Args:
    key: of the value.
    value: to check.
    least: smallest allowed value; or
    above: exclusive lower bound.
    most: largest allowed value; or
    below: exclusive upper bound.
  """
  is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
  # Compare before converting: integers of any size can be compared, but not converted.
  if is_number and -_LARGEST_NUMBER <= value <= _LARGEST_NUMBER:
    rounded = np.float32(value)
    if (
      (least is None or rounded >= np.float32(least))
      and (above is None or rounded > np.float32(above))
      and (most is None or rounded <= np.float32(most))
      and (below is None or rounded < np.float32(below))
    ):
      return
  raise ValueError(f'{key}={shown(value)} must be {_interval(least, above, most, below)}')


def check_bool(key: str, value: Any) -> None:
  """Raises ValueError unless `value` is True or False."""
  if not isinstance(value, bool):
    raise ValueError(f'{key}={shown(value)} must be True or False')


def check_text(key: str, value: Any) -> None:
  """Raises ValueError unless `value` is a string without NUL characters; it may be empty."""
  if not isinstance(value, str):
    raise ValueError(f'{key}={shown(value)} must be text')
  if '\0' in value:
    raise ValueError(f'{key}={shown(value)} must not hold the character of code 0')


def check_choice(key: str, value: Any, choices: Iterable[Any]) -> None:
  """Raises ValueError unless `value` is one of `choices`, which are listed."""
  choices = tuple(choices)
  # Not `in` alone, which takes True for 1 and cannot look up a list in a dict.
  if not any(value == choice and type(value) is type(choice) for choice in choices):
    raise ValueError(f'{key}={shown(value)} must be one of {", ".join(map(str, choices))}')


def check_pair(key: str, value: Any, *, above: float, most: float) -> None:
  """Raises ValueError unless `value` is a pair of numbers, `above < a <= b <= most`."""
  try:
    if not isinstance(value, Sequence) or len(value) != 2 or value[0] > value[1]:
      raise ValueError
    for bound in value:
      check_number(key, bound, above=above, most=most)
  except (TypeError, ValueError):
    raise ValueError(
      f'{key}={shown(value)} must be two numbers, {above:g} < a <= b <= {most:g}'
    ) from None


def _interval(
  least: float | None, above: float | None, most: float | None, below: float | None
) -> str:
  """Describes the numbers within these bounds."""
  lower = least if above is None else above
  upper = most if below is None else below
  if lower is None and upper is None:
    return 'a finite number'
  if upper is None:
    return f'a finite number {"of at least" if above is None else "above"} {lower:g}'
  if lower is None:
    return f'a number {"of at most" if below is None else "below"} {upper:g}'
  brackets = ('[' if above is None else '(', ']' if below is None else ')')
  return f'a number in {brackets[0]}{lower:g}, {upper:g}{brackets[1]}'


def shown(value: Any) -> str:
  """Returns `repr(value)` on one line, shortened."""
  try:
    text = repr(value)
  except ValueError:  # Python does not print integers of thousands of digits
    text = f'a whole number of {math.ceil(value.bit_length() / math.log2(10)):,} digits'
  text = ' '.join(text.split())
  return text if len(text) <= 60 else f'{text[:40]}...'
