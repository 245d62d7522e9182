r"""NFNet-F5 on ImageNet with SAM, n = 16, 168,900 updates: the paper's best (Table 2: 86.78 %).

    python -m nfnets_augmult.train --config=experiments/nfnet_f5_sam.py \
        --config.dataset.data_dir=DIR

That is 34 passes over the training images. With --config.total_steps=112600 the paper reports
86.54 %. Cost: a TPU pod; nobody has run this file to the end yet.
"""

from nfnets_augmult.recipes import nfnet_recipe, with_sam


def get_config():
  """Returns the config of this experiment."""
  config = with_sam(nfnet_recipe('f5'))
  config.total_steps = 168_900
  return config
