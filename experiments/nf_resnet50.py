"""NF-ResNet-50 on ImageNet (Sections 2 and 3; Figures 3, 4c/d, 5c/d, 7c/d).

    python -m nfnets_augmult.train --config=experiments/nf_resnet50.py --config.dataset.data_dir=DIR

Fixed batch of Section 3: batch_size 256 (small) or 4096 (large) and any augmult. Growing batch of
Section 2: --config.batch_size=0 --config.unique_images_per_batch=256. The learning rate is to be
tuned by factors of 2 for every n and epoch budget. The paper reports 78.6 % for n = 8 after 128
epochs at batch size 4096, 77.3 % for n = 1 after 512 epochs, and with the growing batch 78.4 % for
n = 8 after 128 epochs against 77.9 % for n = 1 after 512.
Cost: a large accelerator run; nobody has run this file to the end yet.
Its margin is small: nothing bounds an update of these networks but the learning rate. In batches of
32 images of 32 pixels, 0.1 was stable for three seeds and 0.2 for one of them (docs/stability.md).
Measure it at your size first.
"""

from nfnets_augmult.recipes import nf_resnet_recipe


def get_config():
  """Returns the config of this experiment."""
  return nf_resnet_recipe(50)
