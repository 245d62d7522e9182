"""Errors that name arguments leave with other names, and are the same errors otherwise."""

import json
import re

import pytest

from nfnets_augmult.ops.argument_names import renamed

_NAMES = {'pad': 'augmentation.pad', 'data_dir': 'dataset.data_dir', 'name': 'model.name'}


@pytest.mark.parametrize(
  ('text', 'expected'),
  [
    ('pad=3 is too large', 'augmentation.pad=3 is too large'),
    ('pad=3: set pad=0 (pad=1)', 'augmentation.pad=3: set augmentation.pad=0 (augmentation.pad=1)'),
    ("say data_dir='/x' or name='folder'", "say dataset.data_dir='/x' or model.name='folder'"),
    # Another name, no value, a key or a flag already, a part of a path, what a user wrote.
    ('pad_mode=3', 'pad_mode=3'),
    ('no_pad=3', 'no_pad=3'),
    ('the pad is 3', 'the pad is 3'),
    ('crop.pad=3', 'crop.pad=3'),
    ('--pad=3', '--pad=3'),
    ('/images/name=cat/0.jpg', '/images/name=cat/0.jpg'),
    ("data_dir='name=x'", "dataset.data_dir='name=x'"),
  ],
)
def test_which_names_are_replaced(text, expected):
  """Every mapped name before `=`, where it stands alone."""
  with pytest.raises(ValueError, match=f'^{re.escape(expected)}$'), renamed(_NAMES):
    raise ValueError(text)


class _WithPlace(ValueError):
  def __init__(self, text, *, place):
    super().__init__(text)
    self.place = place


def test_class_and_attributes_stay():
  """Of a class whose constructor takes other arguments; the first error is the cause."""
  first = _WithPlace('pad=3', place=7)
  with pytest.raises(_WithPlace, match=r'^augmentation\.pad=3$') as raised, renamed(_NAMES):
    raise first
  assert (raised.value.place, raised.value.__cause__) == (7, first)
  assert str(first) == 'pad=3'


def test_what_is_left_alone():
  """Other errors, those without a mapped name, and those that compose their text themselves."""
  undecodable = UnicodeDecodeError('utf-8', b'\xff', 0, 1, 'pad=3')
  for error in (KeyError('pad=3'), ValueError('stride=3'), ValueError('pad=3', 4), undecodable):
    with pytest.raises(type(error)) as raised, renamed(_NAMES):
      raise error
    assert raised.value is error


def test_json_errors_keep_their_place():
  """A subclass of the standard library that is made of more than its text."""
  with pytest.raises(json.JSONDecodeError, match=r'augmentation\.pad=') as raised, renamed(_NAMES):
    raise json.JSONDecodeError('pad=', 'text', 2)
  assert raised.value.pos == 2


def test_as_a_decorator_and_within_another():
  """Every call is covered, and a name that has its key already gets no second one."""

  @renamed(_NAMES)
  def inner(value):
    raise ValueError(f'pad={value}')

  for value in range(2):
    with (
      pytest.raises(ValueError, match=rf'^augmentation\.pad={value}$'),
      renamed(_NAMES | {'augmentation': 'x'}),
    ):
      inner(value)
