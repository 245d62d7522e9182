r"""A small Wide-ResNet on a folder of small photographs, for the CPU of a laptop; n = 4.

    python -m nfnets_augmult.train --config=experiments/own_images.py \
        --config.dataset.data_dir=photos --workdir=runs/photos

The folder has `train/CLASS/` and `test/CLASS/`. Made for some thousand images of 32 pixels: batches of
32 are then about 2 % of the images, as the paper's are. docs/own_images.md compares n = 4 with n = 1
on such a folder; ask `find_learning_rate` for the learning rate of yours.
"""

from nfnets_augmult.recipes import cifar100_recipe


def get_config():
  """Returns the config."""
  config = cifar100_recipe()
  config.dataset.name = 'folder'
  config.dataset.train_split = 'train'
  config.dataset.test_split = 'test'
  config.dataset.image_size = 32
  config.model.name = 'wrn_10_1'
  config.augmult = 4
  config.batch_size = 32
  config.total_steps = 2500
  config.evaluation.every_epochs = 5.0
  return config
