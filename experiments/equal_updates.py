r"""The paper's claim: at a fixed batch size and equal updates, n > 1 has the higher test accuracy.

    ./launch/reproduce.sh HOURS --data_dir=DIR

Wide-ResNets on CIFAR-100 with batches of 2 % of the training images, as the paper's large batches
(Section 3, Figure 4b), in the sizes that hours on one accelerator allow: a WRN-16-2 on the first
12,800 images with batches of 256, then the paper's WRN-16-4 on all of them with batches of 1,024,
up to its 400,000 updates. n = 4 is compared with n = 1 first, then 16, 2 and 8;
docs/results/claim.md has the design. Sizes and learning rates are ours.

`:small` is to try the program: on digits, in minutes on a CPU. It cannot decide the question.
"""

from nfnets_augmult.recipes import cifar100_recipe, small_digits_recipe
from nfnets_augmult.reproduce.design import Design
from nfnets_augmult.sweep.grid import Published

TITLE = 'n > 1 at equal updates'
EXPECTED = 'At a fixed batch size and equal updates n = 4 has a higher test accuracy than n = 1.'
PUBLISHED = (
  Published(72.1, {'augmult': 1, 'total_steps': 400_000}, 'Section 3', standard_error=0.1),
  Published(73.7, {'augmult': 4, 'total_steps': 400_000}, 'Section 3', standard_error=0.04),
)
AUGMULTS = (1, 4, 16, 2, 8)


def get_design(argument=''):
  """Returns the runs; `small` for those on digits."""
  if argument not in ('', 'small'):
    raise ValueError(f'{argument!r} after the colon of --config is not small')
  base = small_digits_recipe() if argument else cifar100_recipe()
  base.input = 'device'
  base.evaluation.every_epochs = 10_000.0  # after the last step only
  base.checkpoint.keep = 1
  if argument:
    base.batch_size = 16
    sizes = [{'total_steps': steps, 'batch_size': 16} for steps in (50, 100, 200, 400, 800)]
  else:
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
  base.update_from_flattened_dict(sizes[0])
  return Design(
    title=TITLE,
    base=base,
    sizes=sizes,
    augmults=AUGMULTS,
    learning_rates=(0.05, 0.1, 0.2),
    expected=EXPECTED,
    published=PUBLISHED,
  )


def get_config(argument=''):
  """Returns the config of the smallest runs, n = 1."""
  return get_design(argument).base
