"""Converts a data set to plain arrays, so that training on it needs no TensorFlow.

    python -m nfnets_augmult.convert --config=experiments/cifar100_wrn16_4.py
        --config.dataset.data_dir=data --output=data/cifar100_arrays

The arrays are the train and test splits of the config. Encoded images are decoded and resized as in
the config: test images as for evaluation, training images to the largest centred square.
`--classes=CLASS,CLASS` keeps some of the classes; `--image_size=16` shrinks the images to 16 x 16
pixels, each the mean of a square of pixels: a small data set for trials on a CPU.
`--config.dataset.name=arrays --config.dataset.data_dir=data/cifar100_arrays` reads them.
"""

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
from absl import flags

from nfnets_augmult.runs.converting import convert


def main() -> None:
  """Parses the flags and converts."""
  args = flags.FLAGS
  try:
    train, test = convert(
      args.config, args.output, classes=args.classes, image_size=args.image_size
    )
  except (ValueError, OSError) as error:
    command_line.fail(str(error))
  print(
    f'wrote {train.num_images:,} training images and {test.num_images:,} test images of '
    f'{" x ".join(map(str, train.images.shape[1:]))} in {len(train.class_names)} classes to '
    f'{args.output}'
  )


if __name__ == '__main__':
  command_line.define_path('output', None, 'Folder to write.', required=True)
  flags.DEFINE_list('classes', [], 'Names of the classes to keep; default: all.')
  flags.DEFINE_integer('image_size', 0, 'Pixels of a side to shrink to; 0: not at all.', 0)
  command_line.define_config_flag()
  command_line.run(main)
