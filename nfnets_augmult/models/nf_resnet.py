"""NF-ResNets, the paper's ImageNet networks of Sections 2 and 3."""

import dataclasses

import haiku as hk
import jax
import jax.numpy as jnp

from nfnets_augmult.models.grouped_conv import pads_of
from nfnets_augmult.models.nf_blocks import (
  PADDING,
  BlockShape,
  Linear,
  NFBlock,
  activate,
  gamma_outside,
  with_gain,
)
from nfnets_augmult.models.nf_head import check_options, classify
from nfnets_augmult.models.nf_stages import draw_keep, make_block_specs, run_blocks
from nfnets_augmult.models.random_by_slot import whole_batch
from nfnets_augmult.models.ws_conv import WSConv2D, ws_conv2d
from nfnets_augmult.ops.checks import check_int

# Blocks per stage. Source: He et al. 2016 (arXiv:1512.03385), Table 1, and 2016b for depth 200.
DEPTHS = {
  50: (3, 4, 6, 3),
  101: (3, 4, 23, 3),
  152: (3, 8, 36, 3),
  200: (3, 24, 36, 3),
}
# Those of timm.
TIMM_DEPTHS = {26: (2, 2, 2, 2), 50: DEPTHS[50], 101: DEPTHS[101]}
_STEM_CHANNELS = 64
_BOTTLENECK_CHANNELS = (64, 128, 256, 512)
_STAGE_STRIDES = (1, 2, 2, 2)
_CLASSIFIER_STDDEV = 0.01
_LARGEST_WIDTH = 64


def _stage_shapes(
  depths: tuple[int, ...], width: int, squeeze_excite_ratio: float, family: str
) -> list[list[BlockShape]]:
  """Returns the shapes of the blocks, by stage."""
  stages = []
  in_channels = _STEM_CHANNELS
  for depth, bottleneck, stride in zip(depths, _BOTTLENECK_CHANNELS, _STAGE_STRIDES, strict=True):
    first = BlockShape(
      in_channels=in_channels,
      out_channels=width * bottleneck,
      bottleneck_channels=bottleneck,
      stride=stride,
      groups=1,
      two_convs=False,
      pool_shortcut=family == 'timm',
      squeeze_excite_ratio=squeeze_excite_ratio,
      family=family,
    )
    in_channels = first.out_channels
    rest = dataclasses.replace(first, in_channels=in_channels, stride=1)
    stages.append([first, *[rest] * (depth - 1)])
  return stages


class NFResNet(hk.Module):
  """A pre-activation ResNet without normalization: 7x7, max-pool, four stages, classifier.

  Parameters have the names and shapes of the reference implementation. The input of every block,
  the first included, passes an activation, and so does the output of the last.

  Source: Brock et al. 2021a (arXiv:2101.08692).
  """

  def __init__(
    self,
    *,
    depth: int,
    num_classes: int,
    width: int = 4,
    activation: str = 'relu',
    alpha: float = 0.2,
    squeeze_excite_ratio: float = 0.0,
    dropout_rate: float | None = None,
    stochastic_depth_rate: float = 0.0,
    conv_algorithm: str = 'auto',
    scan_blocks: bool = False,
    remat: bool = False,
    family: str = 'published',
    name: str | None = None,
  ) -> None:
    """Declares the modules, in the order of the reference implementation.

    Args:
      depth: a key of `DEPTHS`, or of `TIMM_DEPTHS` for that family.
      num_classes: K.
      width: channels of the residual stream over those of the branch.
      activation: a key of `ACTIVATIONS`.
      alpha: standard deviation that a block adds to the residual stream.
      squeeze_excite_ratio: hidden width over width of squeeze-excite, or 0 for none.
      dropout_rate: probability that a feature is dropped before the classifier, in [0, 1); None
        for 0.25.
      stochastic_depth_rate: the branch of block i of N, from 0, is dropped for a sample with
        probability `i / N` times this, in [0, 1).
      conv_algorithm: see `conv2d`.
      scan_blocks: whether to compile one body for the equal blocks of a stage; see `run_blocks`.
        Parameters and results are the same either way.
      remat: whether to rematerialize blocks in the backward pass; see `run_blocks`.
      family: one of `FAMILIES`; in timm's, strided shortcuts average before their convolution.
      name: Haiku module name, the first part of every parameter's name; None for that of the
        family, `NF_ResNet` or `TimmNFResNet`.

    Raises:
      ValueError: an argument is out of range.
    """
    super().__init__(name=name or ('TimmNFResNet' if family == 'timm' else 'NF_ResNet'))
    depths = TIMM_DEPTHS if family == 'timm' else DEPTHS
    if depth not in depths:
      raise ValueError(f'no NF-ResNet of depth={depth}; there is: {", ".join(map(str, depths))}')
    dropout_rate = 0.25 if dropout_rate is None else dropout_rate
    check_int('width', width, least=1, most=_LARGEST_WIDTH)
    check_options(
      activation=activation,
      alpha=alpha,
      squeeze_excite_ratio=squeeze_excite_ratio,
      dropout_rate=dropout_rate,
      stochastic_depth_rate=stochastic_depth_rate,
      num_classes=num_classes,
      conv_algorithm=conv_algorithm,
      scan_blocks=scan_blocks,
      remat=remat,
      family=family,
    )
    self._padding = PADDING[family]
    self._gamma = gamma_outside(activation, family)
    self._dropout_rate = dropout_rate
    self._activation = activation
    self._alpha = alpha
    self._conv_algorithm = conv_algorithm
    self._scan_blocks = scan_blocks
    self._remat = remat
    self._initial_conv = WSConv2D(3, _STEM_CHANNELS, 7, name='initial_conv')
    self._block_specs = make_block_specs(
      _stage_shapes(depths[depth], width, squeeze_excite_ratio, family),
      alpha=alpha,
      stochastic_depth_rate=stochastic_depth_rate,
    )
    self._blocks = [NFBlock(block.shape, name='nf_res_block') for block in self._block_specs]
    features = width * _BOTTLENECK_CHANNELS[-1]
    self._classifier = Linear(features, num_classes, stddev=_CLASSIFIER_STDDEV)

  def features(
    self, images: jax.Array, *, is_training: bool, slot: jax.Array | None = None
  ) -> jax.Array:
    """Returns the classifier's input `[B, 512 * width]` of `images` `[B, H, W, 3]`."""
    initial_conv = self._initial_conv.parameters()
    block_params = [block.parameters() for block in self._blocks]
    if hk.running_init():
      # Parameters depend on shapes alone, so initialization need not compile the network.
      return jnp.zeros((len(images), self._block_specs[-1].shape.out_channels), images.dtype)
    x = ws_conv2d(
      with_gain(initial_conv, self._gamma),
      images,
      stride=2,
      algorithm=self._conv_algorithm,
      padding=self._padding,
    )
    pads = ((0, 0), *pads_of(x.shape[1:3], (3, 3), 2, self._padding), (0, 0))
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), pads)
    x = run_blocks(
      x,
      self._block_specs,
      block_params,
      draw_keep(self._block_specs, whole_batch(images, slot), is_training=is_training),
      activation=self._activation,
      alpha=self._alpha,
      conv_algorithm=self._conv_algorithm,
      scan_blocks=self._scan_blocks,
      remat=self._remat,
    )
    means = jnp.mean(activate(x, self._activation), axis=(1, 2))
    return means if self._gamma == 1 else means / self._gamma

  def __call__(
    self, images: jax.Array, *, is_training: bool, slot: jax.Array | None = None
  ) -> jax.Array:
    """Returns logits `[B, K]` of normalized `images` `[B, H, W, 3]`, in their dtype."""
    features = self.features(images, is_training=is_training, slot=slot)
    return classify(
      self._classifier.parameters(),
      features,
      dropout_rate=self._dropout_rate,
      is_training=is_training,
      slot=whole_batch(images, slot),
    )
