"""Base configs of the paper's experiments; each experiment overrides what differs."""

import ml_collections

from nfnets_augmult import models
from nfnets_augmult.configs import default_config


def cifar100_recipe() -> ml_collections.ConfigDict:
  """Returns the config of the paper's CIFAR-100 runs, without batch size and length.

  Source: the paper, Section 2: WRN-16-4 with SkipInit, SGD with momentum 0.9, weight decay 5e-4,
  padding, random crops and left-right flips, and a learning rate that is constant for half of the
  run and then halved every twentieth of it.
  """
  config = default_config()
  config.dataset.name = 'cifar100'
  config.augmentation.pad = 4
  config.augmentation.pad_mode = 'mirror'
  config.augmentation.flip = True
  config.model.name = 'wrn_16_4'
  config.optimizer.learning_rate = 0.05  # to be tuned by factors of 2
  config.optimizer.schedule = 'halving'
  config.optimizer.momentum = 0.9
  config.optimizer.weight_decay = 5e-4
  config.evaluation.every_epochs = 16.0
  return config


def small_photographs_recipe() -> ml_collections.ConfigDict:
  r"""Returns the CIFAR-100 runs as small as the paper's question allows, for hours of a CPU.

  1,600 photographs of ten classes, shrunk to 16 x 16 pixels, and a WRN-10-1; the 3,400 others are
  the test images. Augmentation is as in the paper (two pixels in 16, and flips), a batch of 32 is
  2 % of the training images, and 20,000 updates are 400 epochs of n = 1, so that it fits the
  training images. On one core that takes about four minutes. The data set is written by

      python -m nfnets_augmult.convert --config=experiments/cifar100_wrn16_4.py \
          --config.dataset.data_dir=data --output=data/cifar_ten --image_size=16 \
          --classes=apple,aquarium_fish,baby,bear,beaver,bed,bee,beetle,bicycle,bottle
  """
  config = cifar100_recipe()
  config.input = 'device'
  config.steps_per_dispatch = 50
  config.dataset.name = 'arrays'
  config.dataset.data_dir = 'data/cifar_ten'
  config.dataset.train_split = 'train[:1600]'
  config.dataset.test_split = 'train[1600:]'
  config.augmentation.pad = 2  # two pixels in 16, as 4 in 32
  config.model.name = 'wrn_10_1'
  config.batch_size = 32
  config.log_every_steps = 1000
  config.evaluation.every_epochs = 10_000.0  # after the last step only
  config.evaluation.batch_size = 1000
  config.checkpoint.every_steps = 5000
  config.checkpoint.keep = 1
  return config


def tiny_digits_recipe() -> ml_collections.ConfigDict:
  """Returns the CIFAR-100 runs made tiny, to see that they run: 200 digits, a narrow Wide-ResNet.

  They do not answer the paper's question: accuracies saturate, and a batch is a large part of the
  images. With few images augmentation matters. The 1,237 others of the training split are the test
  images, because the test split is too small to distinguish the runs of a sweep. A run of a few
  hundred steps takes seconds on a CPU.
  """
  config = cifar100_recipe()
  config.input = 'device'  # the same batches without TensorFlow, which takes seconds to import
  config.dataset.name = 'digits'
  config.dataset.train_split = 'train[:200]'
  config.dataset.test_split = 'train[200:]'
  config.augmentation.pad = 1  # one pixel in eight, as 4 in 32
  config.augmentation.pad_mode = 'constant'  # the background of a digit is black
  config.augmentation.flip = False  # mirrored digits are no digits
  config.model.name = 'wrn_10_1'
  config.ema_decay = 0.99
  config.evaluation.every_epochs = 1000.0  # after the last step only
  config.checkpoint.keep = 1
  return config


def imagenet_recipe(model: str) -> ml_collections.ConfigDict:
  """Returns the config of the paper's ImageNet runs with the model `model`.

  Source: the paper, Sections 2 and 5; Brock et al. 2021a and 2021b.
  """
  config = default_config()
  spec = models.model_spec(model)
  config.dataset.name = 'imagenet2012'
  config.dataset.test_split = 'validation'
  config.dataset.image_size = spec.train_image_size
  config.dataset.test_image_size = spec.test_image_size
  config.dataset.apply_orientation = False  # as published
  config.augmentation.crop = 'inception'
  config.model.name = model
  with config.unlocked():
    config.model.stochastic_depth_rate = 0.0
    config.model.scan_blocks = False  # one compiled body for equal blocks: compiles faster
    config.model.remat = False  # recompute blocks in the backward pass: less memory
  config.compute_dtype = 'bfloat16'
  config.label_smoothing = 0.1
  config.optimizer.schedule = 'cosine'
  config.optimizer.momentum = 0.9
  config.evaluation.every_epochs = 1.0
  config.evaluation.batch_size = 2048
  config.evaluation.train_images = 10_000
  return config


def nf_resnet_recipe(depth: int = 50) -> ml_collections.ConfigDict:
  """Returns the config of the NF-ResNet runs of Sections 2 and 3, n = 1 at batch size 256."""
  config = imagenet_recipe(f'nf_resnet{depth}')
  config.augmult = 1
  config.batch_size = 256
  config.total_epochs = 128.0
  config.model.dropout_rate = 0.25
  config.model.stochastic_depth_rate = 0.1
  config.optimizer.learning_rate = 0.1  # to be tuned by factors of 2
  # The paper mentions no warm-up. Without clipping these networks start near the edge of stability,
  # see docs/stability.md. A tenth of an epoch at n = 1.
  config.optimizer.warmup_steps = 500
  config.optimizer.weight_decay = 5e-5
  return config


def tiny_regularized_recipe() -> ml_collections.ConfigDict:
  """Returns the ImageNet runs made tiny: the digits, with their regularization."""
  config = tiny_digits_recipe()
  config.label_smoothing = 0.1
  config.model.dropout_rate = 0.25
  config.optimizer.schedule = 'cosine'
  config.optimizer.weight_decay = 5e-5
  return config


def nfnet_recipe(variant: str) -> ml_collections.ConfigDict:
  """Returns the NFNet config of Section 5: n = 16, batch size 4096, 112,600 updates, no SAM.

  Args:
    variant: `'f0'` to `'f7'`, or with wider stages `'f0_plus'` to `'f7_plus'`.
  """
  config = imagenet_recipe(f'nfnet_{variant}')
  config.augmult = 16
  config.batch_size = 4096
  config.total_steps = 112_600
  config.evaluation.crop = 'resize_then_crop'
  config.augmentation.mixup.share = 0.5
  config.augmentation.cutmix.share = 0.5
  config.augmentation.randaugment.layers = 4
  config.augmentation.randaugment.magnitude = _randaugment_magnitude(variant)
  config.model.stochastic_depth_rate = 0.25
  config.optimizer.learning_rate = nfnet_learning_rate(augmult=16)
  # 5 epochs at n = 1 (Brock et al. 2021b), and the same updates at every n, as runs are compared at
  # equal updates: 5 epochs at n = 16 would be a fifth of the run.
  config.optimizer.warmup_steps = 1564
  config.optimizer.nesterov = True
  config.optimizer.weight_decay = 2e-5
  config.optimizer.clipping = 0.01
  config.ema_decay = 0.99999
  return config


def _randaugment_magnitude(variant: str) -> float:
  """Returns 5 for F0, 10 for F1 and F2, 15 for the larger ones.

  Source: the published configurations of Brock et al. 2021b.
  """
  depth = int(variant[1])
  return 5.0 if depth == 0 else 10.0 if depth <= 2 else 15.0


def nfnet_learning_rate(*, augmult: int, batch_size: int = 4096) -> float:
  """Returns 0.1 * batch_size / 256 for n = 1, and half of it for n > 1: 1.6 and 0.8 at 4096.

  Source: the paper, Section 5.
  """
  return 0.1 * batch_size / 256 * (1.0 if augmult == 1 else 0.5)


def with_sam(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """Returns `config` with SAM as Brock et al. 2021b use it: radius 0.05, on 20 % of the batch."""
  config.sam.rho = 0.05
  config.sam.ascent_fraction = 0.2
  return config


def finetune_recipe(variant: str, *, augmult: int, num_images: int) -> ml_collections.ConfigDict:
  """Returns the config that fine-tunes an NFNet on a folder of images, in batches of 64.

  Thirty passes of n = 1 over the images, and the same updates at every n; at least 500. For the
  first tenth, in which the learning rate rises, the classifier trains alone: it is the one part
  that starts anew, and its first gradients are of no use to the others.

  Args:
    variant: see `nfnet_recipe`.
    augmult: n.
    num_images: about how many training images there are.
  """
  config = nfnet_recipe(variant)
  config.dataset.name = 'folder'
  config.dataset.train_split = 'train'
  config.dataset.test_split = 'test'
  config.dataset.apply_orientation = True
  config.augmult = augmult
  config.batch_size = 64
  config.total_steps = max(500, 30 * num_images // config.batch_size)
  config.optimizer.learning_rate = 0.01
  config.optimizer.warmup_steps = config.total_steps // 10
  config.freeze = 'stem,stages,final_conv'
  config.freeze_steps = config.optimizer.warmup_steps
  config.ema_decay = 0.999
  config.augmentation.mixup.share = 0.0
  config.augmentation.cutmix.share = 0.0
  config.augmentation.randaugment.layers = 2
  config.augmentation.randaugment.magnitude = _magnitude_by_images(num_images)
  config.evaluation.every_epochs = max(1.0, 3 / augmult)
  config.evaluation.batch_size = 64
  config.evaluation.train_images = 1000
  config.checkpoint.every_steps = 200
  return config


def _magnitude_by_images(num_images: int) -> float:
  """Returns 5 below 2,000 images, 10 below 20,000, else 15.

  Larger training sets bear larger magnitudes (Cubuk et al. 2020, arXiv:1909.13719, Section 4.1);
  the numbers are ours.
  """
  return 5.0 if num_images < 2000 else 10.0 if num_images < 20_000 else 15.0
