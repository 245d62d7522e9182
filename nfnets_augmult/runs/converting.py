"""Converting a data set to plain arrays, decoded and scaled."""

from collections.abc import Sequence

import ml_collections
import numpy as np

from nfnets_augmult.data import array_files, reducing
from nfnets_augmult.data.evaluation_crop import EvaluationCrop
from nfnets_augmult.data.read_options import ReadOptions
from nfnets_augmult.data.sources import ArraySource, Source
from nfnets_augmult.ops.argument_names import renamed
from nfnets_augmult.runs.run import Run
from nfnets_augmult.runs.settings import DATASET_KEYS


def convert(
  config: ml_collections.ConfigDict,
  output: str,
  *,
  classes: Sequence[str] = (),
  image_size: int = 0,
) -> tuple[ArraySource, ArraySource]:
  """Writes both splits of the config's data set into the folder `output`, and returns them.

  Args:
    config: says which data set.
    output: folder to write.
    classes: names of those to keep; all if there are none.
    image_size: pixels of a side to shrink to, see `reducing.shrink`; 0: as the config has it.

  Raises:
    ValueError: the data cannot be read, an image does not decode and the policy is to fail,
      `output` holds a data set already, there is no such class, or `image_size` does not fit.
  """
  run = Run(config)
  dataset = run.settings.dataset
  # The whole centred square, as random crops are taken during training.
  train = _decoded(run.data.train, EvaluationCrop(padding=0), dataset.train_options)
  test = _decoded(run.data.test, dataset.evaluation_crop, dataset.test_options)
  if classes:
    train, test = (reducing.keep_classes(source, classes) for source in (train, test))
  if image_size:
    train, test = (reducing.shrink(source, image_size) for source in (train, test))
  name = dataset.name.replace('/', '_')
  array_files.write_data_set(output, name=name, train=train, test=test)
  return train, test


def _decoded(source: Source, crop: EvaluationCrop, options: ReadOptions) -> ArraySource:
  """Decodes all images into one array, skipping bad ones if the options say so."""
  if isinstance(source, ArraySource):
    return source
  from nfnets_augmult.data import pipeline

  with renamed(DATASET_KEYS):
    batches = list(
      pipeline.evaluation_batches(source, batch_size=64, crop=crop, read_options=options)
    )
  images, labels, mask = (
    np.concatenate([batch[key] for batch in batches]) for key in ('image', 'label', 'mask')
  )
  return ArraySource(images[mask > 0], labels[mask > 0], source.class_names, source.description)
