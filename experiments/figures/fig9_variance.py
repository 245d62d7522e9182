r"""Figure 9: variance between mini-batch gradients at initialization, WRN-16-4 on CIFAR-100.

    python -m nfnets_augmult.variance --checkpoint=initialization --minibatches=64 \
        --config=experiments/figures/fig9_variance.py --config.dataset.data_dir=DIR \
        --workdir=runs/fig9

No training: gradients of the initial parameters alone, without L2 (Appendix A). Growing batch: 16
images, so 16 n samples; fixed batch: 16 samples, so 16 / n images; n = 1, 2, 4, 8, 16. The variance
of every parameter is averaged over the parameters of a layer, then over layers. `fig9.png` has that
and the total over all parameters, measured between mini-batches and, as dashed lines, predicted
from the variance over images and over augmentations; `variance.json` has the raw numbers, from
which `--draw_only` draws the pictures again.

Expected: at a growing batch the variance does not depend strongly on n; at a fixed batch it grows
with n. The paper states no numbers besides its curves.
Runs: one. Cost: 37,000 samples, forwards and backwards; a few minutes on one accelerator, an
estimate, and 15 minutes on two CPU cores, measured.

A layer is a Haiku module, which the paper does not define. The SkipInit gains are modules of one
parameter each: they weigh as much as a whole convolution in the mean over layers, and the
convolutions of their branches have no gradient at initialization, where the gains are zero.

    --config=experiments/figures/fig9_variance.py:small

asks the same of a narrow network (WRN-10-1), and of the first 5,000 images: minutes on two CPU
cores. `:tiny` needs no download: the handwritten digits, whose augmentation is weak.
"""

from nfnets_augmult.configs import default_config


def get_config(variant: str = ''):
  """Returns the config; `variant` is empty, `'small'` or `'tiny'`."""
  if variant not in ('', 'small', 'tiny'):
    raise ValueError(f'{variant!r} of fig9_variance.py:{variant} is neither small nor tiny')
  config = default_config()
  config.dataset.name = 'cifar100'
  config.augmult = 1
  config.batch_size = 16  # of the fixed batch; also the images of the growing batch
  config.total_steps = 1  # nothing is trained
  config.augmentation.pad = 4
  config.augmentation.pad_mode = 'mirror'
  config.augmentation.flip = True
  config.model.name = 'wrn_16_4'
  config.optimizer.weight_decay = 0.0
  if variant:
    config.model.name = 'wrn_10_1'
    config.dataset.train_split = 'train[:5000]'
  if variant == 'tiny':
    config.dataset.name = 'digits'
    config.dataset.train_split = 'train'
    config.augmentation.pad = 1  # one pixel in eight, as 4 in 32
    config.augmentation.pad_mode = 'constant'
    config.augmentation.flip = False  # a mirrored digit is another sign
  return config
