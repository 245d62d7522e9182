"""Two-dimensional convolution, by the algorithm that is fast on the backend at hand.

The one place that knows how a convolution is computed. Every algorithm gives the same numbers and
gradients up to rounding; they differ only in time.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Algorithm = Callable[[jax.Array, jax.Array, int, int], jax.Array]


def _native(x: jax.Array, w: jax.Array, stride: int, groups: int) -> jax.Array:
  """One XLA convolution, with its feature groups."""
  return jax.lax.conv_general_dilated(
    x,
    w,
    window_strides=(stride, stride),
    padding='SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def _split(x: jax.Array, w: jax.Array, stride: int, groups: int) -> jax.Array:
  """A matrix product for 1x1 kernels, one convolution per group for the others."""
  if w.shape[:2] == (1, 1) and groups == 1:
    return jnp.einsum('bhwi,io->bhwo', x[:, ::stride, ::stride], w[0, 0])
  pieces = [
    _native(x_group, w_group, stride, 1)
    for x_group, w_group in zip(
      jnp.split(x, groups, axis=-1), jnp.split(w, groups, axis=-1), strict=True
    )
  ]
  return pieces[0] if groups == 1 else jnp.concatenate(pieces, axis=-1)


ALGORITHMS: dict[str, Algorithm] = {'native': _native, 'split': _split}

# Measured on CPU only; elsewhere the vendor's grouped convolution is taken, unmeasured.
_FASTEST = {'cpu': 'split'}


def default_algorithm(backend: str | None = None) -> str:
  """Returns the name of the algorithm for `backend`, by default the one JAX runs on."""
  return _FASTEST.get(backend or jax.default_backend(), 'native')


def conv2d(
  x: jax.Array, w: jax.Array, *, stride: int = 1, groups: int = 1, algorithm: str = 'auto'
) -> jax.Array:
  """Returns the convolution of `x` with `w`, padded so that the output is `ceil(size / stride)`.

  Args:
    x: `[B, H, W, I]`.
    w: `[kh, kw, I / groups, O]`, of the dtype of `x`.
    stride: of both axes.
    groups: divides I and O; group g of the outputs sees group g of the inputs only.
    algorithm: a key of `ALGORITHMS`, or `'auto'` for `default_algorithm()`.

  Raises:
    ValueError: unknown algorithm, or shapes that do not fit; the message shows them.
  """
  if algorithm == 'auto':
    algorithm = default_algorithm()
  if algorithm not in ALGORITHMS:
    raise ValueError(
      f'no convolution algorithm {algorithm!r}; there is: auto, {", ".join(ALGORITHMS)}'
    )
  if x.shape[-1] != w.shape[2] * groups or w.shape[3] % groups:
    raise ValueError(f'a kernel {w.shape} in {groups} groups does not fit inputs {x.shape}')
  return ALGORITHMS[algorithm](x, w, stride, groups)
