"""Writes the index of TFRecord files, with which single records are read from a bucket.

    python -m nfnets_augmult.index --folder=gs://bucket/data/imagenet2012/5.1.0

The folder is that of the files of a data set that TensorFlow Datasets has prepared, in a bucket, or
local before it is copied there. The index, `record_index.npz`, is written into it once. In a bucket
all files are read through, from a machine in its region best.
"""

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
from absl import flags

from nfnets_augmult.data import record_index


def main() -> None:
  """Parses the flags and writes the index."""
  folder = flags.FLAGS.folder
  try:
    num_files, num_records = record_index.write_index(folder)
  except (ValueError, OSError) as error:
    command_line.fail(str(error))
  print(f'{num_records:,} records in {num_files:,} files: {folder}/{record_index.NAME}')


if __name__ == '__main__':
  command_line.define_path('folder', None, 'Folder of the TFRecord files.', required=True)
  command_line.run(main)
