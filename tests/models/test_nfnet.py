"""NFNets and NF-ResNets against the published networks, and the properties of their blocks."""

import dataclasses
import functools

import chex
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from nfnets_augmult.models import MODEL_NAMES, make_model, model_spec
from nfnets_augmult.models.nf_blocks import (
  ACTIVATIONS,
  BlockShape,
  NFBlock,
  activate,
  average_pool,
  nf_block,
)
from nfnets_augmult.models.nf_stages import draw_keep, make_block_specs, run_blocks
from nfnets_augmult.models.nfnet import NFNet
from nfnets_augmult.models.table import (
  abstract_params,
  count_multiply_adds,
  count_parameters,
  model_row,
)
from tests.golden import deterministic_params, load_arrays, load_json

# Name in the reference files, our name, and the tolerance their README gives.
GOLDEN = (('NFNet_F0', 'nfnet_f0', 1e-5), ('NF_ResNet50', 'nf_resnet50', 3e-5))

# Millions of parameters. Source: Brock et al. 2021b, Table 6 (F0 to F6); exact totals for the
# first and the last of them come with the issue.
PARAMETERS = {
  'nfnet_f0': 71_489_284,
  'nfnet_f1': 132.6,
  'nfnet_f2': 193.8,
  'nfnet_f3': 254.9,
  'nfnet_f4': 316.1,
  'nfnet_f5': 377.2,
  'nfnet_f6': 438_359_116,
}
SIZES = (
  (192, 256),
  (224, 320),
  (256, 352),
  (320, 416),
  (384, 512),
  (416, 544),
  (448, 576),
  (480, 608),
)


def _shapes(params):
  return {f'{m}/{n}': list(p.shape) for m, module in params.items() for n, p in module.items()}


@functools.cache
def _layout(name):
  return _shapes(abstract_params(make_model(name, num_classes=1000), 64))


def _images(size=64):
  return np.random.default_rng(0).standard_normal((2, size, size, 3)).astype(np.float32)


def _features_and_logits(name, **options):
  spec = model_spec(name)

  def network(images):
    module = spec.module(**spec.arguments, num_classes=1000, **options)
    features = module.features(images, is_training=False, slot=None)
    return features, module(images, is_training=False)

  return hk.transform(network)


class GoldenTest(parameterized.TestCase):
  """Against the reference files."""

  @parameterized.parameters(*GOLDEN)
  def test_names_and_shapes(self, reference, name, _):
    layout = load_json('nfnet_layout.json')[reference]
    self.assertEqual(_layout(name), layout['params'])
    self.assertEqual(sum(int(np.prod(s)) for s in _layout(name).values()), layout['total_params'])

  @parameterized.parameters(*GOLDEN)
  def test_deterministic_parameters_are_the_reference_ones(self, reference, *_):
    """The comparison of logits relies on it."""
    layout = load_json('nfnet_layout.json')[reference]
    params = deterministic_params(layout['params'])
    for full_name, values in layout['check_first_values'].items():
      module, _, param = full_name.rpartition('/')
      np.testing.assert_allclose(params[module][param].ravel()[:3], values, rtol=1e-6)

  @parameterized.parameters(*GOLDEN)
  def test_features_and_logits(self, reference, name, atol):
    layout, arrays = load_json('nfnet_layout.json'), load_arrays('nfnet_logits.npz')
    params = deterministic_params(layout[reference]['params'])
    features, logits = jax.jit(_features_and_logits(name).apply)(params, None, _images())
    tolerance = {'rtol': 1e-4, 'atol': atol}
    np.testing.assert_allclose(features, arrays[f'{reference}_64_pool'], **tolerance)
    np.testing.assert_allclose(logits, arrays[f'{reference}_64_logits'], **tolerance)


class FamilyTest(parameterized.TestCase):
  """All variants, by shape only."""

  @parameterized.parameters(*PARAMETERS.items())
  def test_parameter_counts(self, name, published):
    count = count_parameters(abstract_params(make_model(name, num_classes=1000), 64))
    if isinstance(published, int):
      self.assertEqual(count, published)
    else:
      self.assertAlmostEqual(count / 1e6, published, delta=0.05)

  def test_multiply_adds_at_test_resolution(self):
    """Source: Brock et al. 2021b, Table 6, in units of 1e9."""
    self._assert_multiply_adds('nfnet_f0', 12.38)

  @parameterized.parameters(('nfnet_f2', 62.59), ('nfnet_f6', 377.28))
  @pytest.mark.extended
  def test_multiply_adds_of_larger_ones(self, name, published):
    self._assert_multiply_adds(name, published)

  def _assert_multiply_adds(self, name, published):
    self.assertAlmostEqual(model_row(name).test_multiply_adds / 1e9, published, delta=0.005)

  @parameterized.parameters('', '_plus')
  def test_resolutions_and_dropout(self, suffix):
    dropout_rates = (0.2, 0.3, 0.4, 0.4, 0.5, 0.5, 0.5, 0.5)
    for k, (sizes, rate) in enumerate(zip(SIZES, dropout_rates, strict=True)):
      spec = model_spec(f'nfnet_f{k}{suffix}')
      self.assertEqual((spec.train_image_size, spec.test_image_size), sizes)
      made = hk.transform(lambda spec=spec: NFNet(**spec.arguments, num_classes=2)._dropout_rate)
      self.assertEqual(made.apply({}, None), rate)

  def test_plus_is_wider(self):
    layout = _layout('nfnet_f1_plus')
    self.assertEqual(layout['NFNet/~/stem_conv3/w'], [3, 3, 64, 192])
    self.assertEqual(layout['NFNet/~/nf_block/~/conv1/w'], [3, 3, 128, 128])
    self.assertEqual(layout['NFNet/~/nf_block_23/~/conv1b/w'], [3, 3, 128, 1024])
    self.assertEqual(layout['NFNet/~/final_conv/w'], [1, 1, 2048, 4096])
    self.assertNotIn('NFNet/~/nf_block_24/skip_gain', layout)

  @parameterized.parameters((50, 16), (101, 33), (152, 50), (200, 66))
  def test_nf_resnet_depths(self, depth, blocks):
    names = {name.split('/')[2] for name in _layout(f'nf_resnet{depth}') if 'nf_res_block' in name}
    self.assertLen(names, blocks)

  def test_errors_list_the_choices(self):
    with self.assertRaisesRegex(ValueError, 'nfnet_f9.*nfnet_f0; .*nf_resnet200'):
      make_model('nfnet_f9', num_classes=10)
    with self.assertRaisesRegex(ValueError, 'no option depth; it has activation, alpha'):
      make_model('nfnet_f0', num_classes=10, depth=3)
    with self.assertRaisesRegex(ValueError, 'stochastic_depth_rate=1.5'):
      abstract_params(make_model('nfnet_f0', num_classes=10, stochastic_depth_rate=1.5), 32)
    with self.assertRaisesRegex(ValueError, "activation='swish'.*gelu, relu, silu"):
      abstract_params(make_model('nf_resnet50', num_classes=10, activation='swish'), 32)
    self.assertIn('nf_resnet152', MODEL_NAMES)

  def test_classifier_is_small_and_skip_gains_are_zero(self):
    model = make_model('nf_resnet50', num_classes=100)

    # Compiles for what is returned only; drawing all kernels would take most of a test's time.
    @jax.jit
    def some_params(key):
      params = model.init(key, _images(32), is_training=False)
      gains = [module['skip_gain'] for module in params.values() if 'skip_gain' in module]
      return params['NF_ResNet/~/linear']['w'], gains

    w, gains = some_params(jax.random.key(0))
    self.assertAlmostEqual(float(jnp.std(w)), 0.01, delta=2e-4)
    self.assertLen(gains, 16)
    np.testing.assert_array_equal(jnp.stack(gains), np.zeros(16))


class PiecesTest(parameterized.TestCase):
  """The building blocks of the networks."""

  @parameterized.parameters(*ACTIVATIONS)
  def test_activations_keep_unit_variance(self, activation):
    # A grid of normal quantiles in place of samples: the integral to 4 digits.
    quantiles = jax.scipy.stats.norm.ppf((jnp.arange(200_000) + 0.5) / 200_000)
    self.assertAlmostEqual(float(jnp.var(activate(quantiles, activation))), 1.0, delta=2e-3)

  def test_gelu_is_the_tanh_approximation(self):
    # 0.5 * (1 + tanh(sqrt(2 / pi) * (1 + 0.044715))) = 0.841191990..., exactly 0.841344746 by erf.
    got = float(activate(jnp.asarray(1.0), 'gelu')) / 1.7015043497085571
    self.assertAlmostEqual(got, 0.841191990, delta=1e-6)

  def test_the_exact_gelu_is_another(self):
    got = float(activate(jnp.asarray(1.0), 'gelu_exact')) / 1.7015043497085571
    self.assertAlmostEqual(got, 0.841344746, delta=1e-7)

  def test_average_pool_worked_by_hand(self):
    # 3 x 3 into tiles of 2 x 2: means of the last row and column are over fewer pixels.
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    np.testing.assert_allclose(average_pool(x, 2)[0, :, :, 0], [[2.0, 3.5], [6.5, 8.0]])

  @parameterized.parameters(4, 5, 7)
  def test_average_pool_equals_haiku(self, size):
    x = jnp.asarray(_images(size))
    want = hk.avg_pool(x, (1, 2, 2, 1), (1, 2, 2, 1), 'SAME')
    np.testing.assert_allclose(average_pool(x, 2), want, rtol=1e-5, atol=1e-6)

  def test_block_specs_worked_by_hand(self):
    shape = BlockShape(8, 8, 4, 1, 1, True, True, 0.5)
    specs = make_block_specs([[shape] * 2, [shape] * 3], alpha=0.2, stochastic_depth_rate=0.25)
    # The first block of a stage resets the variance of the stream to 1 + 0.04.
    variances = [1.0, 1.04, 1.08, 1.04, 1.08]
    np.testing.assert_allclose([spec.beta**-2 for spec in specs], variances, rtol=1e-6)
    np.testing.assert_allclose([spec.drop_rate for spec in specs], [0, 0.05, 0.1, 0.15, 0.2])

  def test_stochastic_depth_is_per_sample_and_not_rescaled(self):
    shape = BlockShape(8, 8, 4, 1, 1, True, True, 0.5)
    block = hk.transform(lambda: NFBlock(shape, name='nf_block').parameters())
    shapes = _shapes(jax.eval_shape(block.init, jax.random.key(0)))
    params = _unflatten(deterministic_params(shapes))
    x = jnp.asarray(np.random.default_rng(1).standard_normal((3, 6, 6, 8)), jnp.float32)
    run = jax.jit(
      lambda keep=None: nf_block(
        params, x, shape=shape, activation='gelu', alpha=0.2, beta=1.0, keep=keep
      )
    )
    kept, dropped = run(), run(keep=jnp.asarray([True, False, True]))
    np.testing.assert_array_equal(dropped[1], x[1])
    np.testing.assert_allclose(dropped[::2], kept[::2], rtol=1e-5, atol=1e-6)
    assert not np.allclose(kept[1], x[1])

  def test_scan_and_remat_change_no_result(self):
    """With masks, of which the first is None, and a transition in the middle."""
    self._assert_result_of((True, True))

  @pytest.mark.extended
  def test_scan_alone_and_remat_alone_change_no_result(self):
    self._assert_result_of((True, False), (False, True))

  def _assert_result_of(self, *options):
    first = BlockShape(8, 8, 4, 1, 2, True, True, 0.5)
    transition = dataclasses.replace(first, out_channels=12, stride=2)
    last = dataclasses.replace(first, in_channels=12, out_channels=12)
    specs = make_block_specs(
      [[first] * 2, [transition, last, last]], alpha=0.2, stochastic_depth_rate=0.5
    )
    blocks = hk.transform(lambda: [NFBlock(spec.shape, name='b').parameters() for spec in specs])
    names = _shapes(jax.eval_shape(blocks.init, jax.random.key(0)))
    params = blocks.apply(deterministic_params(names), None)
    keep = [None, *(np.random.default_rng(0).random((4, 4)) < 0.6)]
    x = jnp.asarray(np.random.default_rng(1).standard_normal((4, 6, 6, 8)), jnp.float32)

    @functools.partial(jax.jit, static_argnums=(2, 3))
    def value_and_gradients(x, params, scan_blocks, remat):
      def total(x, params):
        y = run_blocks(
          x,
          specs,
          params,
          keep,
          activation='gelu',
          alpha=0.2,
          conv_algorithm='native',
          scan_blocks=scan_blocks,
          remat=remat,
        )
        return jnp.sum(jnp.sin(y)), y

      return jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(x, params)

    want = value_and_gradients(x, params, False, False)
    for scan_blocks, remat in options:
      got = value_and_gradients(x, params, scan_blocks, remat)
      chex.assert_trees_all_close(got, want, rtol=1e-4, atol=1e-4)

  def test_draws_keys_only_for_blocks_that_can_be_dropped(self):
    shape = BlockShape(8, 8, 4, 1, 1, True, True, 0.5)
    specs = make_block_specs([[shape] * 4], alpha=0.2, stochastic_depth_rate=0.25)

    def masks(is_training):
      return hk.transform(
        lambda: draw_keep(specs, jnp.arange(10_000), is_training=is_training)
      ).apply

    self.assertEqual(masks(False)({}, None), [None] * 4)
    first, *others = masks(True)({}, jax.random.key(0))
    self.assertIsNone(first)
    for index, keep in enumerate(others, start=1):
      self.assertAlmostEqual(float(jnp.mean(keep)), 1 - 0.25 * index / 4, delta=0.015)

  def test_multiply_adds_worked_by_hand(self):
    # (2 x 3) by (3 x 5) is 30; five times in a scan.
    def repeated(a, b):
      return jax.lax.scan(lambda carry, _: (carry + jnp.sum(a @ b), None), 0.0, length=5)[0]

    a, b = jnp.ones((2, 3)), jnp.ones((3, 5))
    self.assertEqual(count_multiply_adds(jnp.matmul, a, b), 30)
    self.assertEqual(count_multiply_adds(jax.jit(repeated), a, b), 150)


def _unflatten(params):
  """Nests Haiku's flat parameters of one block as its `parameters` method does."""
  nested = {}
  for module, values in params.items():
    node = nested
    for part in [part for part in module.split('/')[1:] if part != '~']:
      node = node.setdefault(part, {})
    node.update(values)
  return nested


class TrainingTest(parameterized.TestCase):
  """On a narrow network made of the same pieces: NF-ResNet50 at 32 pixels."""

  def _loss(self, **options):
    model = make_model('nf_resnet50', num_classes=7, width=1, **options)
    images = jnp.asarray(_images(32))
    params = deterministic_params(_shapes(abstract_params(model, 32)))

    def loss(params, key, images=images):
      logits = model.apply(params, key, images, is_training=True)
      return jnp.mean(jnp.square(logits.astype(jnp.float32) - 1)), logits

    return params, loss

  def test_gradients_are_finite_and_reach_every_parameter(self):
    params, loss = self._loss(dropout_rate=0.0)
    gradients = jax.jit(jax.grad(loss, has_aux=True))(params, None)[0]
    chex.assert_tree_all_finite(gradients)
    for name, module in gradients.items():
      for param, gradient in module.items():
        assert np.any(gradient != 0), f'{name}/{param}'

  def test_scanned_program_does_not_grow_with_depth(self):
    def equations(depth, **options):
      model = make_model(f'nf_resnet{depth}', num_classes=7, width=1, dropout_rate=0.0, **options)
      params = abstract_params(model, 32)
      run = jax.make_jaxpr(lambda params, x: model.apply(params, None, x, is_training=False))
      return sum(str(run(params, _images(32))).count(op) for op in ('conv_general', 'dot_general'))

    self.assertEqual(equations(50, scan_blocks=True), equations(152, scan_blocks=True))
    self.assertGreater(equations(152), 2.5 * equations(50))

  def test_names_do_not_depend_on_how_blocks_run(self):
    options = {'scan_blocks': True, 'remat': True}
    params = abstract_params(make_model('nfnet_f1', num_classes=1000, **options), 32)
    self.assertEqual(_shapes(params), _layout('nfnet_f1'))

  @parameterized.parameters('nfnet_f0', 'nf_resnet50')
  def test_remat_reaches_every_block(self, name):
    def checkpoints(**options):
      model = make_model(name, num_classes=7, **options)
      run = jax.make_jaxpr(lambda params, x: model.apply(params, None, x, is_training=False))
      return str(run(abstract_params(model, 32), _images(32))).count('remat2[')

    self.assertEqual(checkpoints(), 0)
    self.assertEqual(checkpoints(remat=True), {'nfnet_f0': 12, 'nf_resnet50': 16}[name])

  def test_key_is_needed_only_for_dropout_or_stochastic_depth(self):
    params, loss = self._loss(dropout_rate=0.0)
    jax.eval_shape(loss, params, None)
    for options in ({'dropout_rate': 0.5}, {'dropout_rate': 0.0, 'stochastic_depth_rate': 0.1}):
      with self.assertRaisesRegex(ValueError, 'PRNG|RNG'):
        jax.eval_shape(
          lambda params, options=options: self._loss(**options)[1](params, None), params
        )

  def test_bfloat16_compute_stays_in_bfloat16_and_near_float32(self):
    params, loss = self._loss(dropout_rate=0.0)
    loss = jax.jit(loss)
    wide = loss(params, None)[1]
    narrow = loss(
      jax.tree.map(lambda p: p.astype(jnp.bfloat16), params),
      None,
      jnp.asarray(_images(32), jnp.bfloat16),
    )[1]
    chex.assert_type(narrow, jnp.bfloat16)
    np.testing.assert_allclose(narrow.astype(jnp.float32), wide, atol=0.02, rtol=0.1)


if __name__ == '__main__':
  absltest.main()
