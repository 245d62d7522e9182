"""A small Wide-ResNet on real handwritten digits with augmentation multiplicity 4.

    python -m nfnets_augmult.train --config=experiments/quickstart_digits.py

Result: about 99 % test accuracy. Cost: about a minute and a half on two CPU cores.

The recipe keeps well away from the edge of stability, where rounding, and so the kind of CPU,
decides what becomes of a run: docs/stability.md has the margin that was measured.
"""

from nfnets_augmult.configs import default_config


def get_config():
  """Returns the config of this experiment."""
  config = default_config()
  config.dataset.name = 'digits'  # 1,797 images of 8x8 pixels, bundled with scikit-learn
  config.augmult = 4
  config.unique_images_per_batch = 16  # so the batch holds 64 augmented samples
  config.total_epochs = 15.0
  config.augmentation.pad = 1  # one pixel in eight, as 4 in 32
  config.augmentation.pad_mode = 'constant'  # the background of a digit is black
  config.augmentation.flip = False  # a mirrored digit is another sign
  config.model.name = 'wrn_10_2'
  config.optimizer.learning_rate = 0.2
  config.optimizer.schedule = 'cosine'
  config.optimizer.nesterov = True
  # A network without normalization has nothing else that bounds an update. A short warm-up spares
  # the start, where the loss is steepest. Clipping does the rest; its floor of 1, about the norm of
  # a unit at initialization, lets the skip gains grow, which start at 0.
  config.optimizer.warmup_steps = 10
  config.optimizer.clipping = 0.02
  config.optimizer.clipping_eps = 1.0
  config.ema_decay = 0.99
  config.evaluation.every_epochs = 3.0
  config.checkpoint.every_steps = 200
  return config
