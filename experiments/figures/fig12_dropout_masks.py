r"""Figure 12: the gradient averaged over n dropout masks, WRN-16-4 on CIFAR-100 (Appendix D).

    python -m nfnets_augmult.sweep --config=experiments/figures/fig12_dropout_masks.py \
        --config.dataset.data_dir=DIR --workdir=runs/fig12

Dropout with drop rate 0.4 before the classifier, 64 images per batch, one augmentation of each.
Here n counts dropout masks, `dropout_masks`, and not copies of images: augmult is 1 throughout, so
the batch holds 64 samples for every n, and temperature and learning rate are the same number. The
network below the dropout is computed once for all n masks.

Expected: the test accuracy does not depend much on n; the training loss falls sooner with larger n;
both take larger epoch budgets than without dropout, which is n = 1 of Figure 2. So dropout helps
through its bias, not its variance. The paper states no numbers besides its curves.
875 runs, about 142 accelerator hours: an estimate from 17,000 augmented images per second for
WRN-16-4 on one accelerator. The paper names the budget 512, in (c); the others, and the ends of the
grid of learning rates, are ours.

`:small` asks the same of 1,600 photographs of 16 x 16 pixels and a WRN-10-1 with 8 unique images,
at the lengths and learning rates of that variant of Figure 2. 108 small runs, about 1.2 core hours:
an estimate from 2,400 augmented images per second on a core.

`:tiny` runs in minutes on a CPU, to see that everything works: 200 digits and a WRN-10-1 with 16
unique images, likewise.
"""

from nfnets_augmult.recipes import (
  cifar100_recipe,
  small_photographs_recipe,
  tiny_digits_recipe,
)
from nfnets_augmult.sweep.grid import Sweep, by_argument, grid, powers_of_two

TITLE = 'Figure 12: dropout masks'
EXPECTED = (
  'The test accuracy does not depend much on the number n of dropout masks; the training loss '
  'falls sooner with larger n.'
)
DROPOUT_RATE = 0.4


def paper(seeds):
  """Returns the runs on CIFAR-100."""
  epochs, rates = (32.0, 64.0, 128.0, 256.0, 512.0), powers_of_two(0.0125, 5)
  return _sweep(
    cifar100_recipe(), 64, (1, 2, 4, 8, 16), epochs, rates, seeds, accelerator_hours=142
  )


def small(seeds):
  """Returns the runs on 1,600 photographs."""
  base, epochs = small_photographs_recipe(), (25.0, 50.0, 100.0)
  base.batch_size = 0
  return _sweep(base, 8, (1, 4, 16), epochs, powers_of_two(0.025, 4), seeds)


def tiny(seeds):
  """Returns the runs on digits."""
  base, epochs = tiny_digits_recipe(), (24.0, 48.0, 96.0)
  return _sweep(base, 16, (1, 4, 16), epochs, powers_of_two(0.025, 4), seeds)


def _sweep(base, unique_images, masks, epochs, learning_rates, seeds, **rest):
  base.augmult = 1
  base.unique_images_per_batch = unique_images
  base.model.dropout_rate = DROPOUT_RATE
  return Sweep(
    title=TITLE,
    base=base,
    points=grid(
      {
        'dropout_masks': masks,
        'total_epochs': epochs,
        'optimizer.learning_rate': learning_rates,
        'seed': seeds,
      }
    ),
    expected=EXPECTED,
    **rest,
  )


get_sweep, get_config = by_argument(paper, tiny, small)
