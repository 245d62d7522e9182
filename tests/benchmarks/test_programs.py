"""The programs among the benchmarks end as other programs do."""

import pathlib
import sys
import types

import pytest

from nfnets_augmult.ops import console

_ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
  ('file', 'is_program'),
  [
    ('benchmarks/step.py', True),
    ('nfnets_augmult/train.py', True),
    ('docs/draw_slots.py', False),
    ('benchmarks_of_others/step.py', False),
  ],
)
def test_which_files_are_programs(file, is_program, monkeypatch):
  """Their interrupts are one line; those of a notebook or a script stay as they are."""
  main = types.SimpleNamespace(__file__=str(_ROOT / file))
  monkeypatch.setitem(sys.modules, '__main__', main)
  assert console.is_program() == is_program
