"""NFNets, the normalizer-free networks of the paper's best ImageNet results (Section 5)."""

import dataclasses
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

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

_BASE_DEPTHS = (1, 2, 6, 3)
_WIDTHS = (256, 512, 1536, 1536)
_PLUS_WIDTHS = (384, 768, 2048, 2048)
_STAGE_STRIDES = (1, 2, 2, 2)
_STEM_STRIDES = (2, 1, 1, 2)
_CLASSIFIER_STDDEV = 0.01


class Variant(NamedTuple):
  """One of F0 to F7 or L0; image sizes are in pixels."""

  depths: tuple[int, ...]
  widths: tuple[int, ...]
  dropout_rate: float
  train_image_size: int
  test_image_size: int
  group_width: int = 128
  bottleneck_ratio: float = 0.5
  final_conv_ratio: float = 2


_DROPOUT_RATES = (0.2, 0.3, 0.4, 0.4, 0.5, 0.5, 0.5, 0.5)
_TRAIN_IMAGE_SIZES = (192, 224, 256, 320, 384, 416, 448, 480)
_TEST_IMAGE_SIZES = (256, 320, 352, 416, 512, 544, 576, 608)

# F0 to F7, and the wider F0+ to F7+.
# Source: Brock et al. 2021b (arXiv:2102.06171), Tables 1 and 2 and the released variants.
VARIANTS = {
  f'f{k}{suffix}': Variant(tuple(depth * (k + 1) for depth in _BASE_DEPTHS), widths, *row)
  for suffix, widths in (('', _WIDTHS), ('_plus', _PLUS_WIDTHS))
  for k, row in enumerate(zip(_DROPOUT_RATES, _TRAIN_IMAGE_SIZES, _TEST_IMAGE_SIZES, strict=True))
}
# Those of timm: F0 to F7, and its smaller L0, which has a silu and a squeeze-excite ratio of 1/4.
TIMM_VARIANTS = {name: variant for name, variant in VARIANTS.items() if 'plus' not in name} | {
  'l0': VARIANTS['f0']._replace(
    train_image_size=224,
    test_image_size=288,
    group_width=64,
    bottleneck_ratio=0.25,
    final_conv_ratio=1.5,
  )
}


def _stage_shapes(
  variant: Variant, squeeze_excite_ratio: float, family: str
) -> list[list[BlockShape]]:
  """Returns the shapes of the blocks, by stage."""
  stages = []
  in_channels = variant.widths[0] // 2
  for depth, width, stride in zip(variant.depths, variant.widths, _STAGE_STRIDES, strict=True):
    groups = int(width * variant.bottleneck_ratio) // variant.group_width
    first = BlockShape(
      in_channels=in_channels,
      out_channels=width,
      bottleneck_channels=groups * variant.group_width,
      stride=stride,
      groups=groups,
      two_convs=True,
      pool_shortcut=True,
      squeeze_excite_ratio=squeeze_excite_ratio,
      family=family,
    )
    in_channels = width
    rest = dataclasses.replace(first, in_channels=width, stride=1)
    stages.append([first, *[rest] * (depth - 1)])
  return stages


class NFNet(hk.Module):
  """An NFNet: four 3x3 convolutions, four stages of residual blocks, 1x1, mean, classifier.

  Parameters have the names and shapes of the released files. The last convolution reads the raw
  residual stream, and the activation follows it.

  Deviations from the released code: none in numbers; stochastic depth is off with a rate of 0
  rather than None, and the default rate is the 0.25 of the NFNet recipe rather than 0.1.

  Source: Brock et al. 2021b (arXiv:2102.06171), Section 5.
  """

  def __init__(
    self,
    *,
    variant: str,
    num_classes: int,
    activation: str = 'gelu',
    alpha: float = 0.2,
    squeeze_excite_ratio: float = 0.5,
    dropout_rate: float | None = None,
    stochastic_depth_rate: float = 0.25,
    conv_algorithm: str = 'auto',
    scan_blocks: bool = False,
    remat: bool = False,
    family: str = 'published',
    name: str | None = None,
  ) -> None:
    """Declares the modules, in the order of the released files.

    Args:
      variant: a key of `VARIANTS`, or of `TIMM_VARIANTS` for that family.
      num_classes: K.
      activation: a key of `ACTIVATIONS`.
      alpha: standard deviation that a block adds to the residual stream.
      squeeze_excite_ratio: hidden width over width of squeeze-excite, or 0 for none.
      dropout_rate: probability that a feature is dropped before the classifier, in [0, 1); None
        takes the variant's.
      stochastic_depth_rate: the branch of block i of N, from 0, is dropped for a sample with
        probability `i / N` times this, in [0, 1).
      conv_algorithm: see `conv2d`.
      scan_blocks: whether to compile one body for the equal blocks of a stage; see `run_blocks`.
        Parameters and results are the same either way.
      remat: whether to rematerialize blocks in the backward pass; see `run_blocks`.
      family: one of `FAMILIES`.
      name: Haiku module name, the first part of every parameter's name; None for that of the
        family, `NFNet` or `TimmNFNet`.

    Raises:
      ValueError: an argument is out of range.
    """
    super().__init__(name=name or ('TimmNFNet' if family == 'timm' else 'NFNet'))
    variants = TIMM_VARIANTS if family == 'timm' else VARIANTS
    if variant not in variants:
      raise ValueError(f'no NFNet variant {variant!r}; there is: {", ".join(variants)}')
    spec = variants[variant]
    self._dropout_rate = spec.dropout_rate if dropout_rate is None else dropout_rate
    check_options(
      activation=activation,
      alpha=alpha,
      squeeze_excite_ratio=squeeze_excite_ratio,
      dropout_rate=self._dropout_rate,
      stochastic_depth_rate=stochastic_depth_rate,
      num_classes=num_classes,
      conv_algorithm=conv_algorithm,
      scan_blocks=scan_blocks,
      remat=remat,
      family=family,
    )
    self._padding = PADDING[family]
    self._gamma = gamma_outside(activation, family)
    self._activation = activation
    self._alpha = alpha
    self._conv_algorithm = conv_algorithm
    self._scan_blocks = scan_blocks
    self._remat = remat
    stem_channels = (3, 16, 32, 64, spec.widths[0] // 2)
    self._stem = [
      WSConv2D(stem_channels[i], stem_channels[i + 1], 3, name=f'stem_conv{i}') for i in range(4)
    ]
    self._block_specs = make_block_specs(
      _stage_shapes(spec, squeeze_excite_ratio, family),
      alpha=alpha,
      stochastic_depth_rate=stochastic_depth_rate,
    )
    self._blocks = [NFBlock(block.shape, name='nf_block') for block in self._block_specs]
    final_channels = int(spec.final_conv_ratio * spec.widths[-1])
    self._final_conv = WSConv2D(spec.widths[-1], final_channels, 1, name='final_conv')
    self._classifier = Linear(final_channels, num_classes, stddev=_CLASSIFIER_STDDEV)

  def features(
    self, images: jax.Array, *, is_training: bool, slot: jax.Array | None = None
  ) -> jax.Array:
    """Returns the classifier's input `[B, C]` of `images` `[B, H, W, 3]`."""
    stem = [conv.parameters() for conv in self._stem]
    block_params = [block.parameters() for block in self._blocks]
    final_conv = self._final_conv.parameters()
    if hk.running_init():
      # Parameters depend on shapes alone, so initialization need not compile the network.
      return jnp.zeros((len(images), final_conv['w'].shape[-1]), images.dtype)
    stem[0] = with_gain(stem[0], self._gamma)
    x = images
    for index, (params, stride) in enumerate(zip(stem, _STEM_STRIDES, strict=True)):
      if index > 0:
        x = activate(x, self._activation)
      x = ws_conv2d(params, x, stride=stride, algorithm=self._conv_algorithm, padding=self._padding)
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
    x = ws_conv2d(with_gain(final_conv, self._gamma), x, algorithm=self._conv_algorithm)
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
