r"""Figure 3: the growing batch on ImageNet. 256 unique images, NF-ResNet-50 (Section 2).

    python -m nfnets_augmult.sweep --config=experiments/figures/fig3_imagenet.py \
        --config.dataset.data_dir=DIR --workdir=runs/fig3

Expected: large n reaches a higher top-1 accuracy in fewer epochs: 78.4 % for n = 8 after 128
epochs, 77.9 % for n = 1 after 512. One run for each learning rate, as in the paper.
80 runs, about 7,060 accelerator hours: an estimate from 3,000 augmented images per second for
NF-ResNet-50 on one accelerator. The paper names the budgets 128 and 512; the others, and the ends
of the grid of learning rates, are ours.

`:tiny` runs in minutes on a CPU, to see that everything works: 200 digits and a WRN-10-1 with the
schedule and the regularization of these runs and 16 unique images.
"""

from nfnets_augmult.recipes import nf_resnet_recipe, tiny_regularized_recipe
from nfnets_augmult.sweep.grid import Published, Sweep, by_argument, grid, powers_of_two

TITLE = 'Figure 3: growing batch on ImageNet'
EXPECTED = 'Large n reaches a higher test accuracy in fewer epochs.'
PUBLISHED = (
  Published(77.9, {'augmult': 1, 'total_epochs': 512.0}, 'Section 2'),
  Published(78.4, {'augmult': 8, 'total_epochs': 128.0}, 'Section 2'),
)


def paper(seeds):
  """Returns the runs on ImageNet."""
  base = nf_resnet_recipe(50)
  base.batch_size = 0  # it follows from the unique images and n
  base.unique_images_per_batch = 256
  return Sweep(
    title=TITLE,
    base=base,
    points=grid(
      {
        'augmult': (1, 2, 4, 8),
        'total_epochs': (32.0, 64.0, 128.0, 256.0, 512.0),
        'optimizer.learning_rate': powers_of_two(0.05, 4),
        'seed': seeds,
      }
    ),
    expected=EXPECTED,
    accelerator_hours=7060,
    published=PUBLISHED,
  )


def tiny(seeds):
  """Returns the runs on digits."""
  base = tiny_regularized_recipe()
  base.unique_images_per_batch = 16
  return Sweep(
    title=TITLE,
    base=base,
    points=grid(
      {
        'augmult': (1, 4),
        'total_epochs': (24.0, 96.0),
        'optimizer.learning_rate': powers_of_two(0.05, 3),
        'seed': seeds,
      }
    ),
    expected=EXPECTED,
    published=PUBLISHED,
  )


get_sweep, get_config = by_argument(paper, tiny, seeds=1)
