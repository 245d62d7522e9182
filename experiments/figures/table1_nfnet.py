r"""Table 1 and Figure 8a: NFNet-F2 and F3 on ImageNet without SAM, B = 4,096 (Section 5).

    python -m nfnets_augmult.sweep --config=experiments/figures/table1_nfnet.py \
        --config.dataset.data_dir=DIR --workdir=runs/table1

Expected: for the same number of updates larger n has the higher top-1 accuracy, from 85.20 % for
n = 1 to 85.49 % for n = 16 after 112,600 updates of an F2, and n = 16 gains most from twice as
many. The learning rate is 1.6 for n = 1 and 0.8 for n > 1. The paper takes the F3 with n = 1 from
Brock et al. 2021b.
10 runs, about 5,440 accelerator hours: an estimate from 400 augmented images per second for an F2
on one accelerator and 200 for an F3. Each run needs a pod, of which --list is the way.

`:tiny` runs in minutes on a CPU, to see that everything works: 200 digits and a WRN-10-1 with
clipping, Nesterov momentum and averaged parameters: batch size 64.
"""

from nfnets_augmult.recipes import nfnet_learning_rate, nfnet_recipe, tiny_regularized_recipe
from nfnets_augmult.sweep.grid import Published, Sweep, by_argument, difference, grid

TITLE = 'Table 1 and Figure 8a: NFNets without SAM'
EXPECTED = (
  'Larger n has the higher test accuracy for the same number of updates, and n = 16 gains most '
  'from twice as many.'
)
# Model, updates, and top-1 by n.
TABLE = (
  ('f2', 112_600, {1: 85.20, 2: 85.25, 4: 85.35, 8: 85.47, 16: 85.49}),
  ('f2', 225_200, {4: 84.53, 8: 85.25, 16: 85.71}),
  ('f3', 112_600, {1: 85.7}),
  ('f3', 225_200, {16: 86.16}),
)


def paper(seeds):
  """Returns the runs on ImageNet: one for each number of the table."""
  base = nfnet_recipe('f2')
  points, published = [], []
  for name, total_steps, top_1 in TABLE:
    # An F3 differs in its resolutions and in the magnitude of RandAugment, too.
    of_variant = difference(nfnet_recipe(name), base)
    for augmult, accuracy in top_1.items():
      keys = {
        'model.name': f'nfnet_{name}',
        'augmult': augmult,
        'total_steps': total_steps,
        'sam.rho': 0.0,
      }
      published.append(Published(accuracy, keys, 'Table 1'))
      learning_rate = nfnet_learning_rate(augmult=augmult)
      setting = {**keys, 'optimizer.learning_rate': learning_rate, **of_variant}
      points += [{**setting, 'seed': seed} for seed in seeds]
  return Sweep(
    title=TITLE,
    base=base,
    points=points,
    expected=EXPECTED,
    accelerator_hours=5440,
    metric='test/ema/top_1',
    published=published,
  )


def tiny(seeds):
  """Returns the runs on digits: two numbers of updates, and half the learning rate for n > 1."""
  base = tiny_regularized_recipe()
  base.batch_size = 64
  # With 0.01, gains that begin at zero would take many more updates than there are.
  base.optimizer.clipping = 0.32
  base.optimizer.nesterov = True
  points = []
  for augmult, learning_rate in ((1, 0.1), (4, 0.05), (16, 0.05)):
    points += grid(
      {
        'augmult': (augmult,),
        'total_steps': (600, 1200),
        'optimizer.learning_rate': (learning_rate,),
        'seed': seeds,
      }
    )
  return Sweep(
    title=TITLE,
    base=base,
    points=points,
    expected=EXPECTED,
    metric='test/ema/top_1',
  )


get_sweep, get_config = by_argument(paper, tiny, seeds=1)
