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

from nfnets_augmult.configs import default_config


def get_config():
  """Returns the config of this experiment."""
  config = default_config()
  config.dataset.name = 'cifar100'
  config.augmult = 1
  config.batch_size = 64  # 64 (small) or 1024 (large) in Section 3
  config.total_epochs = 128.0
  config.augmentation.pad = 4
  config.augmentation.pad_mode = 'mirror'
  config.augmentation.flip = True
  config.model.name = 'wrn_16_4'
  config.optimizer.learning_rate = 0.05  # to be tuned by factors of 2
  config.optimizer.schedule = 'halving'  # constant for a half, then halved every twentieth
  config.optimizer.momentum = 0.9
  config.optimizer.weight_decay = 5e-4
  config.evaluation.every_epochs = 4.0
  return config
