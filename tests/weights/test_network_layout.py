"""Networks are recognised by their parameters."""

import numpy as np
import pytest

from nfnets_augmult.models import MODEL_NAMES, make_model
from nfnets_augmult.models.table import abstract_params
from nfnets_augmult.weights.network_layout import network_name, network_shapes
from nfnets_augmult.weights.param_files import flatten, unflatten

_NAMES = [name for name in MODEL_NAMES if not name.startswith('wrn')]


class _Shaped:
  """Has a shape and no contents."""

  def __init__(self, shape):
    self.shape = shape


@pytest.mark.parametrize(
  'name',
  [
    *('nfnet_f0', 'nfnet_f1', 'nfnet_f7', 'nfnet_f0_plus', 'nfnet_f1_plus', 'nf_resnet50'),
    *('nf_resnet200', 'timm_nfnet_f0', 'timm_nfnet_l0', 'timm_nf_resnet26', 'timm_nf_resnet101'),
  ],
)
def test_shapes_are_those_of_the_network(name):
  params = abstract_params(make_model(name, num_classes=11), 32)
  want = {name: tuple(leaf.shape) for name, leaf in flatten(params).items()}
  assert network_shapes(name, num_classes=11) == want
  assert network_name(params) == name


@pytest.mark.parametrize('name', _NAMES)
def test_every_network_is_recognised(name):
  shapes = network_shapes(name, num_classes=3)
  assert network_name(unflatten({n: _Shaped(s) for n, s in shapes.items()})) == name


def test_one_difference_is_another_network():
  shapes = network_shapes('nfnet_f0', num_classes=3)
  shapes['NFNet/~/nf_block/~/conv0/w'] = (3, 3, 128, 128)
  assert network_name(unflatten({name: _Shaped(shape) for name, shape in shapes.items()})) is None
  assert network_name({'net': {'w': np.ones(2)}}) is None
