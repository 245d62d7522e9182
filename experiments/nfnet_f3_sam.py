r"""NFNet-F3 on ImageNet with SAM, n = 16, 225,200 updates (Table 2: 86.45 %).

    python -m nfnets_augmult.train --config=experiments/nfnet_f3_sam.py \
        --config.dataset.data_dir=DIR

With --config.total_steps=112600 the paper reports 85.76 %. Cost: a TPU pod;
nobody has run this file to the end yet.
"""

from nfnets_augmult.recipes import nfnet_recipe, with_sam


def get_config():
  """Returns the config of this experiment."""
  config = with_sam(nfnet_recipe('f3'))
  config.total_steps = 225_200
  return config
