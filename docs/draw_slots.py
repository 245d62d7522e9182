"""The picture of slots in the README.

python -m docs.draw_slots docs/images/slots.png
"""

import sys

from matplotlib.figure import Figure

from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.runs.slots_picture import draw_slots


def _example() -> Figure:
  """A data set of 20 images: normal training, and the paper's three schemes with n = 4."""
  make = {'num_images': 20, 'seed': 1}
  rows = [
    (
      'ordinary training: n = 1, batch size 8',
      Multiplicity(unique_images_per_batch=8, augmult=1, **make),
    ),
    (
      'fixed batch (Section 3): n = 4, batch size 8, so 2 unique images',
      Multiplicity(unique_images_per_batch=2, augmult=4, **make),
    ),
    (
      'growing batch (Section 2): n = 2 with 8 unique images, so batch size 16',
      Multiplicity(unique_images_per_batch=8, augmult=2, **make),
    ),
    (
      'neighbouring (Appendix C): n = 4, batch size 8, one copy per batch in 4 successive batches',
      Multiplicity(unique_images_per_batch=8, augmult=4, placement='neighbouring', **make),
    ),
  ]
  return draw_slots(rows, num_steps=4)


if __name__ == '__main__':
  _example().savefig(sys.argv[1], dpi=110)
