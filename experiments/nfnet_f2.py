"""NFNet-F2 on ImageNet without SAM, n = 16 (Table 1).

    python -m nfnets_augmult.train --config=experiments/nfnet_f2.py --config.dataset.data_dir=DIR

The paper's top-1 at 112,600 updates: 85.20 % (n = 1), 85.25 (2), 85.35 (4), 85.47 (8), 85.49 (16);
at 225,200 updates (--config.total_steps=225200): 84.53 % (4), 85.25 (8), 85.71 (16). For n = 1 set
--config.optimizer.learning_rate=1.6 as well. Cost: a TPU pod; nobody has run this file to the end
yet.
"""

from nfnets_augmult.recipes import nfnet_recipe


def get_config():
  """Returns the config of this experiment."""
  return nfnet_recipe('f2')
