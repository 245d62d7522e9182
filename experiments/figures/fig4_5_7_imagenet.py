r"""Figures 4c/d, 5c/d and 7c/d: fixed batches on ImageNet. B = 4,096 and 256, NF-ResNet-50.

    python -m nfnets_augmult.sweep --config=experiments/figures/fig4_5_7_imagenet.py \
        --config.dataset.data_dir=DIR --workdir=runs/fig4_imagenet

Expected (Sections 3 and 4): for both batch sizes large n reaches a higher top-1 accuracy in fewer
epochs, 78.6 % for n = 8 after 128 epochs against 77.3 % for n = 1 after 512 at batch size 4,096;
all n are alike at small temperatures, and large n is stable at larger ones.
200 runs, about 29,180 accelerator hours: an estimate from 3,000 augmented images per second for
NF-ResNet-50 on one accelerator. The paper names the budgets 128 and 512; the others, and the ends
of the grids of learning rates, are ours.

`:tiny` runs in minutes on a CPU, to see that everything works: 200 digits and a WRN-10-1 with the
schedule and the regularization of these runs: batch sizes 64 and 16.
"""

from nfnets_augmult.recipes import nf_resnet_recipe, tiny_regularized_recipe
from nfnets_augmult.sweep.grid import Published, Sweep, by_argument, grid, powers_of_two

TITLE = 'Figures 4c/d, 5c/d, 7c/d: fixed batches on ImageNet'
EXPECTED = (
  'Large n reaches a higher test accuracy in fewer epochs. All n are alike at small temperatures, '
  'and large n is stable at larger ones.'
)
LARGE = {'batch_size': 4096}
PUBLISHED = (
  Published(77.3, {**LARGE, 'augmult': 1, 'total_epochs': 512.0}, 'Section 3'),
  Published(78.6, {**LARGE, 'augmult': 8, 'total_epochs': 128.0}, 'Section 3'),
)


def paper(seeds):
  """Returns the runs on ImageNet: large batches, then small ones with lower learning rates."""
  points = []
  for batch_size, least_learning_rate in ((4096, 0.4), (256, 0.025)):
    points += grid(
      {
        'batch_size': (batch_size,),
        'augmult': (1, 2, 4, 8, 16),
        'total_epochs': (32.0, 64.0, 128.0, 256.0, 512.0),
        'optimizer.learning_rate': powers_of_two(least_learning_rate, 4),
        'seed': seeds,
      }
    )
  return Sweep(
    title=TITLE,
    base=nf_resnet_recipe(50),
    points=points,
    expected=EXPECTED,
    accelerator_hours=29180,
    published=PUBLISHED,
  )


def tiny(seeds):
  """Returns the runs on digits, likewise."""
  points = []
  for batch_size, least_learning_rate in ((64, 0.025), (16, 0.0125)):
    points += grid(
      {
        'batch_size': (batch_size,),
        'augmult': (1, 4),
        'total_epochs': (32.0, 96.0),
        'optimizer.learning_rate': powers_of_two(least_learning_rate, 4),
        'seed': seeds,
      }
    )
  return Sweep(
    title=TITLE,
    base=tiny_regularized_recipe(),
    points=points,
    expected=EXPECTED,
    published=PUBLISHED,
  )


get_sweep, get_config = by_argument(paper, tiny, seeds=1)
