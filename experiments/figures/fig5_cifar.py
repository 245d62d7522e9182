r"""Figures 5a and 5b: small batches. B = 64 fixed, WRN-16-4 on CIFAR-100 (Section 3).

    python -m nfnets_augmult.sweep --config=experiments/figures/fig5_cifar.py \
        --config.dataset.data_dir=DIR --workdir=runs/fig5

Expected: n > 1 reaches a higher test accuracy in fewer epochs, for a similar or slightly larger
number of updates; the gain saturates at about n = 4.
1,050 runs, about 1,060 accelerator hours: an estimate from 17,000 augmented images per second for
WRN-16-4 on one accelerator. Budgets and the ends of the grid of learning rates are ours.

`:small` asks the same of 1,600 photographs of 16 x 16 pixels and a WRN-10-1, with a batch size of
8. 72 small runs, about 2.0 core hours: an estimate from 2,400 augmented images per second on a
core.

`:tiny` runs in minutes on a CPU, to see that everything works: 200 digits and a WRN-10-1, batch
size 16.
"""

from nfnets_augmult.recipes import (
  cifar100_recipe,
  small_photographs_recipe,
  tiny_digits_recipe,
)
from nfnets_augmult.sweep.grid import Sweep, by_argument, grid, powers_of_two

TITLE = 'Figure 5a/b: small batches'
EXPECTED = (
  'n > 1 reaches a higher test accuracy in fewer epochs, for a similar or slightly larger number '
  'of updates; the gain saturates at about n = 4.'
)


def paper(seeds):
  """Returns the runs on CIFAR-100."""
  lengths = {'total_epochs': (32.0, 64.0, 128.0, 256.0, 512.0)}
  rates = powers_of_two(0.003125, 6)
  return _sweep(
    cifar100_recipe(), 64, (1, 2, 4, 8, 16), lengths, rates, seeds, accelerator_hours=1060
  )


def small(seeds):
  """Returns the runs on 1,600 photographs."""
  lengths, rates = {'total_steps': (20_000, 40_000)}, powers_of_two(0.003125, 4)
  return _sweep(small_photographs_recipe(), 8, (1, 2, 4), lengths, rates, seeds)


def tiny(seeds):
  """Returns the runs on digits."""
  lengths, rates = {'total_steps': (600, 2400)}, powers_of_two(0.00625, 4)
  return _sweep(tiny_digits_recipe(), 16, (1, 2, 4), lengths, rates, seeds)


def _sweep(base, batch_size, augmults, lengths, learning_rates, seeds, **rest):
  base.batch_size = batch_size
  return Sweep(
    title=TITLE,
    base=base,
    points=grid(
      {
        'augmult': augmults,
        **lengths,
        'optimizer.learning_rate': learning_rates,
        'seed': seeds,
      }
    ),
    expected=EXPECTED,
    **rest,
  )


get_sweep, get_config = by_argument(paper, tiny, small)
