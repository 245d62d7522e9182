"""Data sets by name."""

from collections.abc import Callable

from nfnets_augmult.data.array_files import array_source
from nfnets_augmult.data.folder_source import folder_source
from nfnets_augmult.data.image_formats import DEFAULT_RULES, DecodeRules
from nfnets_augmult.data.sources import Source, check_not_empty, digits_source
from nfnets_augmult.data.table_source import TableOptions, table_source

# All other names are data sets of TensorFlow Datasets.
OWN_SOURCES: dict[str, Callable[..., Source]] = {
  'digits': digits_source,
  'folder': folder_source,
  'csv': table_source,
  'arrays': array_source,
}
# Of these, the ones that are arrays in memory, which TensorFlow is not needed to read.
ARRAY_SOURCES = ('digits', 'arrays')


def load_source(
  name: str,
  *,
  split: str,
  data_dir: str = '',
  allow_download: bool = False,
  train_split: str = 'train',
  table_options: TableOptions | None = None,
  on_bad_image: str = 'fail',
  rules: DecodeRules = DEFAULT_RULES,
) -> Source:
  """Returns a split of a labelled image data set, with all labels in `[0, num_classes)`.

  Args:
    name: `'digits'` (scikit-learn's 1,797 handwritten digits, 8x8 grey, bundled: no download),
      `'folder'` (images in `data_dir`, see `folder_source`), `'csv'` (images that a table lists,
      see `table_source`), `'arrays'` (see `array_files`), or a data set of TensorFlow Datasets as
      `name`, `name/config` or `name:version`.
    split: `'train'`, `'test'`, or another split of the data set; of TensorFlow Datasets also a
      part of one, as `'train[:90%]'`.
    data_dir: folder of the data; not used for `digits`.
    allow_download: whether TensorFlow Datasets may download and prepare what is missing.
    train_split: the split that the run trains on, which defines the classes of a `'folder'` and of
      a `'csv'`.
    table_options: of a `'csv'`.
    on_bad_image: under `'skip'`, files that a `'csv'` lists and that do not exist are left out.
    rules: for images that are decoded on loading.

  Raises:
    ValueError: unknown data set or split, no `data_dir`, nothing prepared there, no images, images
      without a label, or one class only. The message names the argument and says what to do.
  """
  if name == 'folder':
    source = folder_source(split=split, data_dir=data_dir, train_split=train_split)
  elif name == 'csv':
    source = table_source(
      split=split,
      data_dir=data_dir,
      train_split=train_split,
      options=table_options,
      on_bad_image=on_bad_image,
    )
  elif name in OWN_SOURCES:
    source = OWN_SOURCES[name](split=split, data_dir=data_dir)
  else:
    # Importing TensorFlow Datasets takes seconds.
    from nfnets_augmult.data import tfds_source

    source = tfds_source.tfds_source(
      name, split=split, data_dir=data_dir, allow_download=allow_download, rules=rules
    )
  check_not_empty(source)
  return source
