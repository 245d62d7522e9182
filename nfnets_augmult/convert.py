"""Writes a data set as plain arrays, once, so that training from it needs no TensorFlow.

    python -m nfnets_augmult.convert --config=experiments/cifar100_wrn16_4.py
        --config.dataset.data_dir=data --output=data/cifar100_arrays

The arrays are the config's train and test split. Encoded images are decoded and scaled as the
config says: those of the test as for evaluation, those for training to the largest centred square.
`--config.dataset.name=arrays --config.dataset.data_dir=data/cifar100_arrays` reads them.
"""

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
import ml_collections
import numpy as np
from absl import flags

from nfnets_augmult import assembly
from nfnets_augmult.data import array_files
from nfnets_augmult.data.evaluation_crop import EvaluationCrop
from nfnets_augmult.data.sources import ArraySource, Source
from nfnets_augmult.ops.argument_names import renamed


def convert(config: ml_collections.ConfigDict, output: str) -> tuple[ArraySource, ArraySource]:
  """Writes both splits of the config's data set into the folder `output`, and returns them.

  Raises:
    ValueError: the data cannot be read, an image does not decode and the policy is to fail, or
      `output` holds a data set already.
  """
  if assembly.needs_tensorflow(config):
    command_line.import_tensorflow_quietly()
  data = assembly.load_data(config)
  train = _decoded(config, data.train, is_training=True)
  test = _decoded(config, data.test, is_training=False)
  name = config.dataset.name.replace('/', '_')
  array_files.write_data_set(output, name=name, train=train, test=test)
  return train, test


def _decoded(
  config: ml_collections.ConfigDict, source: Source, *, is_training: bool
) -> ArraySource:
  """The images as one array, without what does not decode, if that is allowed."""
  if isinstance(source, ArraySource):
    return source
  from nfnets_augmult.data import pipeline

  # Training crops by itself, and out of the whole square.
  crop = EvaluationCrop(padding=0) if is_training else assembly.make_evaluation_crop(config)
  read_options = assembly.read_options(config, is_training=is_training)
  with renamed(assembly.DATASET_KEYS):
    batches = list(
      pipeline.evaluation_batches(source, batch_size=64, crop=crop, read_options=read_options)
    )
  images, labels, mask = (
    np.concatenate([batch[key] for batch in batches]) for key in ('image', 'label', 'mask')
  )
  return ArraySource(images[mask > 0], labels[mask > 0], source.class_names, source.description)


def main() -> None:
  """Reads the flags, converts, says so."""
  args = flags.FLAGS
  try:
    train, test = convert(args.config, args.output)
  except (ValueError, OSError) as error:
    command_line.fail(str(error))
  print(
    f'wrote {train.num_images:,} training images and {test.num_images:,} test images of '
    f'{" x ".join(map(str, train.images.shape[1:]))} in {len(train.class_names)} classes to '
    f'{args.output}'
  )


if __name__ == '__main__':
  command_line.define_path('output', None, 'Folder to write.', required=True)
  command_line.define_config_flag()
  command_line.run(main)
