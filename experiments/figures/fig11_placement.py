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
  lengths = {'total_epochs': (32.0, 64.0, 128.0, 256.0, 512.0)}
  rates = powers_of_two(0.025, 6)
  return _sweep(
    cifar100_recipe(), 1024, (2, 4, 8, 16), lengths, rates, seeds, accelerator_hours=2080
  )


def small(seeds):
  """Returns the runs on 1,600 photographs."""
  lengths, rates = {'total_steps': (20_000,)}, powers_of_two(0.0125, 4)
  return _sweep(small_photographs_recipe(), 32, (4, 8), lengths, rates, seeds)


def tiny(seeds):
  """Returns the runs on digits."""
  lengths, rates = {'total_steps': (800,)}, powers_of_two(0.0125, 5)
  return _sweep(tiny_digits_recipe(), 64, (4, 16), lengths, rates, seeds)


def _sweep(base, batch_size, several, lengths, learning_rates, seeds, **rest):
  """Points for n = 1, where the placements are the same, and for both with `several` n."""
  base.batch_size = batch_size
  axes = {**lengths, 'optimizer.learning_rate': learning_rates, 'seed': seeds}
  points = grid({'placement': ('within',), 'augmult': (1, *several), **axes})
  points += grid({'placement': ('neighbouring',), 'augmult': several, **axes})
  return Sweep(title=TITLE, base=base, points=points, expected=EXPECTED, **rest)


get_sweep, get_config = by_argument(paper, tiny, small)
