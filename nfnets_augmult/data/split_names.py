"""What the usual names of splits mean: `Train`, `val_images`, `holdout`."""

import re

# Words in the usual names of splits, the more usual ones first, and others that go with them.
_TRAIN_WORDS = ('train', 'training', 'trn')
_TEST_WORDS = ('test', 'testing', 'tst', 'val', 'valid', 'validation')
_TEST_WORDS += ('eval', 'evaluation', 'dev', 'holdout')
_OTHER_WORDS = ('', 'set', 'split', 'data', 'image', 'images', 'img', 'imgs', 'photos')


def split_purpose(name: str) -> str:
  """'train' or 'test' for a usual name of such a split, as `Train` or `val_images`, else ''."""
  words = {word.rstrip('0123456789') for word in re.split(r'[\W_]+', name.lower())}
  for purpose, usual in (('train', _TRAIN_WORDS), ('test', _TEST_WORDS)):
    if words & set(usual) and words <= {*usual, *_OTHER_WORDS}:
      return purpose
  return ''


def split_rank(name: str) -> int:
  """Smaller for the more usual name of a split: `test` before `val` before `dev`."""
  usual = _TRAIN_WORDS + _TEST_WORDS
  return min(usual.index(w) for w in re.split(r'[\W_\d]+', name.lower()) if w in usual)
