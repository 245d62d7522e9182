r"""A small Wide-ResNet on a folder of small photographs, with augmentation multiplicity 4.

    python docs/cifar_folder.py data photos  # 20 classes of CIFAR-100, 100 photographs each
    python -m nfnets_augmult.train --config=experiments/own_images.py \
        --config.dataset.data_dir=photos --workdir=runs/photos

For photographs of your own, scaled to 32 pixels; docs/own_images.md has what it reaches.
"""

from nfnets_augmult.recipes import cifar100_recipe


def get_config():
  """Returns the config of this experiment."""
  config = cifar100_recipe()
  config.dataset.name = 'folder'
  config.dataset.image_size = 32
  config.augmult = 4
  config.batch_size = 32
  config.total_steps = 4000
  config.model.name = 'wrn_10_1'
  config.optimizer.learning_rate = 0.05
  config.evaluation.every_epochs = 4.0
  return config
