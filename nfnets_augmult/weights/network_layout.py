"""Recognizes the normalizer-free network that parameters belong to, by their names and shapes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from nfnets_augmult.weights.checks import flatten

Shapes = dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class _Layout:
  """What the shapes of a network follow from.

  Attributes:
    module: name of the network's Haiku module.
    depths: blocks per stage.
    widths: channels of the residual stream, by stage.
    ratio: channels inside a branch over those of the stream.
    group_width: input channels per group of the 3x3 convolutions; 0 for one group.
    squeeze_excite_ratio: hidden width over width, or 0 for none.
    final_width: channels of the last convolution; 0 for none.
    has_skip_gain: whether each block has a SkipInit gain.
  """

  module: str
  depths: tuple[int, ...]
  widths: tuple[int, ...]
  ratio: float = 0.5
  group_width: int = 128
  squeeze_excite_ratio: float = 0.5
  final_width: int = 3072
  has_skip_gain: bool = True


def _nfnet(size: int, **options: Any) -> _Layout:
  depths = tuple(depth * (size + 1) for depth in (1, 2, 6, 3))
  defaults = {'module': 'NFNet', 'widths': (256, 512, 1536, 1536)}
  return _Layout(depths=depths, **{**defaults, **options})


def _nf_resnet(*depths: int, module: str = 'NF_ResNet', has_skip_gain: bool = True) -> _Layout:
  widths = (256, 512, 1024, 2048)
  return _Layout(module, depths, widths, 0.25, 0, 0, 0, has_skip_gain)


_TIMM_NFNET: dict[str, Any] = {'module': 'TimmNFNet', 'has_skip_gain': False}
_TIMM_NF_RESNET: dict[str, Any] = {'module': 'TimmNFResNet', 'has_skip_gain': False}
# Source: Brock et al. 2021b (arXiv:2102.06171), Table 1, the released files, and timm 1.0.31.
_LAYOUTS = {
  **{f'nfnet_f{size}': _nfnet(size) for size in range(8)},
  **{
    f'nfnet_f{size}_plus': _nfnet(size, widths=(384, 768, 2048, 2048), final_width=4096)
    for size in range(8)
  },
  'nf_resnet50': _nf_resnet(3, 4, 6, 3),
  'nf_resnet101': _nf_resnet(3, 4, 23, 3),
  'nf_resnet152': _nf_resnet(3, 8, 36, 3),
  'nf_resnet200': _nf_resnet(3, 24, 36, 3),
  **{f'timm_nfnet_f{size}': _nfnet(size, **_TIMM_NFNET) for size in range(8)},
  'timm_nfnet_l0': _nfnet(
    0, ratio=0.25, group_width=64, squeeze_excite_ratio=0.25, final_width=2304, **_TIMM_NFNET
  ),
  'timm_nf_resnet26': _nf_resnet(2, 2, 2, 2, **_TIMM_NF_RESNET),
  'timm_nf_resnet50': _nf_resnet(3, 4, 6, 3, **_TIMM_NF_RESNET),
  'timm_nf_resnet101': _nf_resnet(3, 4, 23, 3, **_TIMM_NF_RESNET),
}


def network_shapes(name: str, *, num_classes: int) -> Shapes:
  """Returns the shapes of all parameters of a network by name, `module/parameter`.

  Args:
    name: of a model, as `'nfnet_f0'`.
    num_classes: K.
  """
  layout = _LAYOUTS[name]
  shapes: Shapes = {}
  if layout.final_width:
    stem = (3, 16, 32, 64, layout.widths[0] // 2)
    for index in range(4):
      conv = f'{layout.module}/~/stem_conv{index}'
      shapes |= _conv(conv, 3, stem[index], stem[index + 1])
    block_name, channels = 'nf_block', stem[-1]
  else:
    shapes |= _conv(f'{layout.module}/~/initial_conv', 7, 3, 64)
    block_name, channels = 'nf_res_block', 64
  number = 0
  for depth, width in zip(layout.depths, layout.widths, strict=True):
    for index in range(depth):
      block = f'{layout.module}/~/{block_name}' + (f'_{number}' if number else '')
      shapes |= _block(block, layout, channels, width, is_first=index == 0)
      number, channels = number + 1, width
  if layout.final_width:
    shapes |= _conv(f'{layout.module}/~/final_conv', 1, channels, layout.final_width)
  return shapes | _linear(f'{layout.module}/~/linear', layout.final_width or channels, num_classes)


def network_name(params: Mapping[str, Mapping[str, Any]]) -> str | None:
  """Returns the name of the model that has exactly these parameters, as `'nfnet_f0'`, or None.

  The number of classes may be any.
  """
  shapes = {name: tuple(leaf.shape) for name, leaf in flatten(params).items()}
  for name, layout in _LAYOUTS.items():
    bias = shapes.get(f'{layout.module}/~/linear/b', ())
    if len(bias) == 1 and shapes == network_shapes(name, num_classes=bias[0]):
      return name
  return None


def _block(name: str, layout: _Layout, channels: int, width: int, *, is_first: bool) -> Shapes:
  group_width = layout.group_width or int(width * layout.ratio)
  inner = int(width * layout.ratio) // group_width * group_width
  shapes: Shapes = {f'{name}/skip_gain': ()} if layout.has_skip_gain else {}
  shapes |= _conv(f'{name}/~/conv0', 1, channels, inner)
  shapes |= _conv(f'{name}/~/conv1', 3, group_width, inner)
  if layout.final_width:
    shapes |= _conv(f'{name}/~/conv1b', 3, group_width, inner)
  shapes |= _conv(f'{name}/~/conv2', 1, inner, width)
  if is_first:
    shapes |= _conv(f'{name}/~/conv_shortcut', 1, channels, width)
  if hidden := int(width * layout.squeeze_excite_ratio):
    squeeze_excite = f'{name}/~/squeeze_excite/~'
    shapes |= _linear(f'{squeeze_excite}/linear', width, hidden)
    shapes |= _linear(f'{squeeze_excite}/linear_1', hidden, width)
  return shapes


def _conv(name: str, size: int, inputs: int, outputs: int) -> Shapes:
  weight = (size, size, inputs, outputs)
  return {f'{name}/w': weight, f'{name}/bias': (outputs,), f'{name}/gain': (outputs,)}


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
  return {f'{name}/w': (inputs, outputs), f'{name}/b': (outputs,)}
