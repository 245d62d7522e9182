"""timm's networks: small ones of the same kinds give the logits that they give in timm."""

import functools
from unittest import mock

import haiku as hk
import jax
import numpy as np
import pytest

from nfnets_augmult.models import make_model
from nfnets_augmult.models.nf_resnet import TIMM_DEPTHS, NFResNet
from nfnets_augmult.models.nfnet import TIMM_VARIANTS, NFNet
from tests.golden import deterministic_params

pytestmark = pytest.mark.extended

_SMALL = TIMM_VARIANTS['l0']._replace(
  depths=(1, 2, 1, 1), widths=(256, 64, 64, 64), group_width=8, final_conv_ratio=1.5
)
_NETWORKS = {
  'nfnet': lambda **options: NFNet(
    variant='l0', activation='silu', squeeze_excite_ratio=0.25, family='timm', **options
  ),
  'nf_resnet': lambda **options: NFResNet(depth=26, width=2, family='timm', **options),
}
# Of timm 1.0.31 and PyTorch 2.13, with the parameters and images below.
_LOGITS = {
  'nfnet': [[-0.31902406, 0.77660745, 0.11857679], [-0.14760333, 0.39975101, -0.10758068]],
  'nf_resnet': [[-0.52539021, -0.07863636, 0.95082605], [-0.46343756, -0.23658967, 0.71561831]],
}


def _images(size):
  return np.random.default_rng(0).standard_normal((1, *size, 3)).astype(np.float32)


@pytest.mark.parametrize('name', _NETWORKS)
def test_logits_are_those_of_timm(name):
  """For even and odd numbers of rows and columns, which are padded differently."""

  def forward(images):
    return _NETWORKS[name](num_classes=3)(images, is_training=False)

  with mock.patch.dict(TIMM_VARIANTS, l0=_SMALL), mock.patch.dict(TIMM_DEPTHS, {26: (1, 2, 1, 1)}):
    network = hk.transform(forward)
    shapes = jax.eval_shape(network.init, jax.random.key(0), _images((64, 65)))
    flat = {f'{m}/{n}': leaf.shape for m, values in shapes.items() for n, leaf in values.items()}
    params = deterministic_params(flat)
    apply = jax.jit(network.apply)
    logits = [apply(params, None, _images(size))[0] for size in ((64, 65), (33, 62))]
  # Rounding: 1.5e-6 of the largest where these were made.
  np.testing.assert_allclose(logits, _LOGITS[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize('name', ['timm_nfnet_l0', 'timm_nf_resnet26'])
def test_branches_start_at_zero(name):
  """Without a SkipInit gain that is the gain of the last convolution of a branch, no other."""
  init = functools.partial(make_model(name, num_classes=3).init, is_training=True)
  gains = {
    m: values['gain']
    for m, values in init(jax.random.key(0), _images((64, 64))).items()
    if 'gain' in values
  }
  last = {module for module in gains if module.endswith('/conv2')}
  assert last
  for module, gain in gains.items():
    np.testing.assert_array_equal(gain, module not in last, err_msg=module)
