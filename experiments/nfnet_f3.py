"""NFNet-F3 on ImageNet without SAM, n = 16, 225,200 updates (Table 1: 86.16 %).

    python -m nfnets_augmult.train --config=experiments/nfnet_f3.py --config.dataset.data_dir=DIR

Cost: a TPU pod; nobody has run this file to the end yet.
"""

from nfnets_augmult.recipes import nfnet_recipe


def get_config():
  """Returns the config of this experiment."""
  config = nfnet_recipe('f3')
  config.total_steps = 225_200
  return config
