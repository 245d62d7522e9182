"""Wide-ResNet-16-4 on CIFAR-100 with the paper's hyper-parameters (Sections 2 and 3).

    python -m nfnets_augmult.train --config=experiments/cifar100_wrn16_4.py \
        --config.dataset.data_dir=DIR [--config.augmult=16] [--config.total_epochs=128]

This is the fixed batch of Section 3 (Figures 4 and 5): batch_size stays, n rises, and the number
of unique images per batch falls. For the growing batch of Section 2 (Figure 2), fix the number of
unique images instead:

    --config.batch_size=0 --config.unique_images_per_batch=64 --config.augmult=16

The paper tunes the learning rate on a grid spaced by factors of 2 for every n and epoch budget.
It reports 72.1 % for n = 1 and 73.7 % for n = 4 at batch size 1024 after 400,000 updates, and
74.3 % for n = 16 with the growing batch after 128 epochs. Give each run its own --workdir.
"""

from nfnets_augmult.recipes import cifar100_recipe


def get_config():
  """Returns the config of this experiment."""
  config = cifar100_recipe()
  config.augmult = 1
  config.batch_size = 64  # 64 (small) or 1024 (large) in Section 3
  config.total_epochs = 128.0
  return config
