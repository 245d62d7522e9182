"""Parameters, multiply-adds and image sizes of the models.

`python -m nfnets_augmult.models.table [NAME ...]` prints them for the named models, or for all.
"""

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets_augmult.models import MODEL_NAMES, make_model, model_spec
from nfnets_augmult.ops import console


class Row(NamedTuple):
  """One model; image sizes are in pixels, multiply-adds for one image."""

  name: str
  parameters: int
  train_image_size: int
  train_multiply_adds: int
  test_image_size: int
  test_multiply_adds: int


def inner_jaxprs(equation: Any) -> Iterator[Any]:
  """Yields the jaxprs that an equation calls, as `scan` and `jit` do."""
  for value in equation.params.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      jaxpr = getattr(item, 'jaxpr', item)
      if hasattr(jaxpr, 'eqns'):
        yield jaxpr


def _jaxpr_multiply_adds(jaxpr: Any) -> int:
  """Returns the multiply-adds of all convolutions and matrix products in `jaxpr`."""
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'conv_general_dilated':
      kernel = equation.invars[1].aval.shape
      out_feature_axis = equation.params['dimension_numbers'].rhs_spec[0]
      per_output = math.prod(kernel) // kernel[out_feature_axis]
      total += math.prod(equation.outvars[0].aval.shape) * per_output
    elif equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      left = equation.invars[0].aval.shape
      per_output = math.prod(left[axis] for axis in contracted)
      total += math.prod(equation.outvars[0].aval.shape) * per_output
    else:
      repeats = equation.params['length'] if equation.primitive.name == 'scan' else 1
      total += repeats * sum(_jaxpr_multiply_adds(inner) for inner in inner_jaxprs(equation))
  return total


def count_multiply_adds(function: Callable[..., Any], *arguments: Any) -> int:
  """Returns the multiply-adds of `function(*arguments)`, without running it.

  Counts convolutions, padding included, and matrix products in the jaxpr, and nothing else; FLOPs
  are about twice this. Works for gradients and for `scan`.

  Args:
    function: traced once.
    *arguments: arrays or `jax.ShapeDtypeStruct`s.
  """
  return _jaxpr_multiply_adds(jax.make_jaxpr(function)(*arguments).jaxpr)


def count_parameters(params: Any) -> int:
  """Returns the number of scalars in a tree of arrays or `jax.ShapeDtypeStruct`s."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def abstract_params(model: hk.Transformed, image_size: int) -> Any:
  """Returns shapes and dtypes of the parameters of `model` for RGB images."""
  image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
  return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, is_training=False), image)


def image_multiply_adds(model: hk.Transformed, params: Any, image_size: int) -> int:
  """Returns the multiply-adds of the forward pass of `model` for one RGB image.

  Args:
    model: an image classifier.
    params: arrays or shapes; see `abstract_params`.
    image_size: side of the image in pixels.
  """
  image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
  return count_multiply_adds(
    lambda params, image: model.apply(params, None, image, is_training=False),
    params,
    image,
  )


def model_row(name: str, *, num_classes: int = 1000) -> Row:
  """Returns the table row of the model `name`, counted on the network itself.

  Raises:
    ValueError: no such model.
  """
  spec = model_spec(name)
  model = make_model(name, num_classes=num_classes)
  params = abstract_params(model, spec.train_image_size)
  train, test = (
    image_multiply_adds(model, params, size)
    for size in (spec.train_image_size, spec.test_image_size)
  )
  return Row(
    name=name,
    parameters=count_parameters(params),
    train_image_size=spec.train_image_size,
    train_multiply_adds=train,
    test_image_size=spec.test_image_size,
    test_multiply_adds=test,
  )


def format_row(row: Row) -> str:
  """Returns one line of the table."""
  return (
    f'{row.name:16} {row.parameters:>13,} '
    f'{row.train_image_size:>6} {row.train_multiply_adds / 1e9:>9.2f} G '
    f'{row.test_image_size:>6} {row.test_multiply_adds / 1e9:>9.2f} G'
  )


def main(names: list[str]) -> None:
  """Prints the table of the models `names`, or of all that have a fixed name."""
  try:
    for name in names:
      make_model(name, num_classes=1)
  except ValueError as error:
    raise SystemExit(f'error: {error}') from error
  print(
    f'{"model":16} {"parameters":>13} {"train":>6} {"mult-adds":>11} {"test":>6} {"mult-adds":>11}'
  )
  for name in names or ['wrn_16_4', *(name for name in MODEL_NAMES if '{' not in name)]:
    print(format_row(model_row(name)), flush=True)


if __name__ == '__main__':
  console.prepare()
  console.end_when_nobody_reads()
  main(sys.argv[1:])
