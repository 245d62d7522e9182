"""The images of a run: loading both splits, describing them, and comparing with the record."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from nfnets_augmult.data import identity, loading, sources
from nfnets_augmult.ops.argument_names import renamed
from nfnets_augmult.runs.settings import DATASET_KEYS, Dataset
from nfnets_augmult.training.step import Normalization

# Statistics of ImageNet per channel, for data sets that are not held in memory.
_IMAGENET = Normalization(
  mean=(0.485 * 255, 0.456 * 255, 0.406 * 255), std=(0.229 * 255, 0.224 * 255, 0.225 * 255)
)


@dataclasses.dataclass(frozen=True)
class Data:
  """The images of a run.

  Attributes:
    train: training images.
    test: test images.
    image_shape: (height, width, channels) of the network's input.
    normalization: of the channels.
  """

  train: sources.Source
  test: sources.Source
  image_shape: tuple[int, int, int]
  normalization: Normalization


@renamed(DATASET_KEYS)
def load_split(dataset: Dataset, split: str) -> sources.Source:
  """Returns one split of a data set.

  Raises:
    ValueError: it cannot be read; the message names the key.
  """
  return loading.load_source(
    dataset.name,
    split=split,
    data_dir=dataset.data_dir,
    allow_download=dataset.allow_download,
    train_split=dataset.train_split,
    table_options=dataset.table_options,
    on_bad_image=dataset.train_options.on_bad_image,
    rules=dataset.train_options.rules,
  )


@renamed(DATASET_KEYS)
def load_data(dataset: Dataset) -> Data:
  """Returns both splits of a data set.

  Raises:
    ValueError: the message names the key, what is wrong, and what to do.
  """
  train = _load_split_of_key('train_split', dataset)
  test = _load_split_of_key('test_split', dataset)
  if changes := sources.describe_class_changes(test.class_names, train.class_names):
    raise ValueError(
      f'{test.description} has other classes than {train.description}: {changes} (here is '
      f'{test.description})'
    )
  for source in (train, test):
    log_notes(source)
  counts = sources.images_per_class(test) or ()
  if absent := [name for name, count in zip(test.class_names, counts, strict=False) if not count]:
    logging.warning(
      '%s has no image of %s: how well the network knows it is not measured',
      test.description,
      sources.shorten([sources.display_name(name) for name in absent]),
    )
  size = dataset.train_options.image_size
  if isinstance(train, sources.ArraySource):
    if size not in (0, *train.images.shape[1:3]):
      raise ValueError(
        f'dataset.image_size={size}: the images of {train.description} all have '
        f'{train.images.shape[1]} pixels and are not scaled; leave it at 0'
      )
    normalization = Normalization(*sources.channel_statistics(train.images))
    return Data(train, test, train.images.shape[1:], normalization)
  sources.check_image_size(train, size)
  if dataset.train_options.on_bad_image == 'skip':
    from nfnets_augmult.data import decoding

    for source in (train, test):  # skipping bad images must not skip all
      decoding.check_some_image_decodes(source, dataset.train_options)
  return Data(train, test, (size, size, 3), _IMAGENET)


def balanced_labels(source: sources.Source, balance: str) -> np.ndarray | None:
  """Returns the labels by which classes are drawn equally often; None if images are.

  Raises:
    ValueError: the labels are not known without reading the images.
  """
  if balance == 'none':
    return None
  if not hasattr(source, 'labels'):
    raise ValueError(
      f'dataset.balance={balance!r} needs the label of every image at the start; those of '
      f"{source.description} are in its records: say dataset.balance='none'"
    )
  return source.labels


def _load_split_of_key(key: str, dataset: Dataset) -> sources.Source:
  """Loads the split that a key of `dataset` names, which must hold images."""
  split = getattr(dataset, key)
  try:
    with renamed({'split': f'dataset.{key}'}):
      source = load_split(dataset, split)
  except ValueError as error:
    if 'dataset.' in str(error):
      raise
    raise ValueError(f'dataset.{key}={split!r}: {error}') from error
  if not source.num_images:
    raise ValueError(f'dataset.{key}={split!r}: {source.description} holds no images')
  return source


def log_notes(source: sources.Source) -> None:
  """Logs the notes on reading a source, such as on files that were skipped."""
  for note in getattr(source, 'notes', ()):
    logging.warning('%s: %s', source.description, note)


def describe_data(data: Data) -> dict[str, Any]:
  """Returns the description of the data that a run records, as JSON values.

  It has the class names in the order of labels, shape and normalization of the network's input, and
  what identifies the images of both splits.
  """
  return {
    'class_names': list(data.train.class_names),
    'image_shape': list(data.image_shape),
    'normalization': {key: list(values) for key, values in data.normalization._asdict().items()},
    'train': identity.describe_split(data.train),
    'test': identity.describe_split(data.test),
  }


def check_same_data(data: Data, recorded: dict[str, Any]) -> None:
  """Raises ValueError, with the differences, unless `describe_data(data)` is as `recorded`."""
  now = describe_data(data)
  names = now['class_names']
  differ = sources.describe_class_changes(names, recorded['class_names'])
  if differ:
    differ = f'its classes differ: {differ}'
  else:
    changes = [
      identity.describe_split_changes(now[split], recorded[split], split=split, class_names=names)
      for split in ('train', 'test')
    ]
    differ = '; '.join(change for change in changes if change)
  if differ:
    raise ValueError(
      f'the data set ({data.train.description}) is not the one that this run was trained on so '
      f'far: {differ}. Put it back as it was, or start a new run in another --workdir; '
      '--config.init_from=WORKDIR lets that begin with the parameters of this one'
    )


def data_as_recorded(source: sources.Source, recorded: dict[str, Any]) -> Data:
  """Returns `source`, as both splits, with the recorded image shape and normalization of a run.

  Args:
    source: images to evaluate.
    recorded: `describe_data` of the data of the run.

  Raises:
    ValueError: the images have another number of channels.
  """
  channels = source.images.shape[-1] if isinstance(source, sources.ArraySource) else 3
  image_shape = tuple(recorded['image_shape'])
  if channels != image_shape[-1]:
    raise ValueError(
      f'{source.description} has images of {channels} channel(s); the network was trained with '
      f'{image_shape[-1]}'
    )
  normalization = Normalization(*(tuple(recorded['normalization'][key]) for key in ('mean', 'std')))
  return Data(source, source, image_shape, normalization)


def data_without_images(class_names: Sequence[str], recorded: dict[str, Any]) -> Data:
  """Returns data of no images, with these classes, for a network that others are given to.

  Args:
    class_names: in the order of the labels.
    recorded: see `data_as_recorded`.
  """
  none = np.zeros((0, *recorded['image_shape']), np.uint8)
  source = sources.ArraySource(none, np.zeros(0, np.int32), tuple(class_names), 'no images')
  return data_as_recorded(source, recorded)


def is_of_arrays(normalization: Normalization) -> bool:
  """Whether the images of a run are arrays of one size, rather than encoded.

  The channels of encoded images are normalized by the statistics of ImageNet, arrays by their own.
  """
  return normalization != _IMAGENET


def recorded_of_encoded(image_size: int) -> dict[str, Any]:
  """Returns of `describe_data` what does not depend on the data set, if that is of encoded images.

  Args:
    image_size: pixels that the network gets.
  """
  return {
    'image_shape': [image_size, image_size, 3],
    'normalization': {key: list(values) for key, values in _IMAGENET._asdict().items()},
  }


def match_classes(
  source: sources.Source, class_names: Sequence[str], *, map_by_name: bool | None = None
) -> sources.Source:
  """Returns `source` with labels in the order of the classes of a run.

  Args:
    source: images to evaluate.
    class_names: of the run, in the order of its labels.
    map_by_name: whether classes in another order, or a subset of them, are mapped by their names;
      None if the program has no flag for it.

  Raises:
    ValueError: the classes differ, and are not or cannot be mapped; the message says how.
  """
  differ = sources.describe_class_changes(source.class_names, class_names)
  if not differ:
    return source
  if map_by_name:
    return identity.map_classes(source, class_names)
  counts = f'{len(source.class_names):,} classes here, {len(class_names):,} in the run'
  can_map = set(source.class_names) <= set(class_names)
  raise ValueError(
    f'{source.description} does not have the classes that the network was trained for ({counts}): '
    f'{differ}. '
    + (
      'If equal names mean equal classes, --map_classes_by_name finds them by their names'
      if can_map and map_by_name is not None
      else 'Accuracies would compare different things; give the data that belong to the run'
    )
  )
