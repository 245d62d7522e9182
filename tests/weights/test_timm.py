"""Files for timm's networks and from them: names, layouts, the same function, and one line else."""

import functools

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from nfnets_augmult.models import make_model
from nfnets_augmult.models.ws_conv import standardize_weight
from nfnets_augmult.weights import timm_networks
from nfnets_augmult.weights.network_layout import network_name, network_shapes
from nfnets_augmult.weights.param_files import flatten, read_metadata, read_params, unflatten
from nfnets_augmult.weights.timm_export import export_to_timm, timm_name, timm_state_dict
from nfnets_augmult.weights.timm_import import from_timm
from nfnets_augmult.weights.timm_networks import TIMM_NAMES
from tests.golden import deterministic_params
from tests.weights import torch_files

pytestmark = pytest.mark.extended

_SMALLEST = 'timm_nf_resnet26'


@functools.cache
def _params(name):
  return deterministic_params(network_shapes(name, num_classes=10))


def _zeros(name, num_classes=3):
  """Zeros that take next to no memory."""
  shapes = network_shapes(name, num_classes=num_classes)
  return unflatten({n: np.broadcast_to(np.float32(0), shape) for n, shape in shapes.items()})


@functools.cache
def _zero_state():
  params = _zeros(_SMALLEST)
  keys = timm_networks.timm_keys(flatten(params))
  return {
    keys[name]: np.zeros(timm_networks.timm_shape(name, leaf.shape), np.float16)
    for name, leaf in flatten(params).items()
  }


def _assert_equal(got, want):
  got, want = flatten(got), flatten(want)
  assert got.keys() == want.keys()
  for name, leaf in want.items():
    np.testing.assert_array_equal(got[name], leaf, err_msg=name)
    assert got[name].dtype == np.float32


def test_names_and_layouts():
  params = _params('nfnet_f0')
  state = timm_state_dict(params)
  assert len(state) == 233
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
    'head.fc.weight': (10, 3072),
    'head.fc.bias': (10,),
  }
  assert {name: state[name].shape for name in shapes} == shapes
  assert 'stages.1.2.skipinit_gain' not in state
  ours = params['NFNet/~/nf_block_1/~/conv1']
  # Filters are multiplied by one power of two, nothing else changes.
  scale = state['stages.1.0.conv2.weight'][0, 0, 0, 0] / ours['w'][0, 0, 0, 0]
  assert np.log2(scale) % 1 == 0
  assert state['stages.1.0.conv2.weight'][7, 5, 2, 1] == scale * ours['w'][2, 1, 5, 7]
  np.testing.assert_array_equal(state['stages.1.0.conv2.gain'][:, 0, 0, 0], ours['gain'])
  assert state['head.fc.weight'][9, 4] == params['NFNet/~/linear']['w'][4, 9]
  assert state['stages.1.0.skipinit_gain'] == params['NFNet/~/nf_block_1']['skip_gain']
  # Largest numbers fit float16, in which PyTorch may compute.
  assert max(np.abs(value).max() for value in state.values()) < 2**12


@pytest.mark.parametrize('norm', [30.0, 1.0, 0.02, 0.005, 1e-5, 1e-12, 0.0])
@pytest.mark.parametrize('filter_scale', [1.0, 1024.0])
def test_gains_make_both_standardizations_equal(norm, filter_scale):
  """For filters of any size; the definition of timm's convolution in float64."""
  rng = np.random.default_rng(0)
  w = rng.standard_normal((3, 3, 8, 5))
  w *= norm / np.sqrt(np.sum((w - w.mean((0, 1, 2))) ** 2, axis=(0, 1, 2)))
  w, gain = w.astype(np.float32), rng.uniform(0.5, 2, 5).astype(np.float32)
  timm_gain = gain * timm_networks.gain_ratio(w, filter_scale)
  timm_w = w.astype(np.float64) * filter_scale
  deviation = timm_w - timm_w.mean((0, 1, 2))
  timm_standardized = deviation / np.sqrt(timm_w.var((0, 1, 2)) + 1e-5) * timm_gain / np.sqrt(72)
  want = standardize_weight(w, gain)
  np.testing.assert_allclose(timm_standardized, want, rtol=1e-4, atol=1e-7 * np.abs(want).max())
  if norm >= 1 and filter_scale > 1:
    np.testing.assert_array_equal(timm_gain.astype(np.float32), gain)


def test_the_file_of_an_export_gives_the_parameters_back(tmp_path):
  params, path = _params(_SMALLEST), tmp_path / 'a.safetensors'
  export_to_timm(path, params, {'class_names': ['cat', 'dog', 'cow']})
  _assert_equal(read_params(path), params)
  metadata = read_metadata(path)
  facts = {'class_names': ['cat', 'dog', 'cow'], 'timm_model': 'nf_resnet26', 'num_classes': 10}
  assert {key: metadata.pop(key) for key in facts} == facts
  assert list(metadata) == ['filter_scale']
  with safetensors.safe_open(path, 'numpy') as file:
    assert file.metadata()['format'] == 'pt'  # without which PyTorch's readers refuse


def test_what_comes_from_timm_goes_back_as_the_same_function(tmp_path):
  """Filters of a file of timm keep their scale, and gains take up its eps: both ways, no change."""
  state = timm_state_dict(_params(_SMALLEST))
  filters = [name for name, value in state.items() if value.ndim == 4 and name.endswith('weight')]
  state |= {name: state[name] / 2**14 for name in filters}
  params = from_timm(state, {})
  np.testing.assert_array_equal(
    params['TimmNFResNet/~/initial_conv']['w'], state['stem.conv.weight'].transpose(2, 3, 1, 0)
  )
  path = tmp_path / 'a.safetensors'
  export_to_timm(path, params)
  _assert_equal(read_params(path), params)
  again = timm_state_dict(params)
  for name in filters:
    gain = name.replace('weight', 'gain')
    for values, which in ((state, 'file'), (again, 'export')):
      w = values[name].astype(np.float64).reshape(len(values[name]), -1)
      deviation = w - w.mean(1, keepdims=True)
      standardized = deviation / np.sqrt(w.var(1, keepdims=True) + 1e-5)
      function = standardized * values[gain].reshape(-1, 1)
      if which == 'file':
        want = function
    np.testing.assert_allclose(function, want, rtol=2e-6, atol=1e-9)
  for name in state.keys() - set(filters) - {name.replace('weight', 'gain') for name in filters}:
    np.testing.assert_array_equal(again[name], state[name])


@pytest.mark.parametrize('kind', ['archive', 'legacy', 'average', 'module'])
def test_files_of_pytorch(tmp_path, kind):
  state = _zero_state() | {'head.fc.bias': np.asarray([1, 2, 3], np.float16)}
  path = tmp_path / 'model.pth.tar'
  if kind == 'legacy':
    data = torch_files.save_legacy(state)
  elif kind == 'average':
    data = torch_files.save(
      state, wrap=lambda dict_: b'}' + torch_files.text('state_dict_ema') + dict_ + b's'
    )
  else:
    prefix = 'module._orig_mod.' if kind == 'module' else ''
    data = torch_files.save({prefix + name: value for name, value in state.items()})
  path.write_bytes(data)
  params = read_params(path)
  assert network_name(params) == _SMALLEST
  np.testing.assert_array_equal(params['TimmNFResNet/~/linear']['b'], [1, 2, 3])
  assert read_metadata(path) == {}


@pytest.mark.parametrize('model', TIMM_NAMES)
def test_every_network_of_timm_is_told_from_the_others(model):
  params = _zeros(model)
  assert timm_name(params) == TIMM_NAMES[model]
  flat = flatten(params)
  keys = timm_networks.timm_keys(flat)
  assert len(set(keys.values())) == len(flat)
  if len(flat) > 400:  # only the names and shapes of the large ones
    return
  state = {
    keys[name]: np.broadcast_to(np.float32(0), timm_networks.timm_shape(name, leaf.shape))
    for name, leaf in flat.items()
  }
  assert network_name(from_timm(state, {})) == model


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('nfnet_f0_plus', 'parameters of nfnet_f0_plus: timm has dm_nfnet_f0 to dm_nfnet_f6'),
    ('nfnet_f7', 'what timm calls nfnet_f7 is another network, here the model timm_nfnet_f7'),
    ('nf_resnet50', 'calls nf_resnet50 is another network, here the model timm_nf_resnet50'),
    ('nf_resnet152', 'parameters of nf_resnet152: timm has dm_nfnet_f0'),
    (None, 'no parameters of an NFNet'),
  ],
)
def test_networks_that_timm_lacks_are_not_exported(tmp_path, name, message):
  params = _zeros(name or 'nfnet_f0')
  if not name:
    del params['NFNet/~/final_conv']
  with pytest.raises(ValueError, match=message) as caught:
    export_to_timm(tmp_path / 'p.safetensors', params)
  assert len(str(caught.value).splitlines()) == 1
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('options', [{'activation': 'silu'}, {'alpha': 0.1}])
def test_networks_with_other_options_are_not_exported(tmp_path, options):
  with pytest.raises(ValueError, match=r"has (activation='silu'|alpha=0\.1), and in timm it has"):
    export_to_timm(tmp_path / 'p.safetensors', _zeros('nfnet_f0'), {'model_options': options})
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      {'stem.conv.weight': (64, 1, 7, 7)},
      r'wrong shape: stem.conv.weight is \(64, 1, 7, 7\) in the',
    ),
    ({'head.fc.weight': None, 'head.fc.bias': None}, 'missing in the file: head.fc.bias, head.fc'),
    (
      {'stages.0.1.conv2.gain': None},
      'nearest is nf_resnet26, but missing .* stages.0.1.conv2.gain',
    ),
    ({'stages.0.1.attn_last.conv.weight': (1, 1, 3)}, 'unexpected .*: stages.0.1.attn_last.conv'),
    ({'module.head.fc.bias': (3,), 'head.fc.bias': None}, 'unexpected in the file: module.head.fc'),
  ],
)
def test_what_is_not_a_network_of_timm_is_refused_in_one_line(change, message):
  state = dict(_zero_state())
  for name, shape in change.items():
    state.pop(name, None)
    if shape:
      state[name] = np.zeros(shape, np.float32)
  with pytest.raises(ValueError, match=message) as caught:
    from_timm(state, {})
  assert len(str(caught.value).splitlines()) == 1
  assert len(str(caught.value)) < 700


def test_values_that_float32_cannot_hold_are_refused():
  params = _zeros(_SMALLEST)
  params['TimmNFResNet/~/linear']['b'] = np.full(3, 1e300)
  with pytest.raises(ValueError, match=r"'TimmNFResNet/~/linear/b': 3 of 3 .* infinite"):
    timm_state_dict(params)
  state = _zero_state() | {'head.fc.bias': np.full(3, 1e300)}
  with pytest.raises(ValueError, match=r"'TimmNFResNet/~/linear/b': 3 of 3 .* infinite"):
    from_timm(state, {})


@pytest.mark.parametrize('scale', ['2', 0, -1.0, float('inf'), None, [1]])
def test_a_scale_of_filters_that_is_none_is_refused(scale):
  with pytest.raises(ValueError, match=r'its filter_scale is .*, not a positive'):
    from_timm(_zero_state(), {'filter_scale': scale})


# Differences of logits over the largest, measured with timm 1.0.31 and PyTorch 2.13 on CPU: 3e-5
# for the published networks, where timm computes the exact gelu, and 1e-6 for all with the same
# activation, which is rounding.
_TOLERANCES = {'nfnet_f0': 5e-4, 'timm_nfnet_l0': 1e-5, 'timm_nf_resnet50': 1e-5}


def _logits_here(model, params, images, **options):
  network = make_model(model, num_classes=10, **options)
  return np.asarray(network.apply(params, None, images.transpose(0, 2, 3, 1), is_training=False))


@pytest.mark.parametrize('model', _TOLERANCES)
@pytest.mark.parametrize('source', ['here', 'timm'])
def test_logits_in_timms_own_network(tmp_path, model, source):
  """Both ways, for images of an even and an odd number of rows."""
  reason = 'needs timm and PyTorch (pip install timm)'
  timm, torch = (pytest.importorskip(name, reason=reason) for name in ('timm', 'torch'))
  if source == 'here':
    path, params = tmp_path / 'p.safetensors', _params(model)
    export_to_timm(path, params)
    network = timm.create_model(TIMM_NAMES[model], checkpoint_path=str(path), num_classes=10)
  else:
    torch.manual_seed(0)
    path = tmp_path / 'p.pth'
    network = timm.create_model(TIMM_NAMES[model], num_classes=10)
    with torch.no_grad():
      for name, value in network.named_parameters():
        if name.endswith(('gain', 'bias')):  # which begin with equal values
          value.uniform_(0.2, 1)
    torch.save(network.state_dict(), path)
    params = read_params(path)
  images = np.random.default_rng(0).standard_normal((2, 3, 96, 65)).astype(np.float32)
  with torch.no_grad():
    want = network.eval()(torch.from_numpy(images)).numpy()
  largest = np.abs(want).max()
  logits = _logits_here(model, params, images)
  np.testing.assert_allclose(logits, want, rtol=0, atol=_TOLERANCES[model] * largest)
  if model == 'nfnet_f0':
    logits = _logits_here(model, params, images, activation='gelu_exact')
    np.testing.assert_allclose(logits, want, rtol=0, atol=1e-5 * largest)
