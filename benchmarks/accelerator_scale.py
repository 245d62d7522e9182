"""The sizes of what is measured of an accelerator."""

import dataclasses

from nfnets_augmult import models
from nfnets_augmult.models import nfnet


@dataclasses.dataclass(frozen=True)
class Scale:
  """The sizes of what is measured; batches are per device.

  Attributes:
    side: of the square matrices of the matrix product.
    copied: bytes of the array that is copied.
    networks: names of the small, the middle and the large NFNet.
    batch_sizes: of each of them.
    variants: ways to run the small network, besides the default one.
    most_batch_size: of the search for the largest batch.
    wide_resnet: name.
    wide_resnet_image: pixels of a side.
    wide_resnet_batch: of its run alone.
    steps_per_dispatch: of batches made on the device, besides 1.
    input_steps: in a sample.
    group_batch: of each run in a group.
    group_sizes: how many runs train together.
    sample_seconds: of one sample of a step.
    dtype: of convolutions and steps.
    most_convolutions: of each kind; None for all that the network has.
    budgets: whether a part is skipped if less time is left than it takes on a fast GPU.
  """

  side: int = 8192
  copied: int = 2**30
  networks: tuple[str, ...] = ('nfnet_f0', 'nfnet_f1', 'nfnet_f3')
  batch_sizes: tuple[int, ...] = (256, 128, 32)
  variants: tuple[str, ...] = ('sam', 'split', 'native', 'float32', 'remat', 'scan_blocks')
  most_batch_size: int = 4096
  wide_resnet: str = 'wrn_16_4'
  wide_resnet_image: int = 32
  wide_resnet_batch: int = 1024
  steps_per_dispatch: int = 20
  input_steps: int = 60
  group_batch: int = 64
  group_sizes: tuple[int, ...] = (1, 4, 16)
  sample_seconds: float = 0.4
  dtype: str = 'bfloat16'
  most_convolutions: int | None = None
  budgets: bool = True


FULL = Scale()
TINY = Scale(
  side=64,
  copied=2**16,
  networks=('nfnet_toy', 'nfnet_toy', 'nfnet_toy'),
  batch_sizes=(2, 2, 2),
  variants=(),
  most_batch_size=2,
  wide_resnet='wrn_10_1',
  wide_resnet_image=8,
  wide_resnet_batch=4,
  steps_per_dispatch=2,
  input_steps=2,
  group_batch=4,
  group_sizes=(1, 2),
  sample_seconds=0.0,
  dtype='float32',
  most_convolutions=1,
  budgets=False,
)


def add_toy_network() -> None:
  """Adds `nfnet_toy`, the smallest network that has groups, for `TINY`."""
  nfnet.VARIANTS['toy'] = nfnet.Variant((1, 1, 1, 1), (256, 512, 256, 256), 0.2, 16, 16)
  models.MODELS['nfnet_toy'] = models.ModelSpec(nfnet.NFNet, {'variant': 'toy'}, 16, 16)
