"""Image classifiers by name, each a pair of pure functions `init` and `apply`."""

import inspect
import re
from typing import Any

import haiku as hk
import jax

from nfnets_augmult.models.wide_resnet import WideResNet

# Families: a pattern whose named groups become integer arguments, and the module it makes.
MODELS = {
  r'wrn_(?P<depth>\d+)_(?P<width>\d+)': WideResNet,
}
MODEL_NAMES = ('wrn_{depth}_{width}, for example wrn_16_4',)


def make_model(name: str, *, num_classes: int, **options: Any) -> hk.Transformed:
  """Returns the classifier `name` as `hk.Transformed`.

  `init(key, images, is_training=...)` makes the parameters, a dict of dicts of float32 arrays;
  `apply(params, key, images, is_training=...)` gives logits `[B, K]` for normalized images
  `[B, H, W, C]`.

  Args:
    name: a name of `MODEL_NAMES`.
    num_classes: K.
    **options: further arguments of the model, for example `dropout_rate`.

  Raises:
    ValueError: no such model, no such option (the message lists what there is), or a value that
      the model does not take.
  """
  for pattern, module in MODELS.items():
    if match := re.fullmatch(pattern, name):
      shape = {key: int(value) for key, value in match.groupdict().items()}
      known = set(inspect.signature(module).parameters) - {*shape, 'num_classes', 'name'}
      if unknown := set(options) - known:
        raise ValueError(
          f'model {name!r} has no option {", ".join(sorted(unknown))}; '
          f'it has {", ".join(sorted(known))}'
        )
      arguments = dict(shape, num_classes=num_classes, **options)
      hk.transform(lambda module=module, arguments=arguments: module(**arguments)).init(None)

      def network(
        images: jax.Array, *, is_training: bool, module: Any = module, arguments: Any = arguments
      ) -> jax.Array:
        return module(**arguments)(images, is_training=is_training)

      return hk.transform(network)
  raise ValueError(f'no model named {name!r}; there is: {"; ".join(MODEL_NAMES)}')
