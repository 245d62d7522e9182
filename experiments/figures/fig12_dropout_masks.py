r"""Figure 12: the gradient averaged over n dropout masks, WRN-16-4 on CIFAR-100 (Appendix D).

    python -m nfnets_augmult.train --config=experiments/figures/fig12_dropout_masks.py:n=4 \
        --config.dataset.data_dir=DIR --config.optimizer.learning_rate=0.05 \
        --workdir=runs/fig12_n4

Dropout with drop rate 0.4 before the classifier, 64 images per batch, one augmentation of each.
Here n counts dropout masks, `dropout_masks`, and not copies of images: augmult is 1 throughout, so
the batch holds 64 samples for every n, and temperature and learning rate are the same number. The
network below the dropout is computed once for all n masks.

Expected: the test accuracy does not depend much on n; training loss falls sooner with larger n;
both take larger epoch budgets than without dropout. So dropout helps through its bias, not its
variance. The paper states no numbers for this figure besides its curves.
Runs: n in 1, 2, 4, 8, 16; epoch budgets to 512; learning rates by factors of 2; 7 seeds each. One
point of panel (c), 512 epochs, is 35 runs per learning rate. Cost, an estimate: at 10,000 images/s
on one accelerator a run of 512 epochs takes 0.7 hours, so 25 hours per learning rate.

    --config=experiments/figures/fig12_dropout_masks.py:n=4,small

asks the same of a narrow network (WRN-10-2) and the handwritten digits, which need no download, for
40 epochs: about a minute a run on two CPU cores.
"""

from nfnets_augmult.configs import default_config


def get_config(arguments: str = 'n=1'):
  """Returns the config for `[n=N][,small]`."""
  config = default_config()
  config.dataset.name = 'cifar100'
  config.augmult = 1
  config.unique_images_per_batch = 64
  config.total_epochs = 512.0
  config.augmentation.pad = 4
  config.augmentation.pad_mode = 'mirror'
  config.augmentation.flip = True
  config.model.name = 'wrn_16_4'
  config.model.dropout_rate = 0.4
  config.dropout_masks = 1  # n of this figure
  config.optimizer.learning_rate = 0.05  # to be tuned by factors of 2
  config.optimizer.schedule = 'halving'
  config.optimizer.momentum = 0.9
  config.optimizer.weight_decay = 5e-4
  config.evaluation.every_epochs = 16.0
  for argument in arguments.split(','):
    if argument == 'small':
      config.dataset.name = 'digits'
      config.total_epochs = 40.0
      config.augmentation.pad = 1  # one pixel in eight, as 4 in 32
      config.augmentation.pad_mode = 'constant'
      config.augmentation.flip = False  # a mirrored digit is another sign
      config.model.name = 'wrn_10_2'
      config.evaluation.every_epochs = 5.0
    elif argument.startswith('n=') and argument[2:].isdigit():
      config.dropout_masks = int(argument[2:])
    else:
      raise ValueError(
        f'{argument!r} of fig12_dropout_masks.py:{arguments} is neither n=N nor small'
      )
  return config
