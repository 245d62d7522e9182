r"""Figures 6, 7a/b and 10: learning rate and temperature, B = 1,024 and 64, WRN-16-4 on CIFAR-100.

    python -m nfnets_augmult.sweep --config=experiments/figures/fig6_7_10_cifar.py \
        --config.dataset.data_dir=DIR --workdir=runs/fig6

One grid for the questions of Section 4 and Appendix B, for both batch sizes: the training loss
after a number of updates (6a, 6b), test accuracy against the learning rate (6c, 6d) and against
the temperature (7a, 7b) after 128 epochs, and against the temperature after 32 and 512 (10a to d).
Expected: small n has the lower training loss after a given number of updates; all n are alike at
small temperatures, and large n is stable at larger ones; after 512 epochs small n is ahead at a
given temperature.
1,470 runs, about 1,670 accelerator hours: an estimate from 17,000 augmented images per second for
WRN-16-4 on one accelerator. The ends of the grids of learning rates are ours.

`:small` asks the same of 1,600 photographs of 16 x 16 pixels and a WRN-10-1: batch sizes 32 and 8,
n = 1 and 4 after 100 epochs, and n = 1 also after as many updates as n = 4. 90 small runs, about
5.0 core hours: an estimate from 2,400 augmented images per second on a core.

`:tiny` runs in minutes on a CPU, to see that everything works: 200 digits and a WRN-10-1: batch
sizes 64 and 16, n = 1 and 4 after 64 epochs, and n = 1 also after as many updates as n = 4.
"""

from nfnets_augmult.recipes import (
  cifar100_recipe,
  small_photographs_recipe,
  tiny_digits_recipe,
)
from nfnets_augmult.sweep.grid import Sweep, by_argument, grid, powers_of_two

TITLE = 'Figures 6, 7a/b, 10: learning rate and temperature'
EXPECTED = (
  'Small n has the lower training loss after the same number of updates. All n are alike at small '
  'temperatures, and large n is stable at larger ones. At the longest budget small n is ahead.'
)


def paper(seeds):
  """Returns the runs on CIFAR-100: large batches, then small ones with lower learning rates."""
  points = []
  for batch_size, least_learning_rate in ((1024, 0.025), (64, 0.003125)):
    points += grid(
      {
        'batch_size': (batch_size,),
        'augmult': (1, 2, 4, 8, 16),
        'total_epochs': (32.0, 128.0, 512.0),
        'optimizer.learning_rate': powers_of_two(least_learning_rate, 7),
        'seed': seeds,
      }
    )
  return Sweep(
    title=TITLE,
    base=cifar100_recipe(),
    points=points,
    expected=EXPECTED,
    accelerator_hours=1670,
  )


def small(seeds):
  """Returns the runs on 1,600 photographs; for n = 1 also as many updates as n = 4 has."""
  return Sweep(
    title=TITLE,
    base=small_photographs_recipe(),
    points=_two_batch_sizes(((32, 0.0125), (8, 0.003125)), 100.0, seeds),
    expected=EXPECTED,
  )


def tiny(seeds):
  """Returns the runs on digits, likewise."""
  return Sweep(
    title=TITLE,
    base=tiny_digits_recipe(),
    points=_two_batch_sizes(((64, 0.0125), (16, 0.00625)), 64.0, seeds),
    expected=EXPECTED,
  )


def _two_batch_sizes(batch_sizes, epochs, seeds):
  """Returns points for n = 4, and for n = 1 after as many epochs and after as many updates."""
  points = []
  for batch_size, least_learning_rate in batch_sizes:
    for augmult, total_epochs in ((1, (epochs, 4 * epochs)), (4, (epochs,))):
      points += grid(
        {
          'batch_size': (batch_size,),
          'augmult': (augmult,),
          'total_epochs': total_epochs,
          'optimizer.learning_rate': powers_of_two(least_learning_rate, 5),
          'seed': seeds,
        }
      )
  return points


get_sweep, get_config = by_argument(paper, tiny, small)
