"""RandAugment as a JAX function of one image, the pixels of `randaugment_ops.py`.

Mapped over images, a choice among sixteen operations would compute all of them for every image. So
a layer is five parts that every image passes through, each of which changes only the images that it
is for:

- a table of 256 entries per channel: AutoContrast, Equalize, Invert, Posterize, Solarize,
  SolarizeAdd, Brightness, Contrast;
- a blend with grey or with the smoothed image: Color, Sharpness;
- a gather of pixels: Rotate, ShearX, ShearY, TranslateX, TranslateY;
- a square: Cutout.

The pixels are those of `randaugment_ops.py`, bit for bit, but for two operations of the behaviour
`'reference'`, whose weighted means TensorFlow rounds differently from one machine to another: the
smoothed image of Sharpness, where a mean that should be a whole number may come out 1 lower, and
the grey of Color, where a grey level next to a whole number may. Where compilers fuse products and
sums as oneDNN does, these agree, too.

Compilers may fuse a product and a sum, which rounds once instead of twice. A product that must be
rounded is therefore taken through `minimum` with a bound that it cannot exceed.
"""

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from nfnets_augmult.data import randaugment_geometry
from nfnets_augmult.data.randaugment import FILL, OPERATIONS, Draws, RandAugment
from nfnets_augmult.data.randaugment_geometry import GEOMETRIC

# Sums of grey levels are int32.
_LARGEST_SIDE = 2048

_NUMBER = {name: number for number, name in enumerate(OPERATIONS)}


def make_layers(
  randaugment: RandAugment, *, height: int, width: int
) -> Callable[[jax.Array, Draws], jax.Array]:
  """Returns the function from one image and its row of draws to the image after all layers.

  The function maps uint8 `[H, W, 3]` and `operation` int32 `[L]`, `negate` bool `[L]` and `centre`
  float32 `[L, 2]` to uint8 `[H, W, 3]`. Map it over images with `jax.vmap`.

  Args:
    randaugment: number of layers, magnitude and behaviour.
    height: H, from 3 to 2048 pixels.
    width: W, likewise.

  Raises:
    ValueError: see `check_size`.
  """
  check_size(height, width)
  layer = _make_layer(randaugment, height, width)

  def layers(image: jax.Array, draws: Draws) -> jax.Array:
    return jax.lax.scan(lambda image, drawn: (layer(image, *drawn), None), image, draws)[0]

  return layers


def check_size(height: int, width: int) -> None:
  """Raises ValueError if images of `height` x `width` pixels are too small or too large."""
  if not 3 <= min(height, width) <= max(height, width) <= _LARGEST_SIDE:
    raise ValueError(
      f'RandAugment on the device is for images of 3 to {_LARGEST_SIDE} pixels a side, not for '
      f'{height}x{width}: switch it off with layers=0'
    )


def _make_layer(
  randaugment: RandAugment, height: int, width: int
) -> Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]:
  level, is_pil = randaugment.magnitude / 10, randaugment.behaviour == 'pil'
  factor = level * 1.8 + 0.1
  make_tables = _make_tables(level, factor, is_pil, height * width)
  sources = _source_pixels(randaugment, height, width)
  half_side = int(level * 40)

  def layer(
    image: jax.Array, operation: jax.Array, negate: jax.Array, centre: jax.Array
  ) -> jax.Array:
    tables = make_tables(image, operation)
    image = jnp.stack([tables[c][image[..., c].astype(jnp.int32)] for c in range(3)], axis=-1)
    if factor != 1:
      image = _blend_with_other(image, operation, factor, is_pil)
    image = _sample(image, jnp.asarray(sources)[_row_of_sources(operation, negate)])
    square = _square(centre, half_side, height, width)
    return jnp.where((operation == _NUMBER['Cutout']) & square, jnp.uint8(FILL), image)

  return layer


# The tables.


def _make_tables(
  level: float, factor: float, is_pil: bool, num_pixels: int
) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """Returns the function from image and operation to a table per channel, uint8 `[3, 256]`."""
  values = np.arange(256)
  threshold, bits = int(level * 256), min(max(int(level * 4), 1), 8)
  is_inverted = values >= (threshold if is_pil and threshold > 255 else threshold % 256)
  added = np.where(values < 128, min(int(level * 110), 255), 0)
  grey = min(num_pixels // 256, 255)
  fixed = {
    'Invert': 255 - values,
    'Posterize': values & (256 - 2 ** (8 - bits)),
    'Solarize': np.where(is_inverted, 255 - values, values),
    'SolarizeAdd': np.minimum(values + added, 255),
    'Brightness': _blend_in_numpy(0, factor),
    'Contrast': _blend_in_numpy(grey, factor),
  }
  fixed = np.stack([fixed.get(name, values) for name in OPERATIONS]).astype(np.uint8)
  auto_contrast = _make_auto_contrast(is_pil)

  def tables(image: jax.Array, operation: jax.Array) -> jax.Array:
    counts = _histograms(image)
    chosen = jnp.broadcast_to(jnp.asarray(fixed)[operation], (3, 256))
    made = {'AutoContrast': auto_contrast(counts), 'Equalize': _equalize(counts)}
    if is_pil and factor != 1:
      made['Contrast'] = _contrast_of_pillow(image, factor)
    for name, table in made.items():
      chosen = jnp.where(operation == _NUMBER[name], table, chosen)
    return chosen

  return tables


def _histograms(image: jax.Array) -> jax.Array:
  """How often each value occurs in each channel, int32 `[3, 256]`.

  TPUs are slow at adding to places in memory, and others at products of such thin matrices.
  """
  return jax.lax.platform_dependent(
    image, tpu=_histograms_by_products, default=_histograms_by_scattering
  )


def _histograms_by_scattering(image: jax.Array) -> jax.Array:
  bins = image.reshape(-1, 3).astype(jnp.int32) + jnp.array([0, 256, 512])
  return jnp.zeros(768, jnp.int32).at[bins.ravel()].add(1).reshape(3, 256)


def _histograms_by_products(image: jax.Array) -> jax.Array:
  """The value 16 h + l is counted in row h and column l."""
  pixels = image.reshape(-1, 3).T  # [3, P]
  digits = jnp.arange(16, dtype=jnp.uint8)
  # Zeros and ones are exact in bfloat16, and so are sums up to 2**24 in float32.
  high, low = (
    (digit[..., np.newaxis] == digits).astype(jnp.bfloat16) for digit in (pixels // 16, pixels % 16)
  )
  counts = jnp.einsum('cph,cpl->chl', high, low, preferred_element_type=jnp.float32)
  return counts.reshape(3, 256).astype(jnp.int32)


def _make_auto_contrast(is_pil: bool) -> Callable[[jax.Array], jax.Array]:
  """Returns the function from histograms to tables that stretch each channel to 0 ... 255.

  What the host computes in floating point is computed in whole numbers, and then corrected by 1
  where it is known to have been rounded to the other side.
  """
  keys, corrections = _auto_contrast_corrections(np.float64 if is_pil else np.float32)

  def tables(counts: jax.Array) -> jax.Array:
    value = jnp.arange(256)
    low = jnp.argmax(counts > 0, axis=1, keepdims=True)
    high = 255 - jnp.argmax(counts[:, ::-1] > 0, axis=1, keepdims=True)
    stretched = 255 * (value - low) // jnp.maximum(high - low, 1)
    key = (low * 256 + high) * 256 + value
    place = jnp.minimum(jnp.searchsorted(jnp.asarray(keys), key), len(keys) - 1)
    stretched += jnp.where(jnp.asarray(keys)[place] == key, jnp.asarray(corrections)[place], 0)
    return jnp.where(high > low, jnp.clip(stretched, 0, 255), value).astype(jnp.uint8)

  return tables


def _auto_contrast_corrections(dtype: type) -> tuple[np.ndarray, np.ndarray]:
  """The (low, high, value) that `dtype` takes elsewhere, as sorted numbers, and by how much."""
  keys, corrections = [], []
  value = np.arange(256)
  for low in range(255):
    high = np.arange(low + 1, 256)[:, np.newaxis]
    scale = dtype(255) / (high - low).astype(dtype)
    rounded = value.astype(dtype) * scale + dtype(-low) * scale
    correction = np.clip(rounded, 0, 255).astype(int) - np.clip(
      255 * (value - low) // (high - low), 0, 255
    )
    is_used = (value >= low) & (value <= high) & (correction != 0)
    keys.append((((low * 256 + high) * 256) + value)[is_used])
    corrections.append(correction[is_used])
  return tuple(np.concatenate(parts).astype(np.int32) for parts in (keys, corrections))


def _equalize(counts: jax.Array) -> jax.Array:
  """Tables that spread the values of each channel evenly."""
  below = jnp.cumsum(counts, axis=1) - counts
  step = jnp.max(jnp.where(counts > 0, below, 0), axis=1, keepdims=True) // 255
  table = jnp.minimum((below + step // 2) // jnp.maximum(step, 1), 255)
  return jnp.where(step > 0, table, jnp.arange(256)).astype(jnp.uint8)


def _contrast_of_pillow(image: jax.Array, factor: float) -> jax.Array:
  """The table that blends with the mean grey, rounded; `[256]`."""
  grey = _grey(image, is_pil=True)
  mean = (jnp.sum(grey) + grey.size // 2) // grey.size
  return _blend(mean.astype(jnp.float32), jnp.arange(256, dtype=jnp.float32), factor)


# The blends.


def _blend_with_other(
  image: jax.Array, operation: jax.Array, factor: float, is_pil: bool
) -> jax.Array:
  """Color and Sharpness; with any other operation the image is blended with itself."""
  values = image.astype(jnp.int32)
  other = jnp.where(operation == _NUMBER['Color'], _grey(image, is_pil)[..., np.newaxis], values)
  other = jnp.where(operation == _NUMBER['Sharpness'], _smooth(values, is_pil), other)
  return _blend(other.astype(jnp.float32), values.astype(jnp.float32), factor)


def _grey(image: jax.Array, is_pil: bool) -> jax.Array:
  """Grey levels, int32 `[H, W]`."""
  if is_pil:
    red, green, blue = jnp.moveaxis(image.astype(jnp.int32), -1, 0)
    return (19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16
  red, green, blue = (
    jnp.minimum(jnp.minimum(channel * np.float32(1 / 255), 1) * np.float32(weight), 1)
    for channel, weight in zip(
      jnp.moveaxis(image.astype(jnp.float32), -1, 0), (0.2989, 0.5870, 0.1140), strict=True
    )
  )
  return ((red + green + blue) * np.float32(255.5)).astype(jnp.int32)


def _smooth(values: jax.Array, is_pil: bool) -> jax.Array:
  """Means of 3 x 3 pixels, of which the middle one counts five times; the border stays."""
  height, width, _ = values.shape
  mean = 0
  for row, column in itertools.product(range(3), repeat=2):
    weight = 5 if row == column == 1 else 1
    pixels = values[row : height - 2 + row, column : width - 2 + column]
    # In the order of the convolution on the host, which fuses product and sum, as compilers do.
    mean += pixels * weight if is_pil else pixels.astype(jnp.float32) * np.float32(weight / 13)
  mean = (2 * mean + 13) // 26 if is_pil else mean.astype(jnp.int32)
  return values.at[1:-1, 1:-1].set(mean)


def _blend(other: jax.Array, values: jax.Array, factor: float) -> jax.Array:
  """From `other` at factor 0 to `values` at 1 and beyond; whole float32 numbers to uint8."""
  factor = np.float32(factor)
  change = jnp.minimum(factor * (values - other), factor * 255)
  return jnp.clip(other + change, 0, 255).astype(jnp.uint8)


def _blend_in_numpy(other: int, factor: float) -> np.ndarray:
  """The table of the values 0 ... 255."""
  values = np.arange(256, dtype=np.float32)
  if factor == 1:
    return values
  other = np.float32(other)
  return np.trunc(np.clip(other + np.float32(factor) * (values - other), 0, 255))


# Pixels from elsewhere, and the square.


def _source_pixels(randaugment: RandAugment, height: int, width: int) -> np.ndarray:
  """Where pixels come from, int32 `[11, H W]`: where they are, then two signs per operation."""
  stay = np.arange(height * width, dtype=np.int32)[np.newaxis]
  moved = [
    randaugment_geometry.source_pixels(
      name, randaugment.magnitude, randaugment.behaviour, height, width
    ).reshape(2, -1)
    for name in GEOMETRIC
  ]
  return np.concatenate([stay, *moved])


def _row_of_sources(operation: jax.Array, negate: jax.Array) -> jax.Array:
  first_rows = np.zeros(len(OPERATIONS), np.int32)
  for number, name in enumerate(GEOMETRIC):
    first_rows[_NUMBER[name]] = 1 + 2 * number
  first = jnp.asarray(first_rows)[operation]
  return jnp.where(first > 0, first + negate, 0)


def _sample(image: jax.Array, source: jax.Array) -> jax.Array:
  """The image's pixels with the numbers `source`, int32 `[H W]`; the one after the last is 128."""
  filling = jnp.full((1, 3), FILL, jnp.uint8)
  pixels = jnp.concatenate([image.reshape(-1, 3), filling])
  return pixels[source].reshape(image.shape)


def _square(centre: jax.Array, half_side: int, height: int, width: int) -> jax.Array:
  """Where the square of Cutout is, bool `[H, W, 1]`."""
  size = jnp.array([height, width])
  middle = (centre * size.astype(jnp.float32)).astype(jnp.int32)
  start, stop = middle - half_side, jnp.minimum(middle + half_side, size)
  row, column = jnp.arange(height)[:, np.newaxis], jnp.arange(width)
  inside = (row >= start[0]) & (row < stop[0]) & (column >= start[1]) & (column < stop[1])
  return inside[..., np.newaxis]
