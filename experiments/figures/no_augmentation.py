r"""The baseline of Section 2: WRN-16-4 on CIFAR-100 without data augmentation, batch size 64.

    python -m nfnets_augmult.sweep --config=experiments/figures/no_augmentation.py \
        --config.dataset.data_dir=DIR --workdir=runs/no_augmentation

Expected: 61.4 % after tuning learning rate and budget, against 74.1 % with augmentation at n = 1:
the bias that augmentation adds is what helps.
210 runs, about 29 accelerator hours: an estimate from 17,000 images per second for WRN-16-4 on
one accelerator. Budgets and the ends of the grid of learning rates are ours.

`:small` asks the same of 1,600 photographs of 16 x 16 pixels and a WRN-10-1: batch size 32, without
and with augmentation. 48 small runs, about 2.2 core hours: an estimate from 2,400 augmented images
per second on a core.

`:tiny` runs in minutes on a CPU, to see that everything works: 200 digits and a WRN-10-1: batch
size 16, without and with augmentation.
"""

from nfnets_augmult.recipes import (
  cifar100_recipe,
  small_photographs_recipe,
  tiny_digits_recipe,
)
from nfnets_augmult.sweep.grid import Published, Sweep, by_argument, grid, powers_of_two

TITLE = 'No augmentation'
EXPECTED = (
  'Without augmentation the test accuracy is much lower, however long one trains: 61.4 against '
  '74.1 % on CIFAR-100.'
)
# After tuning: for no learning rate and no length in particular.
PUBLISHED = (Published(61.4, {'augmult': 1}, 'Section 2, without augmentation'),)


def paper(seeds):
  """Returns the runs on CIFAR-100; those with augmentation are in Figures 2 and 5."""
  base = cifar100_recipe()
  base.batch_size = 64
  base.augmentation.pad = 0
  base.augmentation.flip = False
  return Sweep(
    title=TITLE,
    base=base,
    points=grid(
      {
        'total_epochs': (16.0, 32.0, 64.0, 128.0, 256.0, 512.0),
        'optimizer.learning_rate': powers_of_two(0.0125, 5),
        'seed': seeds,
      }
    ),
    expected=EXPECTED,
    accelerator_hours=29,
    published=PUBLISHED,
  )


def small(seeds):
  """Returns the runs on 1,600 photographs, without and with augmentation."""
  base = small_photographs_recipe()
  base.augmentation.pad = 0
  base.augmentation.flip = False
  points = []
  for pad, flip in ((0, False), (2, True)):
    points += grid(
      {
        'augmentation.pad': (pad,),
        'augmentation.flip': (flip,),
        'total_steps': (5000, 20_000),
        'optimizer.learning_rate': powers_of_two(0.0125, 4),
        'seed': seeds,
      }
    )
  return Sweep(
    title=TITLE,
    base=base,
    points=points,
    expected=EXPECTED,
    published=PUBLISHED,
  )


def tiny(seeds):
  """Returns the runs on digits, without and with augmentation."""
  base = tiny_digits_recipe()
  base.batch_size = 16
  base.augmentation.pad = 0
  return Sweep(
    title=TITLE,
    base=base,
    points=grid(
      {
        'augmentation.pad': (0, 1),
        'total_epochs': (24.0, 96.0),
        'optimizer.learning_rate': powers_of_two(0.0125, 4),
        'seed': seeds,
      }
    ),
    expected=EXPECTED,
    published=PUBLISHED,
  )


get_sweep, get_config = by_argument(paper, tiny, small)
