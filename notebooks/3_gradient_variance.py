# %% [markdown]
# # Images or augmentations: where does the noise come from?
#
# You will see how much of the noise of a gradient comes from the choice of images and how much from
# their augmentation, before and after training, and what n does about it, on handwritten digits and
# in the paper's Figure 9; about three minutes on two CPU cores.
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
RUNS = 'runs/notebooks/3'  # the folder of this notebook's runs; each start of it begins anew
shutil.rmtree(RUNS, ignore_errors=True)
jax.devices()

# %% [markdown]
# ## Why does it matter? (Section 4)
#
# The gradient of a batch is noisy for two reasons: the batch is a sample of the training images,
# and each copy is a sample of the augmentations of its image. With $g$ the gradient for one copy of
# one image, the law of total variance takes the two apart:
#
# $$\mathrm{Var}[g] = \underbrace{\mathrm{Var}_x\,\mathrm{E}[g \mid x]}_{\text{images}}
# + \underbrace{\mathrm{E}_x\,\mathrm{Var}[g \mid x]}_{\text{augmentation}}$$
#
# A batch of U images with n copies each has the variance images / U + augmentation / (U n). (Less
# by a factor of 1 - U / N in the first term, as images are drawn without replacement.) So n lowers
# the second part where U is kept, and at a fixed batch size B = U n it raises the first n-fold and
# leaves the second.
#
# The paper concludes that noise of the first kind *helps* a network to generalize, and noise of the
# second kind *harms*. How large each is depends on the data, the augmentation and the stage of
# training. The variance is measured here, by gradients of single copies, as a sum over all
# parameters, with 95 % intervals; [docs/variance.md](../docs/variance.md) says how.
#
# ## Something to measure: a network that learns digits
#
# A small Wide-ResNet, 16 images with n = 4 in each batch, three epochs.

# %%
from experiments import quickstart_digits
from nfnets_augmult import live

config = quickstart_digits.get_config()
config.input = 'device'
config.total_epochs = 3.0
config.evaluation.every_epochs = 1.0
result = live.train(config, f'{RUNS}/digits')

# %% [markdown]
# ## Where does the noise come from before training?
#
# Bars are the variance of the gradient of a batch against n, divided into its two parts: on the
# left with 16 images whatever n is, on the right with 64 samples in all.

# %%
from nfnets_augmult.runs.run import Run
from nfnets_augmult.variance import measuring, report

run = Run.open(f'{RUNS}/digits')
before = measuring.measure(run, checkpoint='initialization', screened_images=64)
report.draw(before)['variance.png']

# %% [markdown]
# Nearly all of it is the choice of images: the network does not know its images yet, and a shift by
# a pixel changes little. Copies of an image are then hardly worth more than one of them.

# %%
from IPython.display import Markdown

Markdown(report.text(before))

# %% [markdown]
# ## And after training?

# %%
after = measuring.measure(run)
report.draw(after)['variance.png']

# %%
Markdown(report.text(after))

# %% [markdown]
# Now the network agrees with the images, and what is left is largely how they happen to be
# augmented. This is the noise that the paper finds harmful, and that n removes: compare the dark
# parts of the bars on the left. n = 4 removes about half of all noise there. The same compute spent
# on more images would remove more, but of the kind that helps.
#
# A few images that the network still gets wrong make up much of what is left. So that they are not
# missed, the outputs of all images were looked at, and gradients taken of images drawn by how wrong
# the network is; weights make up for that. Before training all images are alike, and a few of them
# will do.
#
# The shares of augmentation, with their intervals:

# %%
for name, raw in (('before', before), ('after', after)):
  share, low, high = report.summarize(raw)['augmentation_share']
  print(f'{name} training: {100 * share:.0f} % ({100 * low:.0f} to {100 * high:.0f} %)')

# %% [markdown]
# ## Do measured batches agree? (Appendix A, Figure 9)
#
# The paper measures the variance *between batches* at initialization, without weight decay. Points
# are that measurement, of 32 batches each, on the digits; dashed lines are what the two parts of
# the variance of single samples predict. On the left the paper's average, over the parameters of a
# layer and then over layers, on the right the sum over all parameters.

# %%
from experiments.figures import fig9_variance

run = Run(fig9_variance.get_config('tiny'))
digits = measuring.measure(
  run,
  checkpoint='initialization',
  augmults=(1, 2, 4, 8),
  minibatches=32,
  images_per_block=8,
  screened_images=64,
)
report.draw(digits)['fig9.png']

# %% [markdown]
# The same at the paper's own scale, WRN-16-4 on CIFAR-100, as it was recorded in
# [docs/results/fig9.md](../docs/results/fig9.md) in 15 minutes on two CPU cores:

# %%
report.draw(report.read_raw('docs/results/fig9'))['fig9.png']

# %% [markdown]
# The paper's finding shows in both: at a fixed batch size the variance grows with n, nearly in
# proportion. With the number of images kept it hardly depends on n on CIFAR-100, and falls a little
# on the digits, of which a shift by one pixel in eight changes more. That is a statement about the
# start of training, where there is little noise from augmentation. Later n does remove a good part
# of it, as the pictures above show.
#
# ## What would n remove on your data?
#
# One command tells for any run, at any of its checkpoints:
#
# ```
# python -m nfnets_augmult.variance --workdir=runs/photos
# ```
#
# or, in a notebook, `measuring.measure(Run.open('runs/photos'))`. Before training, give a config:
# for example stronger augmentation of the digits, shifts of up to two pixels. (At the start it
# matters little; measure again after some epochs.)

# %%
config = quickstart_digits.get_config()
config.input = 'device'
config.augmentation.pad = 2
stronger = measuring.measure(Run(config), checkpoint='initialization', screened_images=64)
for name, raw in (('one pixel', before), ('two pixels', stronger)):
  share, low, high = report.summarize(raw)['augmentation_share']
  print(f'shifts of up to {name}: {100 * share:.0f} % ({100 * low:.0f} to {100 * high:.0f} %)')
