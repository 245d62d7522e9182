r"""Table 2 and Figure 8b: NFNet-F3 and F5 on ImageNet with SAM, n = 16, B = 4,096 (Section 5).

    python -m nfnets_augmult.sweep --config=experiments/figures/table2_nfnet_sam.py \
        --config.dataset.data_dir=DIR --workdir=runs/table2

Expected: 85.76 and 86.45 % for an F3 after 112,600 and 225,200 updates, 86.54 and 86.78 % for an
F5 after 112,600 and 168,900. For Figure 8b put this work directory and that of Table 1 into one
folder and ask for the report on it: it draws all networks, and the published points of n = 1.
4 runs, about 7,110 accelerator hours: an estimate from 200 augmented images per second for an F3
on one accelerator and 80 for an F5, and a fifth more for the ascent of SAM. Each run needs a pod,
of which --list is the way.

`:tiny` runs in minutes on a CPU, to see that everything works: 200 digits and a WRN-10-1 with SAM:
batch size 64, n = 16, for several numbers of updates.
"""

from nfnets_augmult.recipes import nfnet_recipe, tiny_regularized_recipe, with_sam
from nfnets_augmult.sweep.grid import Published, Sweep, by_argument, difference, grid

TITLE = 'Table 2 and Figure 8b: NFNets with SAM'
EXPECTED = 'With SAM and n = 16 the test accuracy goes on to rise with the number of updates.'
# Model, and top-1 by updates.
TABLE = (
  ('f3', {112_600: 85.76, 225_200: 86.45}),
  ('f5', {112_600: 86.54, 168_900: 86.78}),
)
# The black points of Figure 8b: n = 1, 112,600 updates (Brock et al. 2021b), by radius of SAM.
ORIGINAL = {
  0.0: {'f0': 83.6, 'f1': 84.7, 'f2': 85.1, 'f3': 85.7, 'f4': 85.9, 'f5': 86.0},
  0.05: {'f6': 86.5},
}


def paper(seeds):
  """Returns the runs on ImageNet: one for each number of the table."""
  base = with_sam(nfnet_recipe('f3'))
  points, published = [], []
  for name, top_1 in TABLE:
    of_variant = difference(with_sam(nfnet_recipe(name)), base)
    for total_steps, accuracy in top_1.items():
      keys = {'model.name': f'nfnet_{name}', 'total_steps': total_steps}
      points += [{**keys, **of_variant, 'seed': seed} for seed in seeds]
      published.append(Published(accuracy, {**keys, 'augmult': 16, 'sam.rho': 0.05}, 'Table 2'))
  for rho, top_1 in ORIGINAL.items():
    for name, accuracy in top_1.items():
      keys = {'model.name': f'nfnet_{name}', 'augmult': 1, 'sam.rho': rho}
      keys |= {'total_steps': 112_600}
      published.append(Published(accuracy, keys, 'Brock et al. 2021b'))
  return Sweep(
    title=TITLE,
    base=base,
    points=points,
    expected=EXPECTED,
    accelerator_hours=7110,
    metric='test/ema/top_1',
    published=published,
  )


def tiny(seeds):
  """Returns the runs on digits."""
  base = with_sam(tiny_regularized_recipe())
  base.batch_size = 64
  base.augmult = 16
  # With 0.01, gains that begin at zero would take many more updates than there are.
  base.optimizer.clipping = 0.32
  return Sweep(
    title=TITLE,
    base=base,
    points=grid({'total_steps': (600, 1200), 'seed': seeds}),
    expected=EXPECTED,
    metric='test/ema/top_1',
  )


get_sweep, get_config = by_argument(paper, tiny, seeds=1)
