"""Networks are recognised by their parameters."""

import numpy as np
import pytest

from nfnets_augmult.models import make_model
from nfnets_augmult.models.nfnet import VARIANTS
from nfnets_augmult.models.table import abstract_params
from nfnets_augmult.weights.nfnet_layout import nfnet_name, nfnet_shapes
from nfnets_augmult.weights.param_files import flatten, unflatten


class _Shaped:
  """Has a shape and no contents."""

  def __init__(self, shape):
    self.shape = shape


@pytest.mark.parametrize('variant', ['f0', 'f1', 'f7', 'f0_plus', 'f1_plus'])
def test_shapes_are_those_of_the_network(variant):
  size, suffix = int(variant[1]), variant[2:]
  params = abstract_params(make_model(f'nfnet_{variant}', num_classes=11), 32)
  want = {name: tuple(leaf.shape) for name, leaf in flatten(params).items()}
  assert nfnet_shapes(size, suffix=suffix, num_classes=11) == want
  assert nfnet_name(params) == f'nfnet_{variant}'


@pytest.mark.parametrize('variant', list(VARIANTS))
def test_every_variant_is_recognised(variant):
  shapes = nfnet_shapes(int(variant[1]), suffix=variant[2:], num_classes=3)
  assert nfnet_name(unflatten({n: _Shaped(s) for n, s in shapes.items()})) == f'nfnet_{variant}'


def test_one_difference_is_another_network():
  shapes = nfnet_shapes(0, suffix='', num_classes=3)
  shapes['NFNet/~/nf_block/~/conv0/w'] = (3, 3, 128, 128)
  assert nfnet_name(unflatten({name: _Shaped(shape) for name, shape in shapes.items()})) is None
  assert nfnet_name({'net': {'w': np.ones(2)}}) is None
