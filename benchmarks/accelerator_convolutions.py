"""Convolutions of an NFNet one by one, by every algorithm, on an accelerator."""

import collections
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.accelerator_scale import Scale
from benchmarks.device_timing import in_parallel, time_calls
from benchmarks.measured_parts import Parts, one_line
from nfnets_augmult import models
from nfnets_augmult.models import grouped_conv, table
from nfnets_augmult.ops import compiling

# What a second algorithm must gain before it replaces XLA's own convolution.
_WORTH = 0.97


@dataclasses.dataclass(frozen=True)
class Convolution:
  """One convolution of a network: shapes without the batch."""

  size: tuple[int, int]
  kernel: tuple[int, int, int, int]
  stride: int
  groups: int

  @property
  def kind(self) -> str:
    """One of `grouped_conv.KINDS`."""
    return grouped_conv.kind_of(self.kernel, self.groups)

  @property
  def inputs(self) -> int:
    """Channels that it reads."""
    return self.kernel[2] * self.groups

  @property
  def reads_images(self) -> bool:
    """Whether it is the first one, which needs no gradient for what it reads."""
    return self.inputs == 3

  @property
  def multiply_adds(self) -> int:
    """Of the forward pass, for one image."""
    height, width = (-(-size // self.stride) for size in self.size)
    return height * width * math.prod(self.kernel)

  def __str__(self) -> str:
    rows, columns, _, outputs = self.kernel
    groups = f', {self.groups} groups' if self.groups > 1 else ''
    return (
      f'{rows}x{columns}, {self.inputs} to {outputs} channels{groups}, '
      f'{self.size[0]} px, stride {self.stride}'
    )


def network_convolutions(model: str) -> dict[Convolution, int]:
  """Returns the convolutions of an NFNet at its training size, each with how often it is there."""
  size = models.model_spec(model).train_image_size
  network = models.make_model(model, num_classes=10, conv_algorithm='native')
  jaxpr = jax.make_jaxpr(lambda params, x: network.apply(params, None, x, is_training=False))(
    table.abstract_params(network, size), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  )
  return dict(collections.Counter(_convolutions(jaxpr.jaxpr)))


def _convolutions(jaxpr: Any) -> Iterator[Convolution]:
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'conv_general_dilated':
      x, w = (variable.aval.shape for variable in equation.invars)
      yield Convolution(
        x[1:3], w, equation.params['window_strides'][0], equation.params['feature_group_count']
      )
    else:
      for inner in table.inner_jaxprs(equation):
        yield from _convolutions(inner)


# Of one algorithm and one convolution on a GPU, most of which is compilation.
_SECONDS_PER_CONVOLUTION = 4.0
# Algorithms that are one and the same program for a kind are measured once.
DISTINCT = {
  'grouped': ('native', 'split', 'pieces', 'dense'),
  'ungrouped': ('native', 'pieces'),
  '1x1': ('native', 'split'),
}


def _compile_inputs(convolution: Convolution, batch_size: int, dtype: str) -> Any:
  """Returns a compiled function of a key to input, kernel and gradient of the output, random."""
  out = tuple(-(-size // convolution.stride) for size in convolution.size)
  shapes = (
    (batch_size, *convolution.size, convolution.inputs),
    convolution.kernel,
    (batch_size, *out, convolution.kernel[3]),
  )

  def draw(key: jax.Array) -> tuple[jax.Array, ...]:
    keys = jax.random.split(key, len(shapes))
    return tuple(map(lambda key, shape: jax.random.normal(key, shape, dtype), keys, shapes))

  return jax.jit(draw).lower(jax.random.key(0)).compile()


def _compile_convolution(convolution: Convolution, algorithm: str, inputs: Any) -> Any:
  """Returns forward pass and gradients of one convolution by one algorithm, compiled."""
  convolve = functools.partial(
    grouped_conv.conv2d,
    stride=convolution.stride,
    groups=convolution.groups,
    algorithm=algorithm,
  )

  def both(x: jax.Array, w: jax.Array, cotangent: jax.Array) -> Any:
    if convolution.reads_images:
      y, pullback = jax.vjp(lambda w: convolve(x, w), w)
    else:
      y, pullback = jax.vjp(convolve, x, w)
    return y, pullback(cotangent)

  return compiling.jit(both).lower(*inputs).compile()


def convolutions(scale: Scale, kind: str, counts: Mapping[Convolution, int]) -> dict[str, Any]:
  """Times convolutions of the small network by every algorithm.

  Args:
    scale: of the measurement.
    kind: of all of them.
    counts: how often the network has each.

  Returns:
    `network`, `batch_size` and `dtype` as used; `rows`, of each convolution; and `totals`, seconds
    by algorithm, of all in the network.
  """
  batch_size = scale.batch_sizes[0]
  draws = in_parallel(
    {
      str(convolution): functools.partial(_compile_inputs, convolution, batch_size, scale.dtype)
      for convolution in counts
    }
  )
  shapes = {name: draw.out_info for name, draw in draws.items()}
  prepared = in_parallel(
    {
      f'{convolution} {algorithm}': functools.partial(
        _compile_convolution, convolution, algorithm, shapes[str(convolution)]
      )
      for convolution in counts
      for algorithm in DISTINCT[kind]
    }
  )
  rows = []
  for convolution, count in counts.items():
    inputs = draws[str(convolution)](jax.random.key(0))
    times: dict[str, Any] = {}
    for algorithm in DISTINCT[kind]:
      program = prepared.pop(f'{convolution} {algorithm}')
      try:
        if isinstance(program, Exception):
          raise program
        times[algorithm] = time_calls(
          functools.partial(program, *inputs),
          sample_seconds=min(scale.sample_seconds, 0.03),
          most_seconds=1,
        )
      except Exception as error:
        times[algorithm] = {'failed': one_line(error)}
    factor = 2 if convolution.reads_images else 3
    rows.append(
      {
        'what': str(convolution),
        'kind': kind,
        'count': count,
        'flops': 2 * factor * convolution.multiply_adds * batch_size,
        'times': times,
      }
    )
  return {
    'network': scale.networks[0],
    'batch_size': batch_size,
    'dtype': scale.dtype,
    'rows': rows,
    'totals': _totals(rows),
  }


def _of_kind(
  counts: Mapping[Convolution, int], kind: str, most: int | None
) -> dict[Convolution, int]:
  return dict([item for item in counts.items() if item[0].kind == kind][:most])


def _totals(rows: list[dict[str, Any]]) -> dict[str, float]:
  """Returns the seconds of all convolutions of one kind, for algorithms that none failed with."""
  names = {name for row in rows for name in row['times']}
  return {
    name: sum(row['count'] * row['times'][name]['seconds'] for row in rows)
    for name in sorted(names)
    if all('seconds' in row['times'].get(name, {}) for row in rows)
  }


def _fastest(seconds: Mapping[str, float]) -> str:
  """Returns the fastest, XLA's own convolution if no other gains enough."""
  best = min(seconds, key=seconds.__getitem__)
  worth = 'native' not in seconds or seconds[best] < _WORTH * seconds['native']
  return best if worth else 'native'


def measure_convolutions(parts: Parts, scale: Scale) -> None:
  """Measures the convolutions of the small network, a part for each kind."""
  for kind in grouped_conv.KINDS:
    found = _of_kind(network_convolutions(scale.networks[0]), kind, scale.most_convolutions)
    budget = _SECONDS_PER_CONVOLUTION * len(found) * len(DISTINCT[kind]) * scale.budgets
    parts.measure(
      f'convolutions, {kind}', budget, functools.partial(convolutions, scale, kind, found)
    )


def all_convolutions(parts: Parts) -> dict[str, Any] | None:
  """Returns the results of all kinds of convolutions together, or None if there is none.

  `rows`, and `totals` and `algorithms` by kind, of those that were measured.
  """
  results = {kind: parts.result(f'convolutions, {kind}') for kind in grouped_conv.KINDS}
  results = {kind: result for kind, result in results.items() if result}
  if not results:
    return None
  first = next(iter(results.values()))
  return {
    **{key: first[key] for key in ('network', 'batch_size', 'dtype')},
    'rows': [row for result in results.values() for row in result['rows']],
    'totals': {kind: result['totals'] for kind, result in results.items()},
    'algorithms': {
      kind: _fastest(result['totals']) for kind, result in results.items() if result['totals']
    },
  }
