r"""Figure 11: copies within a batch against copies in neighbouring batches (Appendix C).

    python -m nfnets_augmult.sweep --config=experiments/figures/fig11_placement.py \
        --config.dataset.data_dir=DIR --workdir=runs/fig11

WRN-16-4 on CIFAR-100 with B = 1,024.
Expected: both placements help for moderate n; for large n `within` goes on to help and
`neighbouring` degrades, while its training loss is slightly lower.
1,890 runs, about 2,080 accelerator hours: an estimate from 17,000 augmented images per second for
WRN-16-4 on one accelerator. Budgets and the ends of the grid of learning rates are ours.

`:small` asks the same in minutes on a CPU, of 200 digits and a WRN-10-1: batch size 64, 800
updates.
"""

from nfnets_augmult.recipes import cifar100_recipe, small_digits_recipe
from nfnets_augmult.sweeps import Sweep, grid, powers_of_two, read_argument

EXPECTED = (
  'Both placements help for moderate n. For large n `within` goes on to help, and `neighbouring` '
  'degrades, with a slightly lower training loss.'
)


def get_sweep(argument=''):
  """Returns the sweep; `small` for the variant on digits, `seeds=N` for N runs of each point."""
  variant = read_argument(argument)
  is_small = variant.is_small
  base = small_digits_recipe() if is_small else cifar100_recipe()
  base.batch_size = 64 if is_small else 1024
  if is_small:
    rest = {
      'total_steps': (800,),
      'optimizer.learning_rate': powers_of_two(0.0125, 5),
      'seed': variant.seeds,
    }
  else:
    rest = {
      'total_epochs': (32.0, 64.0, 128.0, 256.0, 512.0),
      'optimizer.learning_rate': powers_of_two(0.025, 6),
      'seed': variant.seeds,
    }
  several = (4, 16) if is_small else (2, 4, 8, 16)
  return Sweep(
    title='Figure 11: within against neighbouring' + variant.suffix,
    base=base,
    # The two placements are the same for n = 1.
    points=grid({'placement': ('within',), 'augmult': (1, *several), **rest})
    + grid({'placement': ('neighbouring',), 'augmult': several, **rest}),
    expected=EXPECTED,
    accelerator_hours=None if is_small else 2080,
    is_small=is_small,
  )


def get_config(argument=''):
  """Returns what all runs of the sweep share."""
  return get_sweep(argument).base
