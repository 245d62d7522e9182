# %% [markdown]
# # What augmentation multiplicity is
#
# You will see which images and which of their copies fill the batches of a run, how the loss falls
# while a small network learns handwritten digits from four copies of each, and how n = 4 compares
# with n = 1; about four minutes on two CPU cores.
#
# The idea is from [Fort, Brock, Pascanu, De and Smith, 2021](https://arxiv.org/abs/2105.13343),
# *Drawing Multiple Augmentation Samples Per Image During Training Efficiently Decreases Test
# Error*. No knowledge of it is needed here. Sections and figures in parentheses are of that paper.

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
RUNS = 'runs/notebooks/1'  # the folder of this notebook's runs; each start of it begins anew
shutil.rmtree(RUNS, ignore_errors=True)
jax.devices()

# %% [markdown]
# ## What fills a batch? (Section 1, Figure 1)
#
# Image classifiers are trained on *augmented* images: shifted, mirrored, distorted at random, anew
# each time an image comes up. Usually a batch holds one such copy of each of its images. With an
# **augmentation multiplicity** of n it holds n independent copies of each, and the loss is the mean
# over them (equation 2):
#
# $$\frac{1}{n} \sum_{i=1}^n \ell\big(F(x, \xi_i)\big)$$
#
# where $F(x, \xi)$ is the image $x$ augmented by the random numbers $\xi$.
#
# Below, a colour is an image, of twenty, and a letter is one of its copies. There are two ways to
# get from n = 1 to n = 4: keep the batch size and take fewer different images (the **fixed batch**,
# Section 3), or keep the images and let the batch grow (the **growing batch**, Section 2). The last
# strip spreads the copies over successive batches instead (*neighbouring*, Appendix C), which the
# paper found to help less.

# %%
from nfnets_augmult import Multiplicity
from nfnets_augmult.runs.slots_picture import draw_slots

TWENTY = {'num_images': 20, 'seed': 1}
draw_slots(
  [
    (
      'ordinary training: n = 1, batch size 8',
      Multiplicity(unique_images_per_batch=8, augmult=1, **TWENTY),
    ),
    (
      'fixed batch: n = 4, batch size 8, so 2 different images',
      Multiplicity(unique_images_per_batch=2, augmult=4, **TWENTY),
    ),
    (
      'growing batch: n = 4 with 8 different images, so batch size 32',
      Multiplicity(unique_images_per_batch=8, augmult=4, **TWENTY),
    ),
    (
      'neighbouring: n = 4, batch size 8, one copy in each of 4 successive batches',
      Multiplicity(unique_images_per_batch=8, augmult=4, placement='neighbouring', **TWENTY),
    ),
  ],
  num_steps=2,
)

# %% [markdown]
# ## What does the network get to see?
#
# The digits that come with scikit-learn are 8 pixels wide, and the augmentation shifts them by up
# to one pixel in each direction: there are nine different copies of a digit. They are a small
# problem, but a real one, and need no download. One row for each image, with its four copies:

# %%
from experiments import quickstart_digits
from nfnets_augmult.runs import pictures
from nfnets_augmult.runs.run import Run

config = quickstart_digits.get_config()
config.input = 'device'  # the batches are made where the network is
pictures.contact_sheet_of(Run(config))

# %% [markdown]
# ## What does n do to epochs, updates and the temperature? (Sections 3 and 4)
#
# An **epoch** is one pass over the different images, whatever n is. At a fixed batch size an epoch
# with n = 4 has four times as many updates. What costs compute is updates times batch size, so runs
# with different n are compared after *equal updates*.
#
# The **temperature** is the learning rate times n. At a fixed batch size it is proportional to the
# learning rate over the number of *different* images in the batch, which by the paper's argument is
# what regularizes: the noise from the choice of images helps, that from augmentation does not.

# %%
from IPython.display import Markdown

lines = [
  '| scheme | n | different images | batch size | updates per epoch | temperature |',
  '| --- | --: | --: | --: | --: | --: |',
]
for scheme, sizes in (
  ('fixed batch', {'batch_size': 64, 'unique_images_per_batch': 0}),
  ('growing batch', {'batch_size': 0, 'unique_images_per_batch': 16}),
):
  for augmult in (1, 4, 16):
    config.update({'augmult': augmult, **sizes})
    plan = Run(config).plan
    batch = plan.multiplicity
    lines.append(
      f'| {scheme} | {augmult} | {batch.unique_images_per_batch} | {batch.batch_size} '
      f'| {batch.steps_per_epoch:.0f} | {plan.temperature:g} |'
    )
Markdown('\n'.join(lines))

# %% [markdown]
# ## Does a network learn from four copies of each image?
#
# The quickstart of the README, for three of its fifteen epochs: a small Wide-ResNet without
# normalization, 16 images with n = 4 in each batch. The curves are drawn again every few seconds
# while it trains. First comes what follows from the config.

# %%
from nfnets_augmult import live

config = quickstart_digits.get_config()
config.input = 'device'
config.total_epochs = 3.0
config.evaluation.every_epochs = 1.0
result = live.train(config, f'{RUNS}/quickstart')
print(f'{100 * result["test/raw/top_1"]:.1f} % of the test digits are named correctly')

# %% [markdown]
# The grey curve is the loss on what the network is shown, the augmented copies; the blue one is the
# loss on the same images as they are. *Averaged parameters* are a running mean over the updates.

# %% [markdown]
# ## Is n = 4 better than n = 1? (Section 3, Figures 4a and 4b)
#
# The paper's answer for CIFAR-100 and large batches: yes, 73.7 against 72.1 % after 400,000 updates
# of 1,024 samples each, and with far fewer epochs. Here is the experiment made tiny, to see in
# minutes how it goes, not to answer the question: 200 of the digits to train on, 1,237 others to
# test on, batches of 64, two learning rates, four seeds each. n = 1 and n = 4 get 400 updates,
# which are 128 and 32 epochs; n = 1 also gets 100 updates, which are its 32 epochs. As in the
# paper, each point is at its best learning rate. On an accelerator, seeds and learning rates of one
# n and length train together in one program.

# %%
from nfnets_augmult.recipes import tiny_digits_recipe
from nfnets_augmult.report import figures
from nfnets_augmult.sweep.grid import Sweep, grid

base = tiny_digits_recipe()
base.batch_size = 64
rest = {'optimizer.learning_rate': (0.05, 0.1), 'seed': range(4)}
sweep = Sweep(
  title='n = 1 and n = 4',
  base=base,
  points=grid({'augmult': (1, 4), 'total_epochs': (32.0,), **rest})
  + grid({'augmult': (1,), 'total_epochs': (128.0,), **rest}),
  expected='n = 4 is ahead at equal epochs, and in the paper also at equal updates.',
)
runs = live.run_sweep(
  sweep,
  f'{RUNS}/sweep',
  figures.accuracy_against_length,
  together=jax.default_backend() != 'cpu',
)

# %% [markdown]
# Against **epochs**, n = 4 is far ahead: it needs a quarter of the passes over the images. Against
# **updates**, that is at equal compute:

# %%
figures.accuracy_against_length(runs, unit='updates')

# %% [markdown]
# Which learning rates? For large batches the paper found the same ones to be best for all n (Figure
# 6c), and large n to be stable at higher temperatures (Figure 7).

# %%
figures.accuracy_against_learning_rate(runs)

# %% [markdown]
# ### Can one tell?
#
# Runs that share a seed are compared in pairs. The learning rate of each n is the one that is best
# for the first seed, which then does not count. The interval is that of Student's t:

# %%
from nfnets_augmult.report import verdict

for compared in verdict.comparisons(runs, 'test/raw/top_1'):
  n_1, n_4 = 100 * compared.pairs.mean(axis=0)
  print(f'after {compared.runs[0].updates} updates: n = 1 {n_1:.2f} %, n = 4 {n_4:.2f} %')
  test = compared.test
  print(
    f'n = 4 is ahead by {n_4 - n_1:.2f} %, 95 % interval {100 * test.low:.2f} to '
    f'{100 * test.high:.2f} %: {test.verdict}'
  )

# %% [markdown]
# At equal epochs n = 4 is far ahead: n = 1 has made a quarter of the updates by then. At equal
# updates, that is at equal compute, n = 1 is ahead by about one per cent. Whether that is
# *undecided* or *refuted*, in the words of a rule that was written before
# ([docs/results/claim.md](../docs/results/claim.md)), differs between machines: of three
# pairs, rounding is enough to turn it. Either says little about larger runs. A batch of 64 is a
# third of these 200 images, n = 4 leaves 16 different ones in it, and 400 updates are few. In the
# paper a batch is 2 % of the images, and n = 4 is ahead after hundreds of thousands of updates.
#
# What the tiny experiment does show is the price of a large n, which the paper names too: for the
# same updates it learns the training images more slowly (Figure 6).
#
# The smallest experiment here that is like the paper's takes hours of a CPU: 1,600 photographs,
# batches of 2 % of them, and up to 400 epochs, with `experiments/figures/fig4_cifar.py:small`
# ([docs/sweeps.md](../docs/sweeps.md)).
#
# What the paper's experiment would take, and what came out of the recorded runs of this repository:
# the notebook [2_paper_figures.ipynb](2_paper_figures.ipynb) and
# [docs/results](../docs/results/README.md). Where the noise of a gradient comes from, which is the
# paper's explanation: [3_gradient_variance.ipynb](3_gradient_variance.ipynb).
#
# On your own data, `--config.augmult=4` is all that changes in the command of a run; see the
# [README](../README.md).
