"""Loading into a network: all of it, all but the classifier, or an error that says what differs."""

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from nfnets_augmult.models import make_model
from nfnets_augmult.models.table import abstract_params
from nfnets_augmult.weights.pretrained import compare, load_pretrained


def _network(classes, fill, *, width=2):
  return {
    'Net/~/conv': {'w': jnp.full((1, 1, 3, width), fill), 'gain': jnp.full((width,), fill)},
    'Net/~/se/~/linear': {'w': jnp.full((width, 5), fill)},
    'Net/~/linear': {'w': jnp.full((width, classes), fill), 'b': jnp.full((classes,), fill)},
  }


class LoadPretrainedTest(absltest.TestCase):
  """Which parameters are loaded."""

  def test_same_classes_loads_everything(self):
    params, report = load_pretrained(_network(4, 0.0), _network(4, 1.0))
    for values in params.values():
      for leaf in values.values():
        np.testing.assert_array_equal(leaf, np.ones_like(leaf))
    # 3 * 2 + 2 in the convolution, 2 * 5 in squeeze-excite, 2 * 4 + 4 in the classifier.
    self.assertEqual(str(report), 'loaded 30 parameters in 5 arrays')

  def test_other_classes_keep_the_fresh_classifier(self):
    params, report = load_pretrained(_network(7, 0.0), _network(4, 1.0))
    np.testing.assert_array_equal(params['Net/~/linear']['w'], np.zeros((2, 7)))
    np.testing.assert_array_equal(params['Net/~/linear']['b'], np.zeros(7))
    np.testing.assert_array_equal(params['Net/~/se/~/linear']['w'], np.ones((2, 5)))
    self.assertEqual(
      str(report),
      'loaded 18 parameters in 3 arrays; kept fresh: Net/~/linear/b, Net/~/linear/w',
    )

  def test_dtype_is_that_of_the_network(self):
    loaded = {'n': {'w': np.ones(2, np.float64)}}
    params, _ = load_pretrained({'n': {'w': jnp.zeros(2, jnp.bfloat16)}}, loaded)
    self.assertEqual(params['n']['w'].dtype, jnp.bfloat16)

  def test_mismatch_lists_names(self):
    loaded = _network(4, 1.0)
    loaded['Net/~/extra'] = {'w': jnp.ones(1)}
    del loaded['Net/~/conv']['gain']
    loaded['Net/~/conv']['w'] = jnp.ones((3, 3, 3, 2))
    with self.assertRaises(ValueError) as caught:
      load_pretrained(_network(4, 0.0), loaded)
    self.assertEqual(
      str(caught.exception).splitlines()[1:],
      [
        'missing in the file: Net/~/conv/gain',
        'unexpected in the file: Net/~/extra/w',
        'wrong shape: Net/~/conv/w is (3, 3, 3, 2) in the file, in the network (1, 1, 3, 2)',
      ],
    )

  def test_another_width_is_not_another_number_of_classes(self):
    with self.assertRaisesRegex(ValueError, r'Net/~/linear/w is \(3, 4\)'):
      load_pretrained(_network(4, 0.0), _network(4, 1.0, width=3))

  def test_values_must_be_finite_in_the_network(self):
    wanted = {'n': {'w': jnp.zeros(3, jnp.float32)}}
    for values in ([1e300, 1.0, 2.0], [1.0, np.nan, 2.0]):
      with self.assertRaisesRegex(ValueError, "'n/w': 1 of 3 .* nan or infinite as float32"):
        load_pretrained(wanted, {'n': {'w': np.asarray(values)}})

  def test_message_of_another_network_is_short_and_names_it(self):
    small, large = (abstract_params(make_model(f'nfnet_f{k}', num_classes=10), 32) for k in (0, 1))
    with self.assertRaises(ValueError) as caught:
      load_pretrained(large, small)
    message = str(caught.exception)
    self.assertLess(len(message), 1000)
    self.assertLen(message.splitlines(), 4)
    self.assertIn('of nfnet_f0, do not fit', message)
    self.assertRegex(message, r'missing in the file: NFNet/\S+, \S+, \S+ and \d+ more')

  def test_another_variant_does_not_fit(self):
    small, large = (abstract_params(make_model(f'nfnet_f{k}', num_classes=10), 32) for k in (0, 1))
    mismatch = compare(small, large)
    self.assertIn('NFNet/~/nf_block_12/skip_gain', mismatch.unexpected)
    self.assertFalse(compare(small, small))


if __name__ == '__main__':
  absltest.main()
