"""The ImageNet sample prepared anew in another file format, and with changed records."""

import contextlib
import pathlib
from collections.abc import Callable

import tensorflow as tf
from array_record.python import array_record_module

from tests import shared_data

FORMATS = ('tfrecord', 'array_record')


def prepare_imagenet(
  root: pathlib.Path,
  file_format: str,
  *,
  splits: tuple[str, ...] = ('validation',),
  change: Callable[[int, bytes], bytes] = lambda number, record: record,
) -> pathlib.Path:
  """Writes splits of the sample below `root` with the writer of `file_format`.

  Args:
    root: becomes the `data_dir`.
    file_format: one of `FORMATS`.
    splits: which to write.
    change: from a record's number in its split, and the record, to what is written instead.

  Returns:
    The folder of the files.
  """
  original = pathlib.Path(shared_data.tfds_dir()) / 'imagenet2012' / '5.1.0'
  folder = root / 'imagenet2012' / '5.1.0'
  folder.mkdir(parents=True)
  for name in ('features.json', 'label.labels.txt'):
    (folder / name).write_bytes((original / name).read_bytes())
  info = (original / 'dataset_info.json').read_text()
  (folder / 'dataset_info.json').write_text(info.replace('"tfrecord"', f'"{file_format}"'))
  for split in splits:
    number = 0
    for shard in sorted(original.glob(f'*-{split}.tfrecord-*')):
      with writer(folder / shard.name.replace('tfrecord', file_format), file_format) as output:
        for record in tf.data.TFRecordDataset(str(shard)).as_numpy_iterator():
          output.write(change(number, record))
          number += 1
  return folder


def change_image(record: bytes, change: Callable[[bytes], bytes]) -> bytes:
  """Returns `record` with another encoded image."""
  example = tf.train.Example.FromString(record)
  images = example.features.feature['image'].bytes_list
  images.value[0] = change(images.value[0])
  return example.SerializeToString()


def writer(path: pathlib.Path, file_format: str):
  """Returns a context whose value has `write(record)`, for a file in one of `FORMATS`."""
  if file_format == 'tfrecord':
    return tf.io.TFRecordWriter(str(path))
  return contextlib.closing(array_record_module.ArrayRecordWriter(str(path), 'group_size:1'))
