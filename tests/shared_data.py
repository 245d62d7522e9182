"""Prepared TFDS data sets: those beside the checkout, or small stand-ins made of photographs.

The stand-ins have the features, classes, splits and files of the real ones, written by the builders
of TensorFlow Datasets; of the examples there are few, and labels say nothing about the images.
"""

import io
import pathlib
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tests import real_images, session

_REAL = pathlib.Path(__file__).resolve().parents[2] / 'shared' / 'data' / 'tfds'
_SHARDS = 4
_CIFAR100 = {'train': 256, 'test': 256}
_IMAGENET = {'train': 256, 'validation': 64}  # as many as in the sample beside the checkout


def tfds_dir() -> str:
  """Returns a folder with `cifar100` (at least 256 images a split) and `imagenet2012`.

  ImageNet has 256 images in `train`, 64 in `validation`, no two with one label, in 4 files each.
  """
  return str(_REAL if _REAL.is_dir() else session.once('tfds', _write_stand_ins))


def real_tfds_dir() -> str:
  """Returns the folder beside the checkout with all of CIFAR-100, or skips the test."""
  if not _REAL.is_dir():
    pytest.skip('needs cifar100 and imagenet2012 as prepared by TFDS in ../shared/data/tfds')
  return str(_REAL)


def _write_stand_ins(folder: pathlib.Path) -> None:
  cifar100 = tfds.builder('cifar100', data_dir=folder)
  cifar100.info.features['label'].names = [f'fine_{number:02}' for number in range(100)]
  cifar100.info.features['coarse_label'].names = [f'coarse_{number:02}' for number in range(20)]
  imagenet = tfds.builder('imagenet2012', data_dir=folder)
  for builder, sizes, examples in (
    (cifar100, _CIFAR100, _cifar100_examples),
    (imagenet, _IMAGENET, _imagenet_examples),
  ):
    # Nothing is downloaded: what would read the original archives is replaced.
    builder._split_generators = lambda *_, sizes=sizes, examples=examples: {
      split: examples(split, size) for split, size in sizes.items()
    }
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(num_shards=_SHARDS, try_download_gcs=False)
    )


def _cifar100_examples(split: str, size: int) -> Iterator[tuple[str, dict[str, object]]]:
  photos = real_images.photos(size, 32, 32)
  for number, photo in enumerate(photos):
    name = f'{split}_{number:05}'
    yield name, dict(id=name, image=photo, label=number % 100, coarse_label=number % 20)


def _imagenet_examples(split: str, size: int) -> Iterator[tuple[str, dict[str, object]]]:
  """JPEGs of many sizes; some progressive, some without colour, as in the original."""
  random = np.random.default_rng(size)
  classes = np.random.default_rng(0).permutation(1000)
  labels = classes[:size] if split == 'train' else classes[-size:]
  photos = real_images.photos(size, 260, 360)
  for number, photo in enumerate(photos):
    height, width = random.integers(80, [261, 361])
    image = Image.fromarray(photo[:height, :width])
    if number % 16 == 7:
      image = image.convert('L').convert('RGB')
    file = io.BytesIO()
    image.save(file, format='JPEG', quality=90, progressive=number % 16 == 3)
    file.seek(0)
    name = f'ILSVRC2012_{split}_{number:08}.JPEG'
    yield name, dict(file_name=name, image=file, label=int(labels[number]))
