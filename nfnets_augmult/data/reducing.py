"""Smaller data sets out of larger ones: some of the classes, fewer pixels."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from nfnets_augmult.data.sources import ArraySource, shorten


def keep_classes(source: ArraySource, names: Sequence[str]) -> ArraySource:
  """Returns the images of the classes `names`, in the order of `source`; label i is `names[i]`.

  Raises:
    ValueError: `names` has fewer than two classes, one twice, or one that `source` does not have.
  """
  if len(names) < 2 or len(set(names)) < len(names):
    raise ValueError(f'classes={",".join(names)} must name two classes or more, each once')
  if unknown := [name for name in names if name not in source.class_names]:
    raise ValueError(
      f'classes: {source.description} has no class {unknown[0]!r}; it has '
      f'{shorten(source.class_names)}'
    )
  new_labels = np.full(len(source.class_names), -1, np.int32)
  new_labels[[source.class_names.index(name) for name in names]] = np.arange(len(names))
  labels = new_labels[source.labels]
  is_kept = labels >= 0
  return dataclasses.replace(
    source, images=source.images[is_kept], labels=labels[is_kept], class_names=tuple(names)
  )


def shrink(source: ArraySource, image_size: int) -> ArraySource:
  """Returns the images with `image_size` pixels a side; each is the mean of a square of pixels.

  Raises:
    ValueError: the images are not square, or `image_size` does not divide their side.
  """
  count, height, width, channels = source.images.shape
  if image_size < 1 or height != width or height % image_size:
    raise ValueError(
      f'image_size={image_size}: images of {source.description} have {height} x {width} pixels, '
      'and squares of pixels are averaged: give a divisor of their side'
    )
  factor = height // image_size
  squares = source.images.reshape(count, image_size, factor, image_size, factor, channels)
  sums = squares.sum(axis=(2, 4), dtype=np.uint32)
  means = (2 * sums + factor**2) // (2 * factor**2)  # halves are rounded up
  return dataclasses.replace(source, images=means.astype(np.uint8))
