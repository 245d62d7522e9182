"""The file for PyTorch: names and layouts, the format, and a forward pass in timm where it is."""

import functools
import pathlib
import tempfile

import numpy as np
import pytest
import safetensors
from absl.testing import absltest

from nfnets_augmult.models import make_model
from nfnets_augmult.models.table import abstract_params
from nfnets_augmult.weights import timm_export
from nfnets_augmult.weights.network_layout import network_shapes
from nfnets_augmult.weights.param_files import flatten, read_metadata, unflatten
from nfnets_augmult.weights.timm_export import export_to_timm, timm_name, timm_state_dict
from tests.golden import deterministic_params, load_arrays


@functools.cache
def _nfnet_f0():
  return _params('nfnet_f0', deterministic_params)


def _zeros(shapes):
  """Zeros that take next to no memory."""
  return unflatten({n: np.broadcast_to(np.float32(0), shape) for n, shape in shapes.items()})


def _params(name, fill=_zeros):
  layout = flatten(abstract_params(make_model(name, num_classes=1000), 32))
  return fill({full_name: leaf.shape for full_name, leaf in layout.items()})


class TimmExportTest(absltest.TestCase):
  """Against timm's layout, and timm itself where it is installed."""

  def test_names_and_layouts(self):
    params = _nfnet_f0()
    state = timm_state_dict(params)
    self.assertLen(state, 233)
    self.assertEqual(sum(value.size for value in state.values()), 71_489_284)
    # One name of each kind, with the shape that timm 1.0.31 lists for it.
    shapes = {
      'stem.conv1.weight': (16, 3, 3, 3),
      'stem.conv4.gain': (128, 1, 1, 1),
      'stages.0.0.skipinit_gain': (),
      'stages.0.0.downsample.conv.weight': (256, 128, 1, 1),
      'stages.1.1.conv2b.weight': (256, 128, 3, 3),
      'stages.2.5.conv3.bias': (1536,),
      'stages.3.2.attn_last.fc1.weight': (768, 1536, 1, 1),
      'stages.3.2.attn_last.fc2.bias': (1536,),
      'final_conv.weight': (3072, 1536, 1, 1),
      'head.fc.weight': (1000, 3072),
      'head.fc.bias': (1000,),
    }
    self.assertEqual({name: state[name].shape for name in shapes}, shapes)
    np.testing.assert_array_equal(
      state['stages.1.0.conv2.weight'][7, 5, 2, 1],
      params['NFNet/~/nf_block_1/~/conv1']['w'][2, 1, 5, 7],
    )
    np.testing.assert_array_equal(
      state['head.fc.weight'][9, 4], params['NFNet/~/linear']['w'][4, 9]
    )
    self.assertNotIn('stages.1.2.skipinit_gain', state)

  def test_other_networks_are_refused(self):
    """Timm has F0 to F6, and neither the wider ones nor parts of one."""
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    cut = _params('nfnet_f0')
    del cut['NFNet/~/final_conv']
    for params, message in (
      (_params('nfnet_f0_plus'), 'parameters of nfnet_f0_plus'),
      (_params('nf_resnet50'), 'no parameters of an NFNet'),
      (cut, 'no parameters of an NFNet'),
    ):
      with self.assertRaisesRegex(ValueError, f'{message}.*timm has dm_nfnet_f0 to dm_nfnet_f6'):
        export_to_timm(folder / 'p.safetensors', params)
    self.assertEmpty(list(folder.iterdir()))

  def test_every_variant_that_timm_has(self):
    for size in range(8):
      layout = network_shapes(f'nfnet_f{size}', num_classes=3)
      params = _zeros(layout)
      if size < 7:
        self.assertEqual(timm_name(params), f'dm_nfnet_f{size}')
      else:
        with self.assertRaisesRegex(ValueError, 'parameters of nfnet_f7'):
          timm_name(params)

  def test_values_that_float32_cannot_hold_are_refused(self):
    params = _params('nfnet_f0')
    params['NFNet/~/linear']['b'] = np.full(1000, 1e300)
    with self.assertRaisesRegex(ValueError, "'NFNet/~/linear/b': 1,000 of 1,000 .* infinite"):
      timm_state_dict(params)

  def test_the_file_says_what_it_is(self):
    params = {'NFNet/~/linear': {'w': np.ones((2, 3), np.float32), 'b': np.ones(3, np.float32)}}
    path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / 'f0.safetensors'
    # A whole network would take longer to write, and say no more.
    with absltest.mock.patch.object(timm_export, 'timm_name', return_value='dm_nfnet_f0'):
      export_to_timm(path, params, {'class_names': ['cat', 'dog', 'cow']})
    facts = {'timm_model': 'dm_nfnet_f0', 'num_classes': 3}
    self.assertEqual(read_metadata(path), {'class_names': ['cat', 'dog', 'cow'], **facts})
    with safetensors.safe_open(path, 'numpy') as file:
      self.assertEqual(file.metadata()['format'], 'pt')  # without which PyTorch's readers refuse

  def test_forward_pass_in_timm(self):
    reason = 'needs timm (pip install timm)'
    timm, torch = (pytest.importorskip(name, reason=reason) for name in ('timm', 'torch'))
    path = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory())) / 'f0.safetensors'
    export_to_timm(path, _nfnet_f0())
    model = timm.create_model('dm_nfnet_f0', checkpoint_path=str(path)).eval()
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
      logits = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    want = load_arrays('nfnet_logits.npz')['NFNet_F0_64_logits']
    # timm computes the exact gelu, not the tanh approximation that the networks were trained with:
    # 1.7e-4 at most here, 3e-5 with the approximation put in its place (measured with timm 1.0.31).
    np.testing.assert_allclose(logits, want, atol=5e-4)


if __name__ == '__main__':
  absltest.main()
