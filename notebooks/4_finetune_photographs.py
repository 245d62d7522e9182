# %% [markdown]
# # Fine-tune an NFNet on your photographs
#
# You will see a network without normalization learn five classes of photographs from weights of
# another run, what n, SAM and gradient clipping do to it, where it errs, and how it is exported to
# PyTorch; about four minutes on two CPU cores.
#
# Sections in parentheses are of [Fort, Brock, Pascanu, De and Smith,
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
RUNS = 'runs/notebooks/4'  # the folder of this notebook's runs; each start of it begins anew
shutil.rmtree(RUNS, ignore_errors=True)
jax.devices()

# %% [markdown]
# ## Which photographs?
#
# One folder for each class, in `train/` and in `test/`; `PHOTOS` may be yours. Here they are cut
# from a few photographs that come with scikit-learn and Matplotlib: eight pieces of each class to
# train on, and others, from another part of the photograph, to test on.

# %%
from notebooks import sample_photographs

PHOTOS = f'{RUNS}/photographs'
sample_photographs.write(PHOTOS, 'garden', train_images=8, test_images=12)
sorted(os.listdir(f'{PHOTOS}/train'))

# %% [markdown]
# ## Which network, and which weights?
#
# `SMALL = True` takes an NF-ResNet-26, of the family from which NFNets come, at 32 pixels, which
# two CPU cores can train. `SMALL = False` takes an NFNet-F0 at its own size, for an accelerator, a
# few minutes there.
#
# Weights go **in** through `init_from`. It takes
#
# * the work directory of another run, as here: nothing is downloaded, so a stand-in is trained for
#   half a minute on pieces of another photograph;
# * a released file, such as `F0_haiku.npz` of the NFNet authors;
# * a file of timm: `model.safetensors` of its `dm_nfnet_f0` goes into the model `nfnet_f0`, that of
#   its `nf_resnet50` into `timm_nf_resnet50`; [docs/nfnets.md](../docs/nfnets.md) has the others.
#
# A classifier for other classes is not loaded, and starts anew.

# %%
from nfnets_augmult.recipes import finetune_recipe

SMALL = True
WEIGHTS = f'{RUNS}/weights'  # or the path of a file

config = finetune_recipe('f0', augmult=4, num_images=40)
config.dataset.data_dir = PHOTOS
config.freeze, config.freeze_steps = '', 0
if SMALL:
  config.update_from_flattened_dict(
    {
      'model.name': 'timm_nf_resnet26',
      'compute_dtype': 'float32',
      'dataset.image_size': 32,
      'dataset.test_image_size': 32,
      'batch_size': 16,
      'total_steps': 16,
      'optimizer.warmup_steps': 2,
      'optimizer.learning_rate': 0.2,
      'ema_decay': 0.8,
      'evaluation.crop_padding': 8,
      'evaluation.every_epochs': 0.8,
      'evaluation.train_images': 0,
      'log_every_steps': 1,
    }
  )
print(config.model.name, config.dataset.image_size, 'pixels,', config.total_steps, 'updates')

# %%
from nfnets_augmult import live
from nfnets_augmult.sweep import running

running.cache_compiled_programs(RUNS)  # runs of one shape share their programs
if not os.path.exists(WEIGHTS):
  others = f'{RUNS}/other_photographs'
  sample_photographs.write(others, 'portrait', train_images=16, test_images=12)
  pretraining = config.copy_and_resolve_references()
  pretraining.dataset.data_dir = others
  pretraining.total_steps *= 2
  result = live.train(pretraining, WEIGHTS)

# %% [markdown]
# ## What does the network get to see?
#
# A row for each photograph, beside it its n = 4 copies: crops of random size and place, mirrored or
# not, and changed by two random operations of RandAugment, as NFNets are trained (Section 5).

# %%
from nfnets_augmult.runs import pictures
from nfnets_augmult.runs.run import Run

config.init_from = WEIGHTS
pictures.contact_sheet_of(Run(config))

# %% [markdown]
# ## Does it learn the photographs?
#
# A batch has 16 samples: four photographs, each four times.

# %%
FINETUNED = f'{RUNS}/augmult=4,rho=0,clipping=0.01'
result = live.train(config, FINETUNED)
print(f'{100 * result["test/ema/top_1"]:.0f} % of the test photographs, averaged parameters')

# %% [markdown]
# ## What do n, SAM and clipping do?
#
# They are keys of the config, and so they can be switched one by one, at equal updates:
#
# * `augmult`: with n = 1 a batch has 16 photographs, one copy of each.
# * `sam.rho`: **sharpness-aware minimization** takes the gradient not where the parameters are, but
#   a step of length rho uphill from there. That keeps away from sharp minima, and costs two
#   gradients for each update. The paper's best results have it (Table 2).
# * `optimizer.clipping`: **adaptive gradient clipping** bounds the gradient of each unit by a share
#   of the norm of its weights, here a hundredth. A network without normalization has nothing else
#   that bounds an update, and what it is worth shows at a large learning rate, such as this one.
#
# Each run is called after what it was switched to; the first is the run above.

# %%
from nfnets_augmult.runs import curves
from nfnets_augmult.sweep.grid import Sweep
from nfnets_augmult.training import records

base = config.copy_and_resolve_references()
base.evaluation.every_epochs = 1000.0  # after the last update only
keys = ('augmult', 'sam.rho', 'optimizer.clipping')
settings = [(1, 0.0, 0.01), (4, 0.05, 0.01), (4, 0.0, 0.0)]
sweep = Sweep(
  title='n, SAM and clipping',
  base=base,
  points=[dict(zip(keys, values, strict=True)) for values in settings],
  expected='',
)
runs = live.run_sweep(
  sweep,
  f'{RUNS}/switched',
  lambda runs: curves.draw_comparison(
    {
      os.path.basename(path): records.read_metrics(f'{path}/metrics.jsonl')
      for path in (FINETUNED, *(run.path for run in runs))
    }
  ),
)

# %% [markdown]
# Without clipping the loss is beyond all measure after a few updates, and the run ends there; with
# it the same learning rate trains. The other differences are of single runs on 60 test photographs,
# of which one is 1.7 %: n = 4 is ahead of n = 1 and of SAM here, and that may be chance. After so
# few updates SAM cannot show what it is for.
#
# ## Where does it err?
#
# The ten test photographs whose own class got the least probability: what the network says, and
# below it what it is.

# %%
import numpy as np

from nfnets_augmult import load_predictor
from nfnets_augmult.assessment.image_sheet import Shown, draw_sheet

predictor = load_predictor(FINETUNED)
paths = sorted(pathlib.Path(PHOTOS, 'test').rglob('*.png'))
predictions = predictor(paths)
own = [predictor.class_names.index(path.parent.name) for path in paths]
order = np.argsort(predictions.probabilities[np.arange(len(paths)), own])[:10]
shown = []
for index in order:
  ((name, probability),) = predictions.top(1)[index]
  lines = [f'{name}, {100 * probability:.0f} %', f'is {paths[index].parent.name}']
  shown.append(Shown(predictor.shown(paths[index]), lines))
draw_sheet('the test photographs that it finds hardest', shown)

# %% [markdown]
# ## What does it say of other photographs?
#
# Paths, images of Pillow and arrays are all the same to it. These are the two photographs as a
# whole, of which the network gets the centre; `copies=16` averages over augmented copies instead.

# %%
from sklearn import datasets

photographs = datasets.load_sample_images().images
for copies in (0, 16):
  for name, top in zip(
    ('china.jpg', 'flower.jpg'), predictor(photographs, copies=copies).top(2), strict=True
  ):
    likely = ', '.join(f'{label} {100 * probability:.0f} %' for label, probability in top)
    print(f'{name}, {f"{copies} copies" if copies else "centre"}: {likely}')

# %% [markdown]
# ## How does it get to PyTorch?
#
# `.safetensors` holds the averaged parameters under timm's names, in PyTorch's layouts; where timm
# has the network, it computes the same there. `.npz` holds plain arrays of any network. Both files
# say their classes and how images are read, so `load_predictor(params=...)` predicts from them,
# here with the same probabilities.

# %%
from nfnets_augmult.runs import exporting
from nfnets_augmult.weights import param_files

path = f'{RUNS}/photographs.safetensors'
count = exporting.export(path, workdir=FINETUNED)
again = load_predictor(params=path)(paths)
difference = np.abs(again.probabilities - predictions.probabilities).max()
said = param_files.read_metadata(path)
print(f'{count:,} parameters; probabilities differ by at most {difference:.1g}')
print(
  f"timm.create_model('{said['timm_model']}', num_classes={said['num_classes']}, "
  f"checkpoint_path='{path}')"
)

# %% [markdown]
# ## And on your photographs?
#
# Put the path of your folder into `PHOTOS`, that of the weights into `WEIGHTS`, and leave out the
# cells that make stand-ins; or on the command line:
#
# ```
# python -m nfnets_augmult.train --config=experiments/finetune.py:f0,n=4,images=3000 \
#     --config.init_from=F0_haiku.npz --config.dataset.data_dir=photos --workdir=runs/photos_f0
# python -m nfnets_augmult.predict --workdir=runs/photos_f0 holiday portrait.jpg
# python -m nfnets_augmult.export --workdir=runs/photos_f0 --output=photos.safetensors
# ```
