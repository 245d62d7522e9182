"""The SkipInit Wide-ResNet of the paper in PyTorch, for speed: timm has none.

The layers of `nfnets_augmult.models.wide_resnet`, written as one would in PyTorch.
"""

import torch
from torch import nn


class Block(nn.Module):
  """`shortcut(x) + skip_gain * branch(x)`, of pre-activations."""

  def __init__(self, inputs: int, outputs: int, stride: int):
    super().__init__()
    self.conv_0 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
    self.conv_1 = nn.Conv2d(outputs, outputs, 3, padding=1)
    self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride) if inputs != outputs else None
    self.skipinit_gain = nn.Parameter(torch.zeros(()))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Maps `[B, C, H, W]` to `[B, outputs, H/stride, W/stride]`."""
    activated = torch.relu(x)
    shortcut = x if self.shortcut is None else self.shortcut(activated)
    branch = self.conv_1(torch.relu(self.conv_0(activated)))
    return shortcut + self.skipinit_gain * branch


class WideResNet(nn.Module):
  """Three stages of `(depth - 4) / 6` blocks between a stem of 16 channels and a classifier."""

  def __init__(self, depth: int, width: int, classes: int):
    super().__init__()
    self.stem = nn.Conv2d(3, 16, 3, padding=1)
    blocks, inputs = [], 16
    for stage in range(3):
      outputs = 16 * 2**stage * width
      for block in range((depth - 4) // 6):
        blocks.append(Block(inputs, outputs, stride=2 if stage > 0 and block == 0 else 1))
        inputs = outputs
    self.blocks = nn.Sequential(*blocks)
    self.classifier = nn.Linear(inputs, classes)

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    """Returns logits `[B, classes]` of normalized `images` `[B, 3, H, W]`."""
    features = torch.relu(self.blocks(self.stem(images))).mean(dim=(2, 3))
    return self.classifier(features)
