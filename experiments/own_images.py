r"""A small Wide-ResNet on a folder of small photographs, an hour or less on a laptop.

    python docs/cifar_folder.py data photos  # 20 classes of CIFAR-100, 100 photographs each
    python -m nfnets_augmult.train --config=experiments/own_images.py \
        --config.dataset.data_dir=photos --workdir=runs/photos

For photographs of your own, scaled to 32 pixels. With so short a training n = 1 was ahead of n = 4:
docs/own_images.md has what came out.
"""

from nfnets_augmult.recipes import cifar100_recipe


def get_config():
  """Returns the config of this experiment."""
  config = cifar100_recipe()
  config.dataset.name = 'folder'
  config.dataset.image_size = 32
  config.augmult = 1
  config.batch_size = 32
  config.total_steps = 4000
  config.model.name = 'wrn_10_1'
  # Half of the largest stable one, for n = 1; for n = 4 that is 0.025. See docs/stability.md.
  config.optimizer.learning_rate = 0.05
  config.evaluation.every_epochs = 4.0
  return config
