r"""Fine-tunes an NFNet on your own images, from parameters trained on others.

    python -m nfnets_augmult.train --config=experiments/finetune.py:f0,n=4,images=3000 \
        --config.init_from=FILE --config.dataset.data_dir=photos --workdir=runs/photos

The first argument is the variant, f0 to f6 (default f0); `n=4` the augmentation multiplicity
(default 4); `images=3000` about how many training images there are (default 5000), which sets the
length and the strength of RandAugment. The folder has `train/CLASS/` and `test/CLASS/`.

At first the classifier trains alone, then everything; `--config.unfreeze=gradually` releases one
stage after another instead, the last first; `--config.freeze_steps=0` leaves it at the classifier;
`--config.freeze=stem,stage_1` keeps the first layers as they are instead.
`--config.dataset.image_size=128` and `--config.dataset.test_image_size=160` make it several times
faster.

The numbers are ours, from experience with such networks, and not tuned: no parameters trained on
other images were at hand. Ask `python -m nfnets_augmult.find_learning_rate` with the same flags.
"""

from nfnets_augmult.recipes import finetune_recipe


def get_config(arguments: str = 'f0'):
  """Returns the config for `VARIANT[,n=N][,images=N]`."""
  variant, *options = arguments.split(',')
  numbers = {'n': 4, 'images': 5000}
  for option in options:
    name, _, value = option.partition('=')
    if name not in numbers or not value.isdecimal() or not int(value):
      raise ValueError(f'{option!r} of finetune.py:{arguments} is neither n=N nor images=N')
    numbers[name] = int(value)
  return finetune_recipe(variant, augmult=numbers['n'], num_images=numbers['images'])
