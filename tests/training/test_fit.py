"""Parameters that do not fit are described in terms that people use."""

import numpy as np

from nfnets_augmult.training import fit


def _params(classes=10, width=4, **more):
  return {
    'net/~/conv': {'w': np.zeros((3, 3, 3, width)), 'b': np.zeros(width)},
    'net/~/linear': {'w': np.zeros((width, classes)), 'b': np.zeros(classes)},
    **more,
  }


def test_equal_parameters():
  assert fit.difference(_params(), _params()) == ''


def test_another_number_of_classes():
  assert fit.difference(_params(12), _params(10)) == 'it has 10 classes, and the data have 12'


def test_another_network():
  """The message has counts and a few examples."""
  difference = fit.difference(
    _params(width=5), _params(extra={f'x{i}': np.zeros(2) for i in range(99)})
  )
  assert difference.startswith(
    'it is of another network: 99 arrays are in it that the network lacks'
  )
  assert '3 arrays have another shape, such as net/~/conv/b, net/~/conv/w' in difference
  assert len(difference) < 400
  missing = fit.difference(_params(extra={'w': np.zeros(1)}), _params(12))
  assert '1 arrays are missing in it, such as extra/w' in missing
