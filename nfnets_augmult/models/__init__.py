"""Image classifiers by name, each a pair of pure functions `init` and `apply`."""

import inspect
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax

from nfnets_augmult.models.nf_resnet import DEPTHS, TIMM_DEPTHS, NFResNet
from nfnets_augmult.models.nfnet import TIMM_VARIANTS, VARIANTS, NFNet
from nfnets_augmult.models.wide_resnet import WideResNet
from nfnets_augmult.ops.argument_names import renamed
from nfnets_augmult.ops.checks import shown


class ModelSpec(NamedTuple):
  """A model by name: its module, arguments and image sizes.

  Attributes:
    module: the Haiku module.
    arguments: arguments of the module that the name fixes.
    train_image_size: side of the training images in pixels, unless a config says otherwise.
    test_image_size: side of the evaluation images, likewise.
  """

  module: type[hk.Module]
  arguments: Mapping[str, Any]
  train_image_size: int
  test_image_size: int


_NORMALIZER_FREE = {
  f'nfnet_{name}': ModelSpec(
    NFNet,
    {'variant': name, 'family': 'published'},
    variant.train_image_size,
    variant.test_image_size,
  )
  for name, variant in VARIANTS.items()
} | {
  f'nf_resnet{depth}': ModelSpec(NFResNet, {'depth': depth, 'family': 'published'}, 224, 224)
  for depth in DEPTHS
}
# Networks that timm has under the name after `timm_`, and that differ from the published ones.
_TIMM = {
  f'timm_nfnet_{name}': ModelSpec(
    NFNet,
    {'variant': name, 'family': 'timm'}
    | (
      {'activation': 'silu', 'squeeze_excite_ratio': 0.25}
      if name == 'l0'
      else {'activation': 'gelu_exact', 'squeeze_excite_ratio': 0.5}
    ),
    variant.train_image_size,
    variant.test_image_size,
  )
  for name, variant in TIMM_VARIANTS.items()
} | {
  f'timm_nf_resnet{depth}': ModelSpec(
    NFResNet,
    {'depth': depth, 'family': 'timm', 'activation': 'relu', 'squeeze_excite_ratio': 0.0},
    *((256, 288) if depth == 50 else (224, 224)),
  )
  for depth in TIMM_DEPTHS
}

# By name, or by a pattern whose named groups are integer arguments of the module.
MODELS = {
  r'wrn_(?P<depth>\d+)_(?P<width>\d+)': ModelSpec(WideResNet, {}, 32, 32),
  **_NORMALIZER_FREE,
  **_TIMM,
}
MODEL_NAMES = ('wrn_{depth}_{width}, for example wrn_16_4', *_NORMALIZER_FREE, *_TIMM)


def model_spec(name: str) -> ModelSpec:
  """Returns the module, fixed arguments and default image sizes of the model `name`.

  Raises:
    ValueError: no such model; the message lists the models.

  Example:
    >>> from nfnets_augmult import model_spec
    >>> spec = model_spec('nfnet_f0')
    >>> spec.module.__name__, spec.train_image_size, spec.test_image_size
    ('NFNet', 192, 256)
  """
  for pattern, spec in MODELS.items():
    if match := re.fullmatch(pattern, name):
      numbers = {key: int(value) for key, value in match.groupdict().items()}
      return spec._replace(arguments={**spec.arguments, **numbers})
  raise ValueError(f'name={name!r} is no model; there is: {"; ".join(MODEL_NAMES)}')


def make_model(name: str, *, num_classes: int, **options: Any) -> hk.Transformed:
  """Returns the classifier `name` as `hk.Transformed`.

  `init(key, images, is_training=...)` makes the parameters, a dict of dicts of float32 arrays;
  `apply(params, key, images, is_training=...)` gives logits `[B, K]` for normalized images
  `[B, H, W, C]`. The key of `apply` may be None unless training uses dropout or stochastic depth,
  whose draws are a function of the key and of `slot`, int32 `[B]`, the place of each image in the
  whole batch; by default `images` are the whole batch, in order.

  Args:
    name: a name of `MODEL_NAMES`.
    num_classes: K.
    **options: further arguments of the model, for example `dropout_rate`.

  Raises:
    ValueError: no such model, no such option (the message lists them), or a value out of range.

  Example:
    >>> import functools
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from nfnets_augmult import make_model
    >>> model = make_model('wrn_10_1', num_classes=100)
    >>> images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    >>> init = functools.partial(model.init, is_training=True)
    >>> params = jax.eval_shape(init, jax.random.key(0), images)  # init(key, images) makes arrays
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    83559
    >>> apply = functools.partial(model.apply, is_training=False)
    >>> jax.eval_shape(apply, params, None, images).shape
    (2, 100)
  """
  module, fixed, *_ = model_spec(name)
  known = set(inspect.signature(module).parameters) - {*fixed, 'num_classes', 'name'}
  if unknown := set(options) - known:
    option = min(unknown)
    raise ValueError(
      f'{option}={shown(options[option])}: the model {name!r} has no option '
      f'{", ".join(sorted(unknown))}; it has {", ".join(sorted(known))}'
    )

  def make_module() -> Any:
    return module(**fixed, num_classes=num_classes, **options)

  with renamed({argument: f'name={name!r}: {argument}' for argument in fixed}):
    # Checks the arguments: modules check them when constructed, and make no parameters then.
    hk.transform(make_module).init(None)

  def network(images: jax.Array, *, is_training: bool, slot: jax.Array | None = None) -> jax.Array:
    return make_module()(images, is_training=is_training, slot=slot)

  return hk.transform(network)
