"""Where the test data lie that are too big to be part of the project."""

import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parents[1]


def tfds_dir() -> str:
  """Returns the folder of prepared TFDS data sets beside the checkout, or skips the test."""
  folder = _ROOT.parent / 'shared' / 'data' / 'tfds'
  if not folder.is_dir():
    pytest.skip(f'needs the prepared data sets cifar100 and imagenet2012 in {folder}')
  return str(folder)
