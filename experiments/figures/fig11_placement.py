r"""Figure 11: copies within a batch against copies in neighbouring batches (Appendix C).

    python -m nfnets_augmult.sweep --config=experiments/figures/fig11_placement.py \
        --config.dataset.data_dir=DIR --workdir=runs/fig11

WRN-16-4 on CIFAR-100 with B = 1,024.
Expected: both placements help for moderate n; for large n `within` goes on to help and
`neighbouring` degrades, while its training loss is slightly lower.
1,890 runs, about 2,080 accelerator hours: an estimate from 17,000 augmented images per second for
WRN-16-4 on one accelerator. Budgets and the ends of the grid of learning rates are ours.

`:small` asks the same of 1,600 photographs of 16 x 16 pixels and a WRN-10-1: batch size 32, 20,000
updates. 60 small runs, about 4.4 core hours: an estimate from 2,400 augmented images per second on
a core.

`:tiny` runs in minutes on a CPU, to see that everything works: 200 digits and a WRN-10-1: batch
size 64, 800 updates.
"""

from nfnets_augmult.recipes import (
  cifar100_recipe,
  small_photographs_recipe,
  tiny_digits_recipe,
)
from nfnets_augmult.sweep.grid import Sweep, by_argument, grid, powers_of_two

TITLE = 'Figure 11: within against neighbouring'
EXPECTED = (
  'Both placements help for moderate n. For large n `within` goes on to help, and `neighbouring` '
  'degrades, with a slightly lower training loss.'
)


def paper(seeds):
  """Returns the runs on CIFAR-100."""
  base = cifar100_recipe()
  base.batch_size = 1024
  return Sweep(
    title=TITLE,
    base=base,
    points=_both_placements(
      several=(2, 4, 8, 16),
      rest={
        'total_epochs': (32.0, 64.0, 128.0, 256.0, 512.0),
        'optimizer.learning_rate': powers_of_two(0.025, 6),
        'seed': seeds,
      },
    ),
    expected=EXPECTED,
    accelerator_hours=2080,
  )


def small(seeds):
  """Returns the runs on 1,600 photographs."""
  base = small_photographs_recipe()
  return Sweep(
    title=TITLE,
    base=base,
    points=_both_placements(
      several=(4, 8),
      rest={
        'total_steps': (20_000,),
        'optimizer.learning_rate': powers_of_two(0.0125, 4),
        'seed': seeds,
      },
    ),
    expected=EXPECTED,
  )


def tiny(seeds):
  """Returns the runs on digits."""
  base = tiny_digits_recipe()
  base.batch_size = 64
  return Sweep(
    title=TITLE,
    base=base,
    points=_both_placements(
      several=(4, 16),
      rest={
        'total_steps': (800,),
        'optimizer.learning_rate': powers_of_two(0.0125, 5),
        'seed': seeds,
      },
    ),
    expected=EXPECTED,
  )


def _both_placements(several, rest):
  """Returns points for n = 1, where the placements are the same, and for both with `several` n."""
  return grid({'placement': ('within',), 'augmult': (1, *several), **rest}) + grid(
    {'placement': ('neighbouring',), 'augmult': several, **rest}
  )


get_sweep, get_config = by_argument(paper, tiny, small)
