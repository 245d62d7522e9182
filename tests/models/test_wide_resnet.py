"""The Wide-ResNet with SkipInit against a network written out, and its sizes against arithmetic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets_augmult.models import make_model
from nfnets_augmult.models.table import inner_jaxprs
from tests import real_images

# Compiling takes longer than running here, so XLA is asked to do without its optimizations.
_quick_jit = functools.partial(
  jax.jit,
  compiler_options={
    'xla_backend_optimization_level': 0,
    'xla_llvm_disable_expensive_passes': True,
  },
)


def _convolve(x, weights, stride=1):
  kernel, bias = weights['w'], weights['b']
  axes = ('NHWC', 'HWIO', 'NHWC')
  return (
    jax.lax.conv_general_dilated(x, kernel, (stride, stride), 'SAME', dimension_numbers=axes) + bias
  )


def _wrn_10_1_by_hand(params, images, *, with_branches=True):
  """Logits of WRN-10-1: stem, one block per stage, the later two with a projection, classifier."""
  modules = {name.removeprefix('wide_res_net/'): weights for name, weights in params.items()}
  x = _convolve(images, modules['stem'])
  for stage, stride in enumerate((1, 2, 2)):
    name = f'stage_{stage}_block_0'
    activated = jnp.maximum(x, 0)
    shortcut = _convolve(activated, modules[f'{name}/shortcut'], stride) if stage else x
    branch = _convolve(activated, modules[f'{name}/conv_0'], stride)
    branch = _convolve(jnp.maximum(branch, 0), modules[f'{name}/conv_1'])
    x = shortcut + modules[name]['skip_gain'] * branch if with_branches else shortcut
  features = jnp.maximum(x, 0).mean(axis=(1, 2))
  return features @ modules['classifier']['w'] + modules['classifier']['b']


@pytest.fixture(scope='module', name='images')
def _images():
  """Four photographs of 8x8 pixels, normalized."""
  photos = real_images.photos(4, 8, 8).astype(np.float32)
  return jnp.asarray((photos - photos.mean()) / photos.std())


@pytest.fixture(scope='module', name='model')
def _model():
  return make_model('wrn_10_1', num_classes=10)


@pytest.fixture(scope='module', name='params')
def _params(model, images):
  """WRN-10-1 as it is initialised."""
  return _quick_jit(lambda key: model.init(key, images, is_training=True))(jax.random.PRNGKey(0))


def _with(params, suffix, change):
  """The parameters with `change` applied to those whose path ends in `suffix`."""
  return {
    module: {
      name: change(value) if f'{module}/{name}'.endswith(suffix) else value
      for name, value in weights.items()
    }
    for module, weights in params.items()
  }


@pytest.fixture(scope='module', name='trained')
def _trained(params):
  """The same with gains and biases that are not zero, as they are after training."""
  return _with(_with(params, 'skip_gain', lambda gain: gain + 0.7), '/b', lambda b: b + 0.1)


@pytest.mark.parametrize(
  ('name', 'count'),
  [
    # A 3x3 convolution from i to o channels has 9 i o + o parameters, a 1x1 one i o + o.
    # WRN-10-1, one block per stage, 16, 32 and 64 channels:
    #   stem        9*3*16 + 16 = 448
    #   stage 0     2 * (9*16*16 + 16) + 1 = 4,641
    #   stage 1     (16*32 + 32) + (9*16*32 + 32) + (9*32*32 + 32) + 1 = 544 + 4,640 + 9,248 + 1
    #               = 14,433
    #   stage 2     (32*64 + 64) + (9*32*64 + 64) + (9*64*64 + 64) + 1 = 2,112 + 18,496 + 36,928
    #               + 1 = 57,537
    #   classifier  64*100 + 100 = 6,500
    ('wrn_10_1', 448 + 4_641 + 14_433 + 57_537 + 6_500),
    # WRN-16-4, two blocks per stage, 64, 128 and 256 channels:
    #   stem        448
    #   stage 0     (16*64 + 64) + (9*16*64 + 64) + (9*64*64 + 64) + 1 = 1,088 + 9,280 + 36,928 + 1
    #               = 47,297, then 2 * 36,928 + 1 = 73,857
    #   stage 1     (64*128 + 128) + (9*64*128 + 128) + (9*128*128 + 128) + 1 = 8,320 + 73,856
    #               + 147,584 + 1 = 229,761, then 2 * 147,584 + 1 = 295,169
    #   stage 2     (128*256 + 256) + (9*128*256 + 256) + (9*256*256 + 256) + 1 = 33,024 + 295,168
    #               + 590,080 + 1 = 918,273, then 2 * 590,080 + 1 = 1,180,161
    #   classifier  256*100 + 100 = 25,700
    ('wrn_16_4', 448 + 47_297 + 73_857 + 229_761 + 295_169 + 918_273 + 1_180_161 + 25_700),
  ],
)
def test_parameter_count(name, count):
  """The number of parameters with 100 classes is the one worked out by hand."""
  model = make_model(name, num_classes=100)
  images = jnp.ones((1, 32, 32, 3))
  params = jax.eval_shape(
    lambda key: model.init(key, images, is_training=True), jax.random.PRNGKey(0)
  )
  assert sum(param.size for param in jax.tree.leaves(params)) == count


def test_resolution_halves_twice():
  """The second and third stage of WRN-16-2 work at half the resolution of the one before."""
  model = make_model('wrn_16_2', num_classes=5)
  images = jnp.ones((1, 32, 32, 3))
  params = jax.eval_shape(
    lambda key: model.init(key, images, is_training=False), jax.random.PRNGKey(0)
  )
  jaxpr = jax.make_jaxpr(lambda p: model.apply(p, None, images, is_training=False))(params)

  def convolutions(jaxpr):
    for equation in jaxpr.eqns:
      if equation.primitive.name == 'conv_general_dilated':
        yield tuple(equation.outvars[0].aval.shape[1:])
      for inner in inner_jaxprs(equation):
        yield from convolutions(inner)

  shapes = list(convolutions(jaxpr.jaxpr))  # of 3x3 kernels: the 1x1 ones are products
  assert shapes == ([(32, 32, 16)] + [(32, 32, 32)] * 4 + [(16, 16, 64)] * 4 + [(8, 8, 128)] * 4)


def test_equals_the_network_by_hand(model, trained, images):
  """With gains and biases of all kinds the logits are those of the network written out."""
  logits = model.apply(trained, None, images, is_training=False)
  assert logits.shape == (4, 10) and logits.dtype == jnp.float32
  np.testing.assert_allclose(logits, _wrn_10_1_by_hand(trained, images), rtol=1e-4, atol=1e-5)


def test_starts_as_its_shortcuts(model, params, images):
  """Skip gains start at zero: the network is its shortcut path, regardless of the branches."""
  gains = [weights['skip_gain'] for weights in params.values() if 'skip_gain' in weights]
  assert len(gains) == 3
  assert all(gain.shape == () and gain == 0 for gain in gains)
  logits = model.apply(params, None, images, is_training=False)
  shortcuts = _wrn_10_1_by_hand(params, images, with_branches=False)
  np.testing.assert_allclose(logits, shortcuts, rtol=1e-4, atol=1e-5)
  other = _with(_with(params, 'conv_0/w', lambda w: 2 * w + 1), 'conv_1/b', lambda b: b + 3)
  np.testing.assert_array_equal(model.apply(other, None, images, is_training=False), logits)


def test_initialization_is_he(params):
  """Kernels have variance 2 / fan_in and biases are zero; the classifier has Haiku's 1 / fan_in.

  Haiku's default draws from a normal cut off at two deviations and leaves its variance at 0.774.
  """
  for module, weights in params.items():
    if 'b' in weights:
      assert not weights['b'].any()
      fan_in = weights['w'].size / weights['w'].shape[-1]
      scale = 0.774 if module.endswith('classifier') else 2
      # The standard error of a variance of k normal values is sqrt(2 / k).
      tolerance = 4 * np.sqrt(2 / weights['w'].size)
      np.testing.assert_allclose(weights['w'].var() * fan_in / scale, 1, atol=tolerance)


def test_output_does_not_depend_on_the_batch(model, trained, images):
  """Logits of an image are the same alone and in any batch, in training as well."""
  together = model.apply(trained, None, images, is_training=True)
  for index in range(4):
    alone = model.apply(trained, None, images[index : index + 1], is_training=True)
    np.testing.assert_allclose(alone[0], together[index], rtol=1e-4, atol=1e-5)
  assert np.ptp(together, axis=0).min() > 0


@pytest.fixture(scope='module', name='dropout')
def _dropout(trained, images):
  """Features of WRN-10-1 with dropout: its classifier is the identity on the 64 features."""
  model = make_model('wrn_10_1', num_classes=64, dropout_rate=0.25)
  identity = {'w': jnp.eye(64), 'b': jnp.zeros(64)}
  params = trained | {name: identity for name in trained if name.endswith('classifier')}

  def apply(seed, *, is_training):
    key = None if seed is None else jax.random.PRNGKey(seed)
    return np.asarray(model.apply(params, key, images, is_training=is_training))

  return apply


def test_dropout_only_in_training(dropout):
  """Evaluation needs no key and drops nothing; training drops a quarter and scales the rest."""
  features = dropout(None, is_training=False)
  np.testing.assert_array_equal(dropout(1, is_training=False), features)
  assert (features > 0).mean() > 0.5
  shares = []
  for seed in range(8):
    dropped = dropout(seed, is_training=True)
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], features[kept] / 0.75, rtol=1e-4)
    shares.append(kept[features > 0].mean())
  assert abs(np.mean(shares) - 0.75) < 0.05  # of about 1,500 features: standard error 0.011


def test_dropout_follows_its_key(dropout):
  """The same key drops the same features, another key others."""
  first, again, other = (dropout(seed, is_training=True) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert np.any((first != 0) != (other != 0))


def test_no_dropout_needs_no_key(model, trained, images):
  """Without dropout training and evaluation are the same, and training takes no key."""
  training = model.apply(trained, None, images, is_training=True)
  np.testing.assert_array_equal(training, model.apply(trained, None, images, is_training=False))


def test_jit_equals_eager(model, trained, images):
  """The compiled network gives the logits of the eager one."""
  compiled = jax.jit(lambda params, x: model.apply(params, None, x, is_training=False))
  eager = model.apply(trained, None, images, is_training=False)
  np.testing.assert_allclose(compiled(trained, images), eager, rtol=1e-4, atol=1e-5)


def test_gradients(model, params, images):
  """Gradients are finite; gains have one from the start, branches once their gain is not zero."""
  labels = jnp.arange(4)

  @_quick_jit
  def gradient(params):
    def loss(params):
      logits = model.apply(params, None, images, is_training=True)
      return -jax.nn.log_softmax(logits)[jnp.arange(4), labels].mean()

    return jax.grad(loss)(params)

  at_start = gradient(params)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(at_start))
  for module, weights in at_start.items():
    for name, leaf in weights.items():
      is_branch = 'conv_' in module
      assert np.any(leaf != 0) != is_branch, f'{module}/{name}'
  later = gradient(_with(params, 'skip_gain', lambda gain: gain + 0.5))
  assert all(np.isfinite(leaf).all() and np.any(leaf != 0) for leaf in jax.tree.leaves(later))


def test_bfloat16(model, trained, images):
  """Images and parameters in bfloat16 give logits in bfloat16, close to those of float32."""
  half = jax.tree.map(lambda param: param.astype(jnp.bfloat16), trained)
  apply = _quick_jit(lambda params, x: model.apply(params, None, x, is_training=False))
  logits = apply(half, images.astype(jnp.bfloat16))
  assert logits.dtype == jnp.bfloat16
  exact = model.apply(trained, None, images, is_training=False)
  np.testing.assert_allclose(logits.astype(jnp.float32), exact, atol=0.05 * np.abs(exact).max())


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('wrn_12_4', {}, r"name='wrn_12_4': depth=12: .* 6 k \+ 4 layers \(10, 16, "),
    ('wrn_4_4', {}, r"name='wrn_4_4': depth=4: .* 6 k \+ 4 layers"),
    ('wrn_16_0', {}, "^name='wrn_16_0': width=0 must be a whole number from 1"),
    ('wrn_16_4', dict(dropout_rate=1.0), r'^dropout_rate=1.0 must be a number in \[0, 1\)'),
    ('wrn_16_4', dict(dropout_rate=-0.1), r'^dropout_rate=-0.1 must be a number in \[0, 1\)'),
    (
      'wrn_16_4',
      dict(droput_rate=0.1),
      "^droput_rate=0.1: the model 'wrn_16_4' has no option droput_rate; .* dropout_rate$",
    ),
    ('resnet_50', {}, "^name='resnet_50' is no model; there is: .*wrn_{depth}_{width}"),
    ('wrn_16_4_2', {}, "^name='wrn_16_4_2' is no model"),
  ],
)
def test_refuses(name, options, message):
  """Errors of unknown networks, options and values list the known ones."""
  with pytest.raises(ValueError, match=message):
    make_model(name, num_classes=10, **options)
