"""What every normalizer-free network ends with: dropout and a linear classifier."""

import haiku as hk
import jax

from nfnets_augmult.models.nf_blocks import ACTIVATIONS, linear


def check_options(
  *, activation: str, dropout_rate: float, stochastic_depth_rate: float, num_classes: int
) -> None:
  """Raises ValueError, with the name and the value, for an option out of its range."""
  if activation not in ACTIVATIONS:
    raise ValueError(f'no activation={activation!r}; there is: {", ".join(ACTIVATIONS)}')
  if num_classes < 1:
    raise ValueError(f'num_classes={num_classes} must be at least 1')
  rates = {'dropout_rate': dropout_rate, 'stochastic_depth_rate': stochastic_depth_rate}
  for name, rate in rates.items():
    if not 0 <= rate < 1:
      raise ValueError(f'{name}={rate} must be in [0, 1)')


def classify(
  params: dict[str, jax.Array], features: jax.Array, *, dropout_rate: float, is_training: bool
) -> jax.Array:
  """Returns logits `[B, K]` of `features` `[B, C]`, under dropout when training."""
  if is_training and dropout_rate > 0:
    features = hk.dropout(hk.next_rng_key(), dropout_rate, features)
  return linear(params, features)
