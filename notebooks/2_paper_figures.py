# %% [markdown]
# # The paper's CIFAR figures
#
# You will see the growing batch of Figure 2 run on the spot, made tiny, beside the numbers that the
# paper prints, and then all figures that were recorded in this repository; about three minutes on
# two CPU cores.
#
# Sections and figures in parentheses are of [Fort, Brock, Pascanu, De and Smith,
# 2021](https://arxiv.org/abs/2105.13343). What n is:
# [1_augmentation_multiplicity.ipynb](1_augmentation_multiplicity.ipynb).

# %%
# Installs the package and fetches its repository if they are not here, as on Colab.
import importlib.util
import os
import pathlib
import subprocess
import sys

REPOSITORY = ''
VERSION = 'v0.1.0'
if importlib.util.find_spec('nfnets_augmult') is None:
  assert REPOSITORY, 'run `pip install .` at the root of the repository first'
  clone = ['git', 'clone', '--quiet', '--depth=1', f'--branch={VERSION}', REPOSITORY, 'repository']
  subprocess.run(clone, check=True)
  subprocess.run([sys.executable, '-m', 'pip', 'install', '--quiet', './repository'], check=True)
  importlib.invalidate_caches()
  os.chdir('repository')
if not pathlib.Path('experiments').exists():
  os.chdir('..')  # from notebooks/ to the root of the repository

# %matplotlib inline
import shutil

import jax
from absl import logging

logging.set_verbosity(logging.ERROR)  # libraries warn of what is meant to be so
RUNS = 'runs/notebooks/2'  # the folder of this notebook's runs; each start of it begins anew
shutil.rmtree(RUNS, ignore_errors=True)
jax.devices()

# %% [markdown]
# ## How much to run?
#
# `SMALL = True` trains a narrow network on 200 digits. `SMALL = False` is the paper's own
# experiment, a WRN-16-4 on CIFAR-100, for an accelerator: the cell below says for how long. It
# downloads CIFAR-100 (about 160 MB), and its runs go on where they were interrupted. In between is
# `experiments/figures/fig2_growing_batch.py:small`, on 1,600 photographs, for hours of a CPU
# ([docs/sweeps.md](../docs/sweeps.md)).

# %%
import dataclasses

from experiments.figures import fig2_growing_batch

SMALL = True

if SMALL:
  sweep = fig2_growing_batch.get_sweep('tiny,seeds=2')
  points = [
    point
    for point in sweep.points
    if (point['augmult'], point['total_epochs']) in ((1, 24), (1, 48), (16, 24))
    and point['optimizer.learning_rate'] in (0.05, 0.1)
  ]
  sweep = dataclasses.replace(sweep, points=points)
  print(f'{len(points)} runs, about two minutes on two CPU cores')
else:
  RUNS = 'runs/fig2'  # which stays, so that the runs go on
  sweep = fig2_growing_batch.get_sweep('seeds=1')  # the paper has seven
  base = sweep.base.copy_and_resolve_references()
  base.update_from_flattened_dict(
    {
      'dataset.allow_download': True,
      'dataset.data_dir': 'data',
      'input': 'device',
      'steps_per_dispatch': 50,
      'compute_dtype': 'bfloat16',
      'evaluation.batch_size': 2000,
    }
  )
  sweep = sweep.with_base(base.lock())
  hours = sweep.accelerator_hours / 7
  print(f'{len(sweep.points)} runs, about {hours:.0f} hours at 17,000 images per second')

# %% [markdown]
# On one NVIDIA H200, which trains a WRN-16-4 on [133,000 images per
# second](../docs/results/accelerators/nvidia_h200.md), it is an eighth of these hours. With less
# time, `./launch/reproduce.sh HOURS` asks the paper's central question with runs as long as the
# hours allow.
#
# ## Does a larger n reach a higher accuracy, in fewer epochs? (Section 2, Figure 2a)
#
# The number of different images in a batch is kept, 16 here and 64 in the paper, and the batch
# grows with n. So n only takes away noise that comes from augmentation. If that noise were useful,
# as the noise from small batches is, accuracy would fall with n. Each point is at its best learning
# rate; bars are standard errors. The longest runs of n = 16 have half of the epochs of the longest
# ones of n = 1, as in the two numbers that the paper prints.

# %%
import functools

from nfnets_augmult import live
from nfnets_augmult.report import figures

published = sweep.description()['published']
draw = functools.partial(
  figures.accuracy_against_length, **{'beside' if SMALL else 'published': published}
)
runs = live.run_sweep(sweep, RUNS, draw, together=not SMALL)

# %% [markdown]
# On the right are the two numbers that the paper prints for this figure: a slightly higher accuracy
# for n = 16, after half of the epochs. On the left the same shows on digits: n = 16 is well ahead
# for the same number of epochs, and after 24 it has at least what n = 1 has after 48. The
# accuracies themselves cannot be compared, only their order: these are other images, another
# network, and 250 times fewer images.
#
# ## Does it converge faster? (Figure 2b)
#
# The loss on the training images as they are, without augmentation, where it is least:

# %%
figures.training_loss_against_length(runs)

# %% [markdown]
# ## Which learning rates are stable? (Figure 2c)
#
# The paper: alike at small learning rates, and large n is ahead at large ones. Here n = 1 falls off
# at the larger of two. How far is a matter of luck: so near the edge of stability, rounding decides
# what becomes of a run, and with it the kind of processor
# ([docs/stability.md](../docs/stability.md)). A cross, below, is a point where training diverged.

# %%
figures.accuracy_against_learning_rate(runs)

# %% [markdown]
# ## What was recorded in this repository
#
# The same figures from more runs, drawn from the records in
# [docs/results](../docs/results/README.md), with all seeds and learning rates. They are of the tiny
# variants, too, each of some minutes on a CPU; pages there say what shows and what does not.
#
# ### Figure 2: growing batch, 108 runs

# %%
from nfnets_augmult.report import archive

sweeps, runs = archive.read('docs/results/fig2')
figures.accuracy_against_length(runs, beside=sweeps[0]['published'])

# %%
figures.accuracy_against_learning_rate(runs)

# %% [markdown]
# ### Figure 4: large batches of a fixed size, 210 runs (Section 3)
#
# Half of the finding shows: n = 4 needs far fewer epochs. At equal updates, which is at equal
# compute, n = 1 is ahead here, and the paper has n = 4 ahead. A batch of 64 is a third of these
# training images, and leaves four different ones at n = 16; the paper's 1,024 is 2 % of CIFAR-100.

# %%
sweeps, runs = archive.read('docs/results/fig4')
figures.accuracy_against_length(runs, beside=sweeps[0]['published'])

# %%
figures.accuracy_against_length(runs, unit='updates')

# %% [markdown]
# ### Figure 5: small batches of a fixed size, 72 runs (Section 3)

# %%
_, runs = archive.read('docs/results/fig5')
figures.accuracy_against_length(runs)

# %% [markdown]
# ### Figures 6 and 7: training loss, learning rate and temperature, 150 runs (Section 4)
#
# At equal updates small n has the lower *training* loss, as the paper found (Figures 6a and 6b): n
# does not help to fit the training images.

# %%
_, runs = archive.read('docs/results/fig6_7')
figures.training_loss_against_length(runs, unit='updates')

# %% [markdown]
# Against the temperature, learning rate times n, large n is stable further to the right (Figure 7):

# %%
figures.accuracy_against_learning_rate(runs, temperature=True)

# %% [markdown]
# ### Figures 11 and 12: copies in successive batches, and dropout masks (Appendices C and D)
#
# Dashed: the copies of an image are spread over n successive batches. The paper finds that this
# helps less; at this size it does not show.

# %%
_, runs = archive.read('docs/results/fig11')
figures.accuracy_against_learning_rate(runs)

# %% [markdown]
# Instead of copies, n dropout masks for each sample. The paper: the accuracy does not depend on n,
# the training loss falls faster.

# %%
_, runs = archive.read('docs/results/fig12')
figures.accuracy_against_length(runs)

# %% [markdown]
# ### The central claim, on CIFAR-100 itself (Section 3)
#
# Digits cannot decide whether n = 4 is better at equal updates. This was asked of photographs of
# CIFAR-100, by a rule that was written before
# ([docs/results/claim.md](../docs/results/claim.md)): of 800 at 16 x 16 pixels in hours of a CPU,
# long enough that all of them are learnt, and of 12,800 for the four minutes of an accelerator that
# there were:

# %%
from IPython.display import Markdown

from nfnets_augmult.report import tables

rows = []
for folder in ('docs/results/claim/cpu', 'docs/results/claim'):
  _, runs = archive.read(folder)
  rows += tables.comparison_rows(runs, 'test/raw/top_1')
shown = ('setting', 'updates', 'n', 'difference (%)', 'interval (%)', 'verdict')
Markdown(tables.markdown_table([{key: row[key] for key in shown} for row in rows]))

# %% [markdown]
# n = 4 is ahead in none of them. After 3,750 updates of the larger networks that has a reason: n
# = 4 has made a quarter of the passes over the images, and has not converged. Among the small
# networks it has: after 20,000 updates it is level with n = 1, after 40,000 half a per cent
# behind, unless its copies are in neighbouring batches. n = 2 is ahead after 20,000, the one of
# these comparisons that favours several copies; after 40,000 it can no longer be told from n = 1,
# and nor can n = 8. The paper's runs have up to 400,000 updates, and hundreds of different images
# in a batch. This is the experiment to run with `SMALL = False`, or with `./launch/reproduce.sh`,
# for whoever has the hours.
