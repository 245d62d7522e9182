"""Writes photographs of CIFAR-100 as a folder of PNG files, as a practitioner has them.

    python docs/cifar_folder.py data photos

reads the data set as TensorFlow Datasets has prepared it in the folder `data`, and writes
`photos/train/CLASS/` and `photos/test/CLASS/`, for the first 20 classes: of each, the first 100
photographs of either split, 32 pixels a side. docs/own_images.md says what for.
"""

import collections
import pathlib
import sys

import tensorflow_datasets as tfds
from PIL import Image

CLASSES = 20
IMAGES_PER_CLASS = 100


def write(data_dir: str, folder: str) -> None:
  """Writes the folder; what it holds already is written over."""
  builder = tfds.builder('cifar100', data_dir=data_dir)
  names = builder.info.features['label'].names
  for split in ('train', 'test'):
    images, labels = tfds.as_numpy(
      builder.as_dataset(split=split, batch_size=-1, as_supervised=True)
    )
    counts = collections.Counter()
    for image, label in zip(images, labels, strict=True):
      if label < CLASSES and counts[label] < IMAGES_PER_CLASS:
        target = pathlib.Path(folder, split, names[label])
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(target / f'{counts[label]:03}.png')
        counts[label] += 1


if __name__ == '__main__':
  write(*sys.argv[1:])
