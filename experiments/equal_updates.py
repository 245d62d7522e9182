r"""The paper's claim: at a fixed batch size and equal updates, n > 1 has the higher test accuracy.

    ./launch/reproduce.sh HOURS --data_dir=DIR

Wide-ResNets on CIFAR-100 with batches of 2 % of the training images, as the paper's large batches
(Section 3, Figure 4b), in the sizes that hours on one accelerator allow: a WRN-16-2 on the first
12,800 images with batches of 256, then the paper's WRN-16-4 on all of them with batches of 1,024,
up to its 400,000 updates. n = 4 is compared with n = 1 first, then 16, 2 and 8;
docs/results/claim.md has the design. Sizes and learning rates are ours.

`:small` asks the same in hours of a CPU, of 800 photographs of ten classes at 16 x 16 pixels and a
WRN-10-1, in batches of 16, up to 800 epochs; `recipes.small_photographs_recipe` says how the data
are written, and `:small,steps=40000` fixes the length. `:tiny` is to see that the program runs, on
digits in minutes: it cannot decide the question.
"""

from nfnets_augmult.recipes import (
  cifar100_recipe,
  small_photographs_recipe,
  tiny_digits_recipe,
)
from nfnets_augmult.reproduce.design import Design
from nfnets_augmult.sweep.grid import Published

TITLE = 'n > 1 at equal updates'
EXPECTED = 'At a fixed batch size and equal updates n = 4 has a higher test accuracy than n = 1.'
PUBLISHED = (
  Published(72.1, {'augmult': 1, 'total_steps': 400_000}, 'Section 3', standard_error=0.1),
  Published(73.7, {'augmult': 4, 'total_steps': 400_000}, 'Section 3', standard_error=0.04),
)


def get_design(argument=''):
  """Returns the runs; `small` or `tiny` for smaller ones, with `steps=N` of that length only."""
  name, *rest = argument.split(',')
  if name not in _VARIANTS:
    raise ValueError(f'{name!r} after the colon of --config is neither small nor tiny')
  base, sizes, rest_of_design = _VARIANTS[name]()
  for part in rest:
    key, _, value = part.partition('=')
    if key != 'steps' or not value.isdigit() or not int(value):
      raise ValueError(f'{part!r} after the colon of --config is not steps=N')
    sizes = [{**sizes[0], 'total_steps': int(value)}]
  base.evaluation.every_epochs = 10_000.0  # after the last step only
  base.checkpoint.keep = 1
  base.update_from_flattened_dict(sizes[0])
  return Design(
    title=TITLE,
    base=base,
    sizes=sizes,
    expected=EXPECTED,
    published=PUBLISHED,
    **rest_of_design,
  )


def _on_an_accelerator():
  base = cifar100_recipe()
  base.input = 'device'
  base.compute_dtype = 'bfloat16'
  base.steps_per_dispatch = 50
  base.evaluation.batch_size = 2000
  base.checkpoint.every_steps = 5000
  part = {'dataset.train_split': 'train[:12800]', 'model.name': 'wrn_16_2', 'batch_size': 256}
  whole = {'dataset.train_split': 'train', 'model.name': 'wrn_16_4', 'batch_size': 1024}
  sizes = [{**part, 'total_steps': steps} for steps in (2500, 3750, 5000, 7500, 10_000)]
  sizes += [
    {**whole, 'total_steps': steps}
    for steps in (6250, 12_500, 25_000, 50_000, 100_000, 200_000, 400_000)
  ]
  return base, sizes, {'augmults': (1, 4, 16, 2, 8), 'learning_rates': (0.05, 0.1, 0.2)}


def _small():
  base = small_photographs_recipe()
  base.dataset.train_split, base.dataset.test_split = 'train[:800]', 'train[800:]'
  sizes = [{'batch_size': 16, 'total_steps': steps} for steps in (10_000, 20_000, 40_000)]
  rest = {
    'augmults': (1, 4, 2, 8),
    'neighbouring': (4,),
    'learning_rates': (0.0125, 0.025, 0.05),
    'pairs': 8,
  }
  return base, sizes, rest


def _tiny():
  sizes = [{'batch_size': 16, 'total_steps': steps} for steps in (50, 100, 200, 400, 800)]
  rest = {'augmults': (1, 4, 16, 2, 8), 'learning_rates': (0.05, 0.1, 0.2)}
  return tiny_digits_recipe(), sizes, rest


_VARIANTS = {'': _on_an_accelerator, 'small': _small, 'tiny': _tiny}


def get_config(argument=''):
  """Returns the config of the smallest runs, n = 1."""
  return get_design(argument).base
