"""Range checks: what passes, and that everything else is one line that begins with the key."""

import numpy as np
import pytest

from nfnets_augmult.ops import checks


@pytest.mark.parametrize('value', [0, 7, np.int64(3)])
def test_whole_numbers_pass(value):
  checks.check_int('a.key', value, most=7)


@pytest.mark.parametrize(
  ('value', 'words'),
  [
    (-1, 'a.key=-1 must be a whole number of at least 0'),
    (2**31, 'a.key=2147483648 must be a whole number from 0 to 2147483647'),
    pytest.param(10**5000, 'a.key=a whole number of 5,001 digits must be', id='of 5001 digits'),
    (1.0, 'a.key=1.0 must be a whole number'),
    (True, 'a.key=True must be a whole number'),
    (None, 'a.key=None must be a whole number'),
    ('1', "a.key='1' must be a whole number"),
    (float('nan'), 'a.key=nan must be a whole number'),
  ],
)
def test_what_is_no_whole_number(value, words):
  with pytest.raises(ValueError, match=r'^[^\n]*$') as raised:
    checks.check_int('a.key', value)
  assert str(raised.value).startswith(words)


@pytest.mark.parametrize('value', [0, 0.5, np.float32(0.999), 0.9999])
def test_numbers_pass(value):
  checks.check_number('a.key', value, least=0, below=1)


@pytest.mark.parametrize(
  ('value', 'bounds', 'words'),
  [
    (1, {'least': 0, 'below': 1}, 'a.key=1 must be a number in [0, 1)'),
    # In float32, in which it is computed, it is 1.
    (0.999999999, {'least': 0, 'below': 1}, 'a.key=0.999999999 must be a number in [0, 1)'),
    (1e-50, {'above': 0}, 'a.key=1e-50 must be a finite number above 0'),
    (1e39, {}, 'a.key=1e+39 must be a finite number'),
    pytest.param(
      10**5000,
      {'least': 0},
      'a.key=a whole number of 5,001 digits must be a finite number of at least 0',
      id='of 5001 digits',
    ),
    (float('nan'), {'least': 0}, 'a.key=nan must be a finite number of at least 0'),
    (float('-inf'), {'most': 1}, 'a.key=-inf must be a number of at most 1'),
    (True, {'above': 0, 'most': 1}, 'a.key=True must be a number in (0, 1]'),
    (None, {}, 'a.key=None must be a finite number'),
    ([1], {}, 'a.key=[1] must be a finite number'),
  ],
)
def test_what_is_no_number(value, bounds, words):
  with pytest.raises(ValueError, match=r'^[^\n]*$') as raised:
    checks.check_number('a.key', value, **bounds)
  assert str(raised.value) == words


def test_pairs():
  checks.check_pair('a.key', (0.5, 1), above=0, most=1)
  for value in ((1, 0.5), (0, 1), (0.5,), (0.5, 2), None, 'ab', (None, 1), (float('nan'), 1), 3):
    with pytest.raises(ValueError, match=r'^a.key=.* must be two numbers, 0 < a <= b <= 1$'):
      checks.check_pair('a.key', value, above=0, most=1)


def test_choices_texts_and_switches():
  checks.check_choice('a.key', 'left', {'left': 1, 'right': 2})
  for value in ('up', None, ['left'], 1):
    with pytest.raises(ValueError, match=r'^a.key=.* must be one of left, right$'):
      checks.check_choice('a.key', value, {'left': 1, 'right': 2})
  checks.check_bool('a.key', False)
  for value in (0, None, 'True'):
    with pytest.raises(ValueError, match=r'^a.key=.* must be True or False$'):
      checks.check_bool('a.key', value)
  checks.check_text('a.key', '')
  for value in (None, 3, b'bytes', 'zero\0'):
    with pytest.raises(ValueError, match=r'^a.key=.* must '):
      checks.check_text('a.key', value)


def test_a_long_value_is_cut():
  with pytest.raises(ValueError, match='must be text') as raised:
    checks.check_text('a.key', list(range(1000)))
  assert len(str(raised.value)) < 100
