r"""Any NFNet on ImageNet; variant, n and SAM as arguments after a colon.

    python -m nfnets_augmult.train --config=experiments/nfnet.py:f5,n=16,sam \
        --config.dataset.data_dir=DIR

The first argument is the variant, f0 to f7 or f0_plus to f7_plus (default f0); `n=16` is the
augmentation multiplicity (default 16), which also chooses the learning rate, 1.6 for n = 1 and 0.8
for n > 1; `sam` switches sharpness-aware minimization on.

The learning rates are the paper's, for batches of 4096. In small batches they are too large, see
docs/stability.md.
"""

from nfnets_augmult.recipes import nfnet_learning_rate, nfnet_recipe, with_sam


def get_config(arguments: str = 'f0'):
  """Returns the config for `VARIANT[,n=N][,sam]`."""
  variant, *options = arguments.split(',')
  config = nfnet_recipe(variant)
  for option in options:
    if option == 'sam':
      config = with_sam(config)
    elif option.startswith('n=') and option[2:].isdigit():
      config.augmult = int(option[2:])
      config.optimizer.learning_rate = nfnet_learning_rate(augmult=config.augmult)
    else:
      raise ValueError(f'{option!r} of nfnet.py:{arguments} is neither n=N nor sam')
  return config
