r"""The baseline of Section 2: WRN-16-4 on CIFAR-100 without data augmentation, batch size 64.

    python -m nfnets_augmult.sweep --config=experiments/figures/no_augmentation.py \
        --config.dataset.data_dir=DIR --workdir=runs/no_augmentation

Expected: 61.4 % after tuning learning rate and budget, against 74.1 % with augmentation at n = 1:
the bias that augmentation adds is what helps.
210 runs, about 29 accelerator hours: an estimate from 17,000 images per second for WRN-16-4 on
one accelerator. Budgets and the ends of the grid of learning rates are ours.

`:small` asks the same in minutes on a CPU, of 200 digits and a WRN-10-1: batch size 16, without
and with augmentation.
"""

from nfnets_augmult.recipes import cifar100_recipe, small_digits_recipe
from nfnets_augmult.sweeps import Published, Sweep, grid, powers_of_two, read_argument

EXPECTED = (
  'Without augmentation the test accuracy is much lower, however long one trains: 61.4 against '
  '74.1 % on CIFAR-100.'
)
# After tuning: for no learning rate and no length in particular.
PUBLISHED = (Published(61.4, {'augmult': 1}, 'Section 2, without augmentation'),)


def get_sweep(argument=''):
  """Returns the sweep; `small` for the variant on digits, `seeds=N` for N runs of each point."""
  variant = read_argument(argument)
  is_small = variant.is_small
  base = small_digits_recipe() if is_small else cifar100_recipe()
  base.batch_size = 16 if is_small else 64
  base.augmentation.pad = 0
  base.augmentation.flip = False
  points = grid(
    {
      **({'augmentation.pad': (0, 1)} if is_small else {}),
      'total_epochs': (24.0, 96.0) if is_small else (16.0, 32.0, 64.0, 128.0, 256.0, 512.0),
      'optimizer.learning_rate': powers_of_two(*((0.0125, 4) if is_small else (0.0125, 5))),
      'seed': variant.seeds,
    }
  )
  return Sweep(
    title='No augmentation' + variant.suffix,
    base=base,
    points=points,
    expected=EXPECTED,
    accelerator_hours=None if is_small else 29,
    published=PUBLISHED,
    is_small=is_small,
  )


def get_config(argument=''):
  """Returns what all runs of the sweep share."""
  return get_sweep(argument).base
