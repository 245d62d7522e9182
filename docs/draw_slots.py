"""The picture of slots in the README.

python -m docs.draw_slots docs/images/slots.png
"""

import sys

from matplotlib.figure import Figure

from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.runs.slots_picture import draw_slots


def _example() -> Figure:
  """A data set of 20 images: normal training, and the paper's three schemes with n = 4."""
  schemes = (
    ('ordinary training: n = 1, batch size 8', 8, 1, 'within'),
    ('fixed batch (Section 3): n = 4, batch size 8, so 2 unique images', 2, 4, 'within'),
    ('growing batch (Section 2): n = 2 with 8 unique images, so batch size 16', 8, 2, 'within'),
    (
      'neighbouring (Appendix C): n = 4, batch size 8, one copy per batch in 4 successive batches',
      8,
      4,
      'neighbouring',
    ),
  )
  rows = [
    (title, Multiplicity(20, unique_images, augmult, placement=placement, seed=1))
    for title, unique_images, augmult, placement in schemes
  ]
  return draw_slots(rows, num_steps=4)


if __name__ == '__main__':
  _example().savefig(sys.argv[1], dpi=110)
