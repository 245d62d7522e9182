"""The classifier of normalizer-free networks, and the checks of their options."""

import jax

from nfnets_augmult.models.grouped_conv import ALGORITHMS
from nfnets_augmult.models.nf_blocks import ACTIVATIONS, FAMILIES, linear
from nfnets_augmult.models.random_by_slot import dropout
from nfnets_augmult.ops.checks import check_bool, check_choice, check_int, check_number

_SMALLEST_RATIO, _LARGEST_RATIO = 0.001, 16


def check_options(
  *,
  activation: str,
  alpha: float,
  squeeze_excite_ratio: float,
  dropout_rate: float,
  stochastic_depth_rate: float,
  num_classes: int,
  conv_algorithm: str,
  scan_blocks: bool,
  remat: bool,
  family: str,
) -> None:
  """Raises ValueError, with name and value, for an option out of range."""
  check_choice('activation', activation, ACTIVATIONS)
  check_int('num_classes', num_classes, least=1)
  check_number('dropout_rate', dropout_rate, least=0, below=1)
  check_number('stochastic_depth_rate', stochastic_depth_rate, least=0, below=1)
  check_number('alpha', alpha, above=0)
  check_number('squeeze_excite_ratio', squeeze_excite_ratio, least=0, most=_LARGEST_RATIO)
  if squeeze_excite_ratio and squeeze_excite_ratio < _SMALLEST_RATIO:
    raise ValueError(
      f'squeeze_excite_ratio={squeeze_excite_ratio} must be 0, for none, or at least '
      f'{_SMALLEST_RATIO}'
    )
  check_choice('conv_algorithm', conv_algorithm, ('auto', *ALGORITHMS))
  check_bool('scan_blocks', scan_blocks)
  check_bool('remat', remat)
  check_choice('family', family, FAMILIES)


def classify(
  params: dict[str, jax.Array],
  features: jax.Array,
  *,
  dropout_rate: float,
  is_training: bool,
  slot: jax.Array,
) -> jax.Array:
  """Returns logits `[B, K]` of `features` `[B, C]`, under dropout when training."""
  if is_training and dropout_rate > 0:
    features = dropout(features, dropout_rate, slot)
  return linear(params, features)
