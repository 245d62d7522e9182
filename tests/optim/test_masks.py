"""Which parameters have L2 decay."""

import jax
import jax.numpy as jnp

from nfnets_augmult.models import make_model
from nfnets_augmult.optim import masks


def test_only_weights_are_decayed():
  """Of a Wide-ResNet all kernels, and nothing else, are decayed: no bias, no skip gain."""
  model = make_model('wrn_10_1', num_classes=10)
  params = jax.eval_shape(
    lambda: model.init(jax.random.PRNGKey(0), jnp.ones((1, 8, 8, 3)), is_training=True)
  )
  decayed = masks.decayed(params)
  assert jax.tree.structure(decayed) == jax.tree.structure(params)
  names = {module: dict(weights) for module, weights in decayed.items()}
  assert all(
    is_decayed == (name == 'w')
    for weights in names.values()
    for name, is_decayed in weights.items()
  )
  # Stem, two convolutions in each of three blocks, two projections, classifier.
  assert sum(jax.tree.leaves(decayed)) == 1 + 6 + 2 + 1


def test_by_number_of_axes():
  """Scalars and vectors are not decayed, matrices and kernels are, even of a single value."""
  params = [jnp.ones(()), jnp.ones(5), jnp.ones((1, 1)), jnp.ones((3, 3, 2, 4))]
  assert masks.decayed(params) == [False, False, True, True]
