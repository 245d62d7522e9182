"""Recognizes the NFNet that parameters belong to, by their names and shapes."""

from collections.abc import Mapping
from typing import Any

from nfnets_augmult.weights.param_files import flatten

_BASE_DEPTHS = (1, 2, 6, 3)
_WIDTHS = {'': (256, 512, 1536, 1536), '_plus': (384, 768, 2048, 2048)}
_LARGEST = 7
_GROUP_WIDTH = 128

Shapes = dict[str, tuple[int, ...]]


def nfnet_shapes(size: int, *, suffix: str, num_classes: int) -> Shapes:
  """Returns the shapes of all parameters of `nfnet_f{size}{suffix}` by name, `module/parameter`.

  Args:
    size: the number after the F, 0 to 7.
    suffix: `''` or `'_plus'`.
    num_classes: K.

  Source: Brock et al. 2021b (arXiv:2102.06171), Table 1, and the released files.
  """
  widths = _WIDTHS[suffix]
  stem = (3, 16, 32, 64, widths[0] // 2)
  shapes: Shapes = {}
  for index in range(4):
    shapes |= _conv(f'NFNet/~/stem_conv{index}', 3, stem[index], stem[index + 1])
  block, channels = 0, stem[-1]
  for base_depth, width in zip(_BASE_DEPTHS, widths, strict=True):
    for index in range(base_depth * (size + 1)):
      name = f'NFNet/~/nf_block_{block}' if block else 'NFNet/~/nf_block'
      shapes |= _block(name, channels, width, is_first=index == 0)
      block, channels = block + 1, width
  shapes |= _conv('NFNet/~/final_conv', 1, channels, 2 * channels)
  return shapes | _linear('NFNet/~/linear', 2 * channels, num_classes)


def nfnet_name(params: Mapping[str, Mapping[str, Any]]) -> str | None:
  """Returns the name of the network that has exactly these parameters, as `'nfnet_f0'`, or None.

  The number of classes may be any.
  """
  shapes = {name: tuple(leaf.shape) for name, leaf in flatten(params).items()}
  bias = shapes.get('NFNet/~/linear/b', ())
  for suffix in _WIDTHS:
    for size in range(_LARGEST + 1):
      if len(bias) == 1 and shapes == nfnet_shapes(size, suffix=suffix, num_classes=bias[0]):
        return f'nfnet_f{size}{suffix}'
  return None


def _block(name: str, channels: int, width: int, *, is_first: bool) -> Shapes:
  inner = width // 2 // _GROUP_WIDTH * _GROUP_WIDTH
  squeeze_excite = f'{name}/~/squeeze_excite/~'
  return {
    f'{name}/skip_gain': (),
    **_conv(f'{name}/~/conv0', 1, channels, inner),
    **_conv(f'{name}/~/conv1', 3, _GROUP_WIDTH, inner),
    **_conv(f'{name}/~/conv1b', 3, _GROUP_WIDTH, inner),
    **_conv(f'{name}/~/conv2', 1, inner, width),
    **(_conv(f'{name}/~/conv_shortcut', 1, channels, width) if is_first else {}),
    **_linear(f'{squeeze_excite}/linear', width, width // 2),
    **_linear(f'{squeeze_excite}/linear_1', width // 2, width),
  }


def _conv(name: str, size: int, inputs: int, outputs: int) -> Shapes:
  weight = (size, size, inputs, outputs)
  return {f'{name}/w': weight, f'{name}/bias': (outputs,), f'{name}/gain': (outputs,)}


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
  return {f'{name}/w': (inputs, outputs), f'{name}/b': (outputs,)}
