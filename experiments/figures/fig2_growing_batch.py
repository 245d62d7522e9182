r"""Figure 2: the growing batch. 64 unique images, n = 1 to 16, WRN-16-4 on CIFAR-100 (Section 2).

    python -m nfnets_augmult.sweep --config=experiments/figures/fig2_growing_batch.py \
        --config.dataset.data_dir=DIR --workdir=runs/fig2

Expected: large n reaches a higher test accuracy in fewer epochs (74.3 % for n = 16 after 128
epochs, 74.1 % for n = 1 after 256), converges faster on the training set, and is ahead at large
learning rates while all n are alike at small ones.
875 runs, about 880 accelerator hours: an estimate from 17,000 augmented images per second for
WRN-16-4 on one accelerator. The paper names the budgets 128 and 256; the others, and the ends of
the grid of learning rates, are ours.

`:small` asks the same of 1,600 photographs of 16 x 16 pixels and a WRN-10-1 with 8 unique images.
108 small runs, about 8.2 core hours: an estimate from 2,400 augmented images per second on a core.

`:tiny` runs in minutes on a CPU, to see that everything works: 200 digits and a WRN-10-1 with 16
unique images.
"""

from nfnets_augmult.recipes import (
  cifar100_recipe,
  small_photographs_recipe,
  tiny_digits_recipe,
)
from nfnets_augmult.sweep.grid import Published, Sweep, by_argument, grid, powers_of_two

TITLE = 'Figure 2: growing batch'
EXPECTED = (
  'Large n reaches a higher test accuracy in fewer epochs, has a lower training loss, and is ahead '
  'at large learning rates.'
)
PUBLISHED = (
  Published(74.1, {'augmult': 1, 'total_epochs': 256.0}, 'Section 2', standard_error=0.01),
  Published(74.3, {'augmult': 16, 'total_epochs': 128.0}, 'Section 2', standard_error=0.1),
)


def paper(seeds):
  """Returns the runs on CIFAR-100."""
  base = cifar100_recipe()
  base.unique_images_per_batch = 64
  epochs, rates = (32.0, 64.0, 128.0, 256.0, 512.0), powers_of_two(0.0125, 5)
  return _sweep(base, (1, 2, 4, 8, 16), epochs, rates, seeds, accelerator_hours=880)


def small(seeds):
  """Returns the runs on 1,600 photographs."""
  base = small_photographs_recipe()
  base.batch_size = 0
  base.unique_images_per_batch = 8
  return _sweep(base, (1, 4, 16), (25.0, 50.0, 100.0), powers_of_two(0.025, 4), seeds)


def tiny(seeds):
  """Returns the runs on digits."""
  base = tiny_digits_recipe()
  base.unique_images_per_batch = 16
  return _sweep(base, (1, 4, 16), (24.0, 48.0, 96.0), powers_of_two(0.025, 4), seeds)


def _sweep(base, augmults, epochs, learning_rates, seeds, **rest):
  return Sweep(
    title=TITLE,
    base=base,
    points=grid(
      {
        'augmult': augmults,
        'total_epochs': epochs,
        'optimizer.learning_rate': learning_rates,
        'seed': seeds,
      }
    ),
    expected=EXPECTED,
    published=PUBLISHED,
    **rest,
  )


get_sweep, get_config = by_argument(paper, tiny, small)
