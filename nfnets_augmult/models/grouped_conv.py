"""Two-dimensional convolution by the algorithm that is fastest on the backend.

All algorithms give the same values and gradients up to rounding; they differ only in time. Which is
fastest was measured, and stands in `conv_algorithms.json` with the device and the numbers.
"""

import functools
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

# Rows above and below, columns left and right.
Pads = tuple[tuple[int, int], tuple[int, int]]
Algorithm = Callable[[jax.Array, jax.Array, int, Pads, int], jax.Array]


def pads_of(image: tuple[int, int], kernel: tuple[int, int], stride: int, padding: str) -> Pads:
  """Returns the zeros around an image of `(H, W)` for an output of `ceil(size / stride)`.

  Args:
    image: height and width.
    kernel: height and width, odd.
    stride: of both axes.
    padding: `'same'`, TensorFlow's: where they are odd in number, one more at the bottom and right.
      `'symmetric'`, PyTorch's: `(kernel - 1) / 2` at the top and left, and at most as many at the
      bottom and right. They differ for strides above 1 and some sizes, as stride 2 and even ones.
  """
  pads = []
  for size, width in zip(image, kernel, strict=True):
    needed = (-(-size // stride) - 1) * stride + width - size
    low = (width - 1) // 2 if padding == 'symmetric' else max(needed, 0) // 2
    pads.append((low, max(needed - low, 0)))
  return pads[0], pads[1]


def _native(x: jax.Array, w: jax.Array, stride: int, pads: Pads, groups: int) -> jax.Array:
  """One XLA convolution, with its feature groups."""
  return jax.lax.conv_general_dilated(
    x,
    w,
    window_strides=(stride, stride),
    padding=pads,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


# Values of the input in a piece of the batch: 2 MiB in float32. Eigen takes about as long for all
# images at once. YNNPACK, where `ops/compiling.py` cannot keep convolutions from it, takes 8 times
# as long for 64 images of 32 x 32 pixels and 64 channels. See docs/step_speed.md.
_PIECE_SIZE = 2**19


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _explicit(x: jax.Array, w: jax.Array, stride: int, pads: Pads) -> jax.Array:
  """The native convolution, ungrouped; its gradient for `w` is summed over pieces of the batch."""
  return _native(x, w, stride, pads, 1)


def _explicit_forward(
  x: jax.Array, w: jax.Array, stride: int, pads: Pads
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  # Not by calling `_explicit`, a custom VJP, which forward-mode differentiation would refuse.
  return _native(x, w, stride, pads, 1), (x, w)


def _explicit_backward(
  stride: int, pads: Pads, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the gradients for `x` and `w`."""
  x, w = saved
  _, pullback = jax.vjp(lambda x: _native(x, w, stride, pads, 1), x)
  of_piece = functools.partial(_weight_gradient, kernel=w.shape[:2], stride=stride, pads=pads)
  piece = max(1, _PIECE_SIZE // math.prod(x.shape[1:]))
  count, rest = divmod(len(x), piece)
  if count + bool(rest) == 1:
    return pullback(cotangent)[0], of_piece(x, cotangent)

  def add(total: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
    return total + of_piece(*pair).astype(jnp.float32), None

  x_pieces, cotangent_pieces = (
    a[: count * piece].reshape(count, piece, *a.shape[1:]) for a in (x, cotangent)
  )
  total = jnp.zeros(w.shape, jnp.float32)
  total, _ = jax.lax.scan(add, total, (x_pieces, cotangent_pieces))
  if rest:
    total, _ = add(total, (x[-rest:], cotangent[-rest:]))
  return pullback(cotangent)[0], total.astype(w.dtype)


def _weight_gradient(
  x: jax.Array, cotangent: jax.Array, *, kernel: tuple[int, int], stride: int, pads: Pads
) -> jax.Array:
  """Returns the gradient for the weight, HWIO: a plain convolution of transposed arrays.

  XLA on CPU transposes the derived gradient by itself, but not within a loop, where it takes 20
  times as long.
  """
  w_pads = []
  for axis, (low, _) in zip((1, 2), pads, strict=True):
    covered = (cotangent.shape[axis] - 1) * stride + kernel[axis - 1]
    # Negative where the last pixels are not read, as with a strided 1x1 kernel.
    w_pads.append((low, covered - x.shape[axis] - low))
  gradient = jax.lax.conv_general_dilated(
    x.transpose(3, 1, 2, 0),  # BHWI -> IHWB, the channels as samples
    cotangent.transpose(1, 2, 0, 3),  # BHWO -> HWBO, as a kernel
    window_strides=(1, 1),
    padding=w_pads,
    rhs_dilation=(stride, stride),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )
  return gradient.transpose(1, 2, 0, 3)  # IHWO -> HWIO


_explicit.defvjp(_explicit_forward, _explicit_backward)


def _by_group(
  convolve: Callable[[jax.Array, jax.Array, int, Pads], jax.Array],
  x: jax.Array,
  w: jax.Array,
  stride: int,
  pads: Pads,
  groups: int,
) -> jax.Array:
  """A matrix product for ungrouped 1x1 kernels, else one `convolve` per group."""
  if w.shape[:2] == (1, 1) and groups == 1:
    return jnp.einsum('bhwi,io->bhwo', x[:, ::stride, ::stride], w[0, 0])
  pieces = [
    convolve(x_group, w_group, stride, pads)
    for x_group, w_group in zip(
      jnp.split(x, groups, axis=-1), jnp.split(w, groups, axis=-1), strict=True
    )
  ]
  return pieces[0] if groups == 1 else jnp.concatenate(pieces, axis=-1)


def _split(x: jax.Array, w: jax.Array, stride: int, pads: Pads, groups: int) -> jax.Array:
  """By group, with the gradients that JAX derives."""
  return _by_group(functools.partial(_native, groups=1), x, w, stride, pads, groups)


def _pieces(x: jax.Array, w: jax.Array, stride: int, pads: Pads, groups: int) -> jax.Array:
  """By group, with the gradient for the weight summed over pieces of the batch."""
  return _by_group(_explicit, x, w, stride, pads, groups)


def _dense(x: jax.Array, w: jax.Array, stride: int, pads: Pads, groups: int) -> jax.Array:
  """One ungrouped convolution, `groups` times the work: a kernel that is zero between groups."""
  height, width, inputs, outputs = w.shape
  by_group = w.reshape(height, width, 1, inputs, groups, outputs // groups)
  is_same_group = jnp.eye(groups, dtype=w.dtype).reshape(groups, 1, groups, 1)
  dense = (by_group * is_same_group).reshape(height, width, groups * inputs, outputs)
  return _native(x, dense, stride, pads, 1)


ALGORITHMS: dict[str, Algorithm] = {
  'native': _native,
  'split': _split,
  'pieces': _pieces,
  'dense': _dense,
}

# By backend: `algorithms` by kind of convolution, see `kind_of`, and `measured`, what chose them.
# launch/measure_accelerator.sh makes an entry.
FASTEST: dict[str, dict[str, Any]] = json.loads(
  pathlib.Path(__file__).with_name('conv_algorithms.json').read_text(encoding='utf-8')
)
KINDS = ('grouped', 'ungrouped', '1x1')


def kind_of(kernel: Sequence[int], groups: int) -> str:
  """Returns which of `KINDS` a convolution with a `kernel` of shape `[kh, kw, ...]` is."""
  if groups > 1:
    return 'grouped'
  return '1x1' if tuple(kernel[:2]) == (1, 1) else 'ungrouped'


def default_algorithm(backend: str | None = None, *, kind: str = 'grouped') -> str:
  """Returns the fastest algorithm, `'native'` where none was measured.

  Args:
    backend: None for JAX's default one.
    kind: one of `KINDS`.
  """
  entry = FASTEST.get(backend or jax.default_backend(), {})
  return entry.get('algorithms', {}).get(kind, 'native')


def conv2d(
  x: jax.Array,
  w: jax.Array,
  *,
  stride: int = 1,
  groups: int = 1,
  algorithm: str = 'auto',
  padding: str = 'same',
) -> jax.Array:
  """Returns the convolution of `x` with `w`, padded so that the output is `ceil(size / stride)`.

  Args:
    x: `[B, H, W, I]`.
    w: `[kh, kw, I / groups, O]`, of the dtype of `x`.
    stride: of both axes.
    groups: divides I and O; group g of the outputs sees group g of the inputs only.
    algorithm: a key of `ALGORITHMS`, or `'auto'` for the `default_algorithm` of its kind.
    padding: see `pads_of`.

  Raises:
    ValueError: unknown algorithm, or shapes that do not match; the message shows them.
  """
  if algorithm == 'auto':
    algorithm = default_algorithm(kind=kind_of(w.shape, groups))
  if algorithm not in ALGORITHMS:
    raise ValueError(
      f'no convolution algorithm {algorithm!r}; there is: auto, {", ".join(ALGORITHMS)}'
    )
  if x.shape[-1] != w.shape[2] * groups or w.shape[3] % groups:
    raise ValueError(f'a kernel {w.shape} in {groups} groups does not fit inputs {x.shape}')
  pads = pads_of(x.shape[1:3], w.shape[:2], stride, padding)
  return ALGORITHMS[algorithm](x, w, stride, pads, groups)
