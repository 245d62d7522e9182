"""The Wide-ResNet without normalization of the paper's CIFAR experiments (Section 2)."""

import math

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets_augmult.models import initializers
from nfnets_augmult.models.grouped_conv import conv2d
from nfnets_augmult.models.random_by_slot import dropout, whole_batch
from nfnets_augmult.ops.checks import check_int, check_number

# Far beyond practical use; tracing takes time in proportion to the depth.
_LARGEST_DEPTH, _LARGEST_WIDTH = 1000, 256

# He initialization, for layers that feed a relu.
_HE_NORMAL = initializers.Normal(gain=2.0, is_truncated=True)


class _Conv(hk.Module):
  """A convolution with a bias, by the algorithm that is fastest on the backend."""

  def __init__(self, channels: int, *, size: int = 3, stride: int = 1, name: str):
    super().__init__(name=name)
    self._channels = channels
    self._size = size
    self._stride = stride

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, H/stride, W/stride, channels]`."""
    shape = (self._size, self._size, x.shape[-1], self._channels)
    w = hk.get_parameter('w', shape, x.dtype, init=_HE_NORMAL)
    bias = hk.get_parameter('b', shape[-1:], x.dtype, init=jnp.zeros)
    return conv2d(x, w, stride=self._stride) + bias


class SkipInitBlock(hk.Module):
  """A pre-activation residual block, `shortcut(x) + skip_gain * branch(x)`.

  `skip_gain` is a learned scalar that starts at zero, so the block starts as its shortcut.
  A block that changes resolution or width projects the activated input with a 1x1 convolution;
  any other block passes its raw input on.

  Source: De & Smith 2020 (arXiv:2002.10444), SkipInit; Zagoruyko & Komodakis 2016 for the block.
  """

  def __init__(self, channels: int, *, stride: int, name: str | None = None):
    super().__init__(name=name)
    self._channels = channels
    self._stride = stride

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[B, H, W, C]` to `[B, H/stride, W/stride, channels]`."""
    activated = jax.nn.relu(x)
    shortcut = x
    if self._stride > 1 or x.shape[-1] != self._channels:
      project = _Conv(self._channels, size=1, stride=self._stride, name='shortcut')
      shortcut = project(activated)
    branch = _Conv(self._channels, stride=self._stride, name='conv_0')(activated)
    branch = _Conv(self._channels, name='conv_1')(jax.nn.relu(branch))
    skip_gain = hk.get_parameter('skip_gain', (), branch.dtype, init=jnp.zeros)
    return shortcut + skip_gain * branch


class WideResNet(hk.Module):
  """Wide-ResNet-`depth`-`width` with SkipInit in place of batch normalization.

  A 3x3 stem of 16 channels, three stages of `(depth - 4) / 6` blocks with `16, 32, 64` times
  `width` channels, the second and third at half the resolution of the one before, then relu,
  the mean over positions, dropout and a linear classifier. Every convolution has a bias.

  Deviations from Zagoruyko & Komodakis 2016: no normalization anywhere (the paper, Section 2),
  biases to make up for the shifts that batch normalization learned, and dropout, when asked for,
  before the classifier (the paper, Appendix D) rather than inside the blocks.
  """

  def __init__(
    self,
    *,
    depth: int,
    width: int,
    num_classes: int,
    dropout_rate: float | None = None,
    name: str | None = None,
  ):
    """Checks the arguments.

    Args:
      depth: convolutions along the longest path, `6 k + 4`.
      width: multiplies the channels of every stage, at least 1.
      num_classes: K, the size of the output.
      dropout_rate: probability that a feature is dropped before the classifier, in `[0, 1)`; None
        for none.
      name: Haiku module name.

    Raises:
      ValueError: an argument is out of range.
    """
    super().__init__(name=name)
    if not 10 <= depth <= _LARGEST_DEPTH or (depth - 4) % 6:
      raise ValueError(
        f'depth={depth}: a Wide-ResNet has 6 k + 4 layers (10, 16, 22, 28, 40 ... {_LARGEST_DEPTH})'
      )
    check_int('width', width, least=1, most=_LARGEST_WIDTH)
    dropout_rate = 0.0 if dropout_rate is None else dropout_rate
    check_number('dropout_rate', dropout_rate, least=0, below=1)
    self._blocks_per_stage = (depth - 4) // 6
    self._width = width
    self._num_classes = num_classes
    self._dropout_rate = dropout_rate

  def __call__(
    self, images: jax.Array, *, is_training: bool, slot: jax.Array | None = None
  ) -> jax.Array:
    """Returns logits `[B, K]` of normalized `images` `[B, H, W, C]`, in their dtype."""
    x = _Conv(16, name='stem')(images)
    for stage in range(3):
      for block in range(self._blocks_per_stage):
        x = SkipInitBlock(
          16 * 2**stage * self._width,
          stride=2 if stage > 0 and block == 0 else 1,
          name=f'stage_{stage}_block_{block}',
        )(x)
    features = jnp.mean(jax.nn.relu(x), axis=(1, 2))
    if is_training and self._dropout_rate:
      features = dropout(features, self._dropout_rate, whole_batch(images, slot))
    w_init = initializers.Normal(1 / math.sqrt(features.shape[-1]), is_truncated=True)
    return hk.Linear(self._num_classes, w_init=w_init, name='classifier')(features)
