r"""Figures 5a and 5b: small batches. B = 64 fixed, WRN-16-4 on CIFAR-100 (Section 3).

    python -m nfnets_augmult.sweep --config=experiments/figures/fig5_cifar.py \
        --config.dataset.data_dir=DIR --workdir=runs/fig5

Expected: n > 1 reaches a higher test accuracy in fewer epochs, for a similar or slightly larger
number of updates; the gain saturates at about n = 4.
1,050 runs, about 1,060 accelerator hours: an estimate from 17,000 augmented images per second for
WRN-16-4 on one accelerator. Budgets and the ends of the grid of learning rates are ours.

`:small` asks the same in minutes on a CPU, of 200 digits and a WRN-10-1: batch size 16.
"""

from nfnets_augmult.recipes import cifar100_recipe, small_digits_recipe
from nfnets_augmult.sweeps import Sweep, grid, powers_of_two, read_argument

EXPECTED = (
  'n > 1 reaches a higher test accuracy in fewer epochs, for a similar or slightly larger number '
  'of updates; the gain saturates at about n = 4.'
)


def get_sweep(argument=''):
  """Returns the sweep; `small` for the variant on digits, `seeds=N` for N runs of each point."""
  variant = read_argument(argument)
  is_small = variant.is_small
  base = small_digits_recipe() if is_small else cifar100_recipe()
  base.batch_size = 16 if is_small else 64
  length = (
    {'total_steps': (600, 2400)}
    if is_small
    else {'total_epochs': (32.0, 64.0, 128.0, 256.0, 512.0)}
  )
  return Sweep(
    title='Figure 5a/b: small batches' + variant.suffix,
    base=base,
    points=grid(
      {
        'augmult': (1, 2, 4) if is_small else (1, 2, 4, 8, 16),
        **length,
        'optimizer.learning_rate': powers_of_two(*((0.00625, 4) if is_small else (0.003125, 6))),
        'seed': variant.seeds,
      }
    ),
    expected=EXPECTED,
    accelerator_hours=None if is_small else 1060,
    is_small=is_small,
  )


def get_config(argument=''):
  """Returns what all runs of the sweep share."""
  return get_sweep(argument).base
