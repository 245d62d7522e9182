r"""Figures 4a and 4b: large batches. B = 1,024 fixed, WRN-16-4 on CIFAR-100 (Section 3).

    python -m nfnets_augmult.sweep --config=experiments/figures/fig4_cifar.py \
        --config.dataset.data_dir=DIR --workdir=runs/fig4

Expected: large n reaches a much higher test accuracy in fewer epochs, and n = 4 is ahead of n = 1
also for the same number of updates: 73.7 against 72.1 % after 400,000.
1,470 runs, about 2,780 accelerator hours: an estimate from 17,000 augmented images per second for
WRN-16-4 on one accelerator. Most of it is in the longest budgets: 400,000 updates of 1,024 are
8,192 epochs for n = 1 and 2,048 for n = 4, and so we take powers of two up to 400,000 updates. The
ends of the grid of learning rates are ours.

`:small` asks the same of 1,600 photographs of 16 x 16 pixels and a WRN-10-1, with a batch size of
32, 2 % of the images. 96 small runs, about 5.3 core hours: an estimate from 2,400 augmented images
per second on a core.

`:tiny` runs in minutes on a CPU, to see that everything works: 200 digits and a WRN-10-1, batch
size 64, a third of the images, for two numbers of updates.
"""

from nfnets_augmult.recipes import (
  cifar100_recipe,
  small_photographs_recipe,
  tiny_digits_recipe,
)
from nfnets_augmult.sweep.grid import Published, Sweep, by_argument, grid, powers_of_two

TITLE = 'Figure 4a/b: large batches'
EXPECTED = (
  'Large n reaches a higher test accuracy in fewer epochs, and moderate n is ahead of n = 1 for '
  'the same number of updates too.'
)
PUBLISHED = (
  Published(72.1, {'augmult': 1, 'total_epochs': 8192.0}, 'Section 3', standard_error=0.1),
  Published(73.7, {'augmult': 4, 'total_epochs': 2048.0}, 'Section 3', standard_error=0.04),
)


def paper(seeds):
  """Returns the runs on CIFAR-100: for every n, the budgets of up to 400,000 updates."""
  base = cifar100_recipe()
  base.batch_size = 1024
  points = []
  for augmult in (1, 2, 4, 8, 16):
    points += grid(
      {
        'augmult': (augmult,),
        'total_epochs': [2.0**k for k in range(5, 14) if 2**k * augmult <= 8192],
        'optimizer.learning_rate': powers_of_two(0.025, 6),
        'seed': seeds,
      }
    )
  return Sweep(
    title=TITLE,
    base=base,
    points=points,
    expected=EXPECTED,
    accelerator_hours=2780,
    published=PUBLISHED,
  )


def small(seeds):
  """Returns the runs on 1,600 photographs."""
  rates = powers_of_two(0.0125, 4)
  return _at_equal_updates(small_photographs_recipe(), (1, 2, 4, 8), (10_000, 20_000), rates, seeds)


def tiny(seeds):
  """Returns the runs on digits."""
  base = tiny_digits_recipe()
  base.batch_size = 64
  return _at_equal_updates(base, (1, 4, 16), (400, 1200), powers_of_two(0.0125, 5), seeds)


def _at_equal_updates(base, augmults, updates, learning_rates, seeds):
  return Sweep(
    title=TITLE,
    base=base,
    points=grid(
      {
        'augmult': augmults,
        'total_steps': updates,
        'optimizer.learning_rate': learning_rates,
        'seed': seeds,
      }
    ),
    expected=EXPECTED,
    published=PUBLISHED,
  )


get_sweep, get_config = by_argument(paper, tiny, small)
