"""Data sets by name."""

from collections.abc import Callable

from nfnets_augmult.data.array_files import array_source
from nfnets_augmult.data.sources import Source, digits_source, folder_source

# All others are of TensorFlow Datasets.
OWN_SOURCES: dict[str, Callable[..., Source]] = {
  'digits': digits_source,
  'folder': folder_source,
  'arrays': array_source,
}


def load_source(
  name: str, *, split: str, data_dir: str = '', allow_download: bool = False
) -> Source:
  """Returns one split of a labelled image data set.

  Args:
    name: `'digits'` (scikit-learn's 1,797 handwritten digits, 8x8 grey, bundled: no download),
      `'folder'` (images in `data_dir`, see `folder_source`), `'arrays'` (see `array_files`), or a
      data set of TensorFlow Datasets as `name`, `name/config` or `name:version`.
    split: `'train'`, `'test'`, or another split of the data set; of TensorFlow Datasets also a
      part of one, as `'train[:90%]'`.
    data_dir: where the data lie; not used for `digits`.
    allow_download: whether TensorFlow Datasets may download and prepare what is missing.

  Raises:
    ValueError: unknown data set or split, no `data_dir`, or nothing prepared there. The message
      names the config key and says what to do.
  """
  if name in OWN_SOURCES:
    return OWN_SOURCES[name](split=split, data_dir=data_dir)
  # Only here, because importing TensorFlow Datasets takes seconds.
  from nfnets_augmult.data import tfds_source

  return tfds_source.tfds_source(
    name, split=split, data_dir=data_dir, allow_download=allow_download
  )
