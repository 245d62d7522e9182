"""Crop, bicubic scaling, rounding and flip as JAX functions: the results of `resizing.py`.

A box of an image is scaled by two products of matrices, one for its rows and one for its columns,
which accelerators do fastest. Matrices have a column for each pixel of the canvas that the image
lies in; those outside of the box are 0.

Values before rounding differ from those of `resizing.py` by about 1e-4 grey levels, since sums are
in another order; so one pixel in some thousands is rounded to the other side of a half.
"""

import jax
import jax.numpy as jnp
import numpy as np

# TensorFlow's bicubic filter without antialiasing takes distances in steps of 1 / 1024 pixel.
_STEPS = np.float32(1024)


def resize_box(
  canvas: jax.Array,
  box: jax.Array,
  turned: jax.Array,
  flip: jax.Array,
  *,
  size: int,
  antialias: bool = False,
) -> jax.Array:
  """Returns a box of an image, scaled to a square. Map it over boxes with `jax.vmap`.

  Args:
    canvas: uint8 `[H, W, C]`, an image; what is outside of the box does not matter.
    box: int32 `[4]`, in the canvas: top, left, height and width, at least one pixel.
    turned: bool scalar, whether the rows of the canvas are the columns of the image.
    flip: bool scalar, whether the result is mirrored left to right.
    size: S, pixels.
    antialias: whether to widen the bicubic kernel when scaling down.

  Returns:
    uint8 `[S, S, C]`.
  """
  height, width, _ = canvas.shape
  options = {'size': size, 'antialias': antialias}
  for_rows = bicubic_weights(box[0], box[2], canvas_size=height, **options)
  for_columns = bicubic_weights(box[1], box[3], canvas_size=width, **options)
  highest = jax.lax.Precision.HIGHEST
  rows = jnp.einsum('sh,hwc->swc', for_rows, canvas.astype(jnp.float32), precision=highest)
  values = jnp.einsum('tw,swc->stc', for_columns, rows, precision=highest)
  pixels = jnp.clip(values + 0.5, 0, 255.5).astype(jnp.uint8)  # the kernel may overshoot
  pixels = jnp.where(turned, pixels.swapaxes(0, 1), pixels)
  return jnp.where(flip, pixels[:, ::-1], pixels)


def bicubic_weights(
  start: jax.Array, length: jax.Array, *, size: int, canvas_size: int, antialias: bool
) -> jax.Array:
  """Returns the weights of the pixels of a line for those of a part of it, scaled.

  Args:
    start: int32 scalar, first pixel of the part.
    length: int32 scalar, pixels of the part, at least 1.
    size: S, pixels that it is scaled to.
    canvas_size: C, pixels of the line.
    antialias: see `resize_box`.

  Returns:
    float32 `[S, C]`; each row sums to 1.
  """
  scale = length.astype(jnp.float32) / size
  # Not fused with the subtraction, which would round otherwise than on the host.
  centre = jnp.maximum((jnp.arange(size, dtype=jnp.float32) + 0.5) * scale, 0) - 0.5
  if antialias:
    scale = jnp.maximum(scale, 1)
  else:
    whole = jnp.floor(centre)
    centre, scale = whole + jnp.round((centre - whole) * _STEPS) / _STEPS, 1
  place = jnp.arange(canvas_size) - start
  weights = _keys(jnp.abs(place - centre[:, np.newaxis]) / scale)
  weights = jnp.where((place >= 0) & (place < length), weights, 0)
  return weights / jnp.sum(weights, axis=1, keepdims=True)


def _keys(distance: jax.Array) -> jax.Array:
  """The cubic kernel of Keys (1981) with a = -1/2."""
  near = (1.5 * distance - 2.5) * distance**2 + 1
  far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
  return jnp.where(distance < 1, near, jnp.where(distance < 2, far, 0))
