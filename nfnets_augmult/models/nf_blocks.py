"""The residual block of normalizer-free networks and its pieces."""

import dataclasses
import math
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np

from nfnets_augmult.models import initializers
from nfnets_augmult.models.ws_conv import WSConv2D, ws_conv2d

# Whose network it is: as published, or as timm (PyTorch Image Models) has it, with zeros around
# images on both sides, no SkipInit gain (the gain of the last convolution starts at zero instead),
# and gamma in every convolution rather than in the activations.
FAMILIES = ('published', 'timm')
PADDING = {'published': 'same', 'timm': 'symmetric'}

# Each nonlinearity and the gamma that restores unit variance to its output on normal inputs, as
# the released networks were trained with them (their 32-bit estimates, not closed forms).
ACTIVATIONS = {
  'gelu': (lambda x: jax.nn.gelu(x, approximate=True), 1.7015043497085571),
  'relu': (jax.nn.relu, 1.7139588594436646),
  'silu': (jax.nn.silu, 1.7881293296813965),
  'gelu_exact': (lambda x: jax.nn.gelu(x, approximate=False), 1.7015043497085571),
}


def activate(x: jax.Array, activation: str) -> jax.Array:
  """Returns the nonlinearity `activation` of `x`, scaled to keep unit variance."""
  nonlinearity, gamma = ACTIVATIONS[activation]
  return nonlinearity(x) * gamma


def gamma_outside(activation: str, family: str) -> float:
  """Returns gamma for timm's networks, otherwise 1.

  With gamma in every convolution and none in the activations, the results are the same but for
  three places: timm's first convolution, which follows no activation, and its last, where none
  does, have a gain larger by gamma, and the features lack it.
  """
  return ACTIVATIONS[activation][1] if family == 'timm' else 1.0


def with_gain(params: dict[str, jax.Array], factor: float) -> dict[str, jax.Array]:
  """Returns the parameters of a convolution with `factor` times the gain."""
  return params if factor == 1 else {**params, 'gain': params['gain'] * factor}


def average_pool(x: jax.Array, window: int) -> jax.Array:
  """Returns means of `window` x `window` tiles of `x` `[B, H, W, C]`.

  Where `window` does not divide a size, the tiles at the bottom and right are smaller and their
  means are over fewer pixels.
  """
  batch, height, width, channels = x.shape
  rows, columns = -(-height // window), -(-width // window)
  if (rows * window, columns * window) != (height, width):
    x = jnp.pad(x, ((0, 0), (0, rows * window - height), (0, columns * window - width), (0, 0)))
  sums = jnp.sum(x.reshape(batch, rows, window, columns, window, channels), axis=(2, 4))
  tile_heights = np.minimum(window, height - window * np.arange(rows))
  tile_widths = np.minimum(window, width - window * np.arange(columns))
  return sums * jnp.asarray(1 / np.outer(tile_heights, tile_widths)[:, :, None], x.dtype)


class Linear(hk.Module):
  """Declares the parameters of one `linear`."""

  def __init__(
    self,
    in_features: int,
    out_features: int,
    *,
    stddev: float | None = None,
    name: str | None = None,
  ) -> None:
    """Weights are normal of `stddev`, by default truncated normal of `1 / sqrt(in_features)`."""
    super().__init__(name=name)
    self._shape = (in_features, out_features)
    if stddev is None:
      self._w_init = initializers.Normal(1 / math.sqrt(in_features), is_truncated=True)
    else:
      self._w_init = initializers.Normal(stddev)

  def parameters(self) -> dict[str, jax.Array]:
    """Returns `w` (IO) and `b` (zeros), made in float32."""
    return {
      'w': hk.get_parameter('w', self._shape, jnp.float32, init=self._w_init),
      'b': hk.get_parameter('b', self._shape[1:], jnp.float32, init=jnp.zeros),
    }


def linear(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
  """Returns `x @ w + b` in the dtype of `x`."""
  return x @ params['w'].astype(x.dtype) + params['b'].astype(x.dtype)


class SqueezeExcite(hk.Module):
  """Declares the parameters of one `squeeze_excite`."""

  def __init__(self, channels: int, *, ratio: float, name: str | None = None) -> None:
    super().__init__(name=name)
    hidden = max(1, int(channels * ratio))
    self._squeeze = Linear(channels, hidden)
    self._excite = Linear(hidden, channels)

  def parameters(self) -> dict[str, Any]:
    """Returns the parameters of both linear maps, named as in the released files."""
    return {'linear': self._squeeze.parameters(), 'linear_1': self._excite.parameters()}


def squeeze_excite(params: dict[str, Any], x: jax.Array) -> jax.Array:
  """Returns gates in (0, 1), `[B, 1, 1, C]`, from the spatial means of `x` `[B, H, W, C]`.

  The nonlinearity is a plain relu, not the network's scaled activation.
  """
  means = jnp.mean(x, axis=(1, 2))
  hidden = jax.nn.relu(linear(params['linear'], means))
  return jax.nn.sigmoid(linear(params['linear_1'], hidden))[:, None, None, :]


@dataclasses.dataclass(frozen=True)
class BlockShape:
  """The architecture of one residual block.

  Blocks of equal shape have parameters of equal shapes and can share one compiled body.

  Attributes:
    in_channels: width of the residual stream before the block.
    out_channels: width of the residual stream after it.
    bottleneck_channels: width inside the branch.
    stride: of the first 3x3 convolution and of the shortcut.
    groups: of the 3x3 convolutions.
    two_convs: whether the branch has a second 3x3 convolution.
    pool_shortcut: whether a strided shortcut averages first instead of striding its convolution.
    squeeze_excite_ratio: hidden width over width, or 0 for none.
    family: one of `FAMILIES`.
  """

  in_channels: int
  out_channels: int
  bottleneck_channels: int
  stride: int
  groups: int
  two_convs: bool
  pool_shortcut: bool
  squeeze_excite_ratio: float
  family: str = 'published'

  @property
  def has_projection(self) -> bool:
    """Whether the shortcut is a convolution, not the raw input."""
    return self.stride > 1 or self.in_channels != self.out_channels


class NFBlock(hk.Module):
  """Declares the parameters of one `nf_block`, under the names of the released files."""

  def __init__(self, shape: BlockShape, *, name: str) -> None:
    super().__init__(name=name)
    width, groups = shape.bottleneck_channels, shape.groups
    self._parts: dict[str, WSConv2D | SqueezeExcite] = {}
    if shape.has_projection:
      self._parts['conv_shortcut'] = WSConv2D(
        shape.in_channels, shape.out_channels, 1, name='conv_shortcut'
      )
    self._parts['conv0'] = WSConv2D(shape.in_channels, width, 1, name='conv0')
    self._parts['conv1'] = WSConv2D(width, width, 3, groups=groups, name='conv1')
    if shape.two_convs:
      self._parts['conv1b'] = WSConv2D(width, width, 3, groups=groups, name='conv1b')
    self._has_skip_gain = shape.family == 'published'
    self._parts['conv2'] = WSConv2D(
      width, shape.out_channels, 1, gain=float(self._has_skip_gain), name='conv2'
    )
    if shape.squeeze_excite_ratio:
      self._parts['squeeze_excite'] = SqueezeExcite(
        shape.out_channels, ratio=shape.squeeze_excite_ratio
      )

  def parameters(self) -> dict[str, Any]:
    """Returns the nested parameters of the block, `skip_gain` starting at zero (SkipInit)."""
    params = {name: part.parameters() for name, part in self._parts.items()}
    if self._has_skip_gain:
      params['skip_gain'] = hk.get_parameter('skip_gain', (), jnp.float32, init=jnp.zeros)
    return params


def nf_block(
  params: dict[str, Any],
  x: jax.Array,
  *,
  shape: BlockShape,
  activation: str,
  alpha: float,
  beta: float | jax.Array,
  keep: jax.Array | None = None,
  conv_algorithm: str = 'auto',
) -> jax.Array:
  """Returns `shortcut + alpha * skip_gain * branch`, in the dtype of `x`; see also `FAMILIES`.

  The branch is 1x1, 3x3 (twice with `two_convs`) and 1x1 convolutions, each after an activation,
  then squeeze-excite gates, doubled because a gate is near one half at initialization.

  Args:
    params: as `NFBlock(shape).parameters()` gives them.
    x: the residual stream `[B, H, W, in_channels]`.
    shape: of the block.
    activation: a key of `ACTIVATIONS`.
    alpha: standard deviation that a block adds to the stream.
    beta: one over the expected standard deviation of `x`.
    keep: stochastic depth, bool `[B]`: where false the sample's branch counts as zero. Branches
      that stay are not scaled up.
    conv_algorithm: see `conv2d`.
  """

  def conv(name: str, inputs: jax.Array, *, stride: int = 1, groups: int = 1) -> jax.Array:
    return ws_conv2d(
      params[name],
      inputs,
      stride=stride,
      groups=groups,
      algorithm=conv_algorithm,
      padding=PADDING[shape.family],
    )

  inner = activate(x, activation) * jnp.asarray(beta, x.dtype)
  shortcut = x
  if shape.has_projection:
    if shape.pool_shortcut and shape.stride > 1:
      shortcut = conv('conv_shortcut', average_pool(inner, shape.stride))
    else:
      shortcut = conv('conv_shortcut', inner, stride=shape.stride)
  branch = conv('conv0', inner)
  branch = conv('conv1', activate(branch, activation), stride=shape.stride, groups=shape.groups)
  if shape.two_convs:
    branch = conv('conv1b', activate(branch, activation), groups=shape.groups)
  branch = conv('conv2', activate(branch, activation))
  if shape.squeeze_excite_ratio:
    branch = 2 * squeeze_excite(params['squeeze_excite'], branch) * branch
  if keep is not None:
    # `where` and not a product, so that a NaN in a dropped branch does not propagate.
    branch = jnp.where(keep[:, None, None, None], branch, 0)
  if 'skip_gain' in params:
    alpha = alpha * params['skip_gain'].astype(x.dtype)
  return shortcut + alpha * branch
