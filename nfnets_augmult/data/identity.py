"""What a data set is, in a few numbers: to notice when another one lies in its place."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from nfnets_augmult.data.sources import (
  ArraySource,
  Source,
  describe_class_changes,
  shorten,
)


def describe_split(source: Source) -> dict[str, Any]:
  """Returns what identifies the images of a split, as JSON values.

  `num_images`; `images_per_class`, in the order of the classes, where labels are at hand; and a
  `digest` of what the source can tell cheaply: of a folder the relative paths, of arrays the
  labels, of TensorFlow Datasets the files and how many examples each of them has. Pixels are not
  looked at: decoders differ by a grey level between versions.
  """
  labels = getattr(source, 'labels', None)
  counts = None
  if labels is not None:
    counts = np.bincount(labels, minlength=len(source.class_names)).tolist()
  return {
    'num_images': source.num_images,
    'images_per_class': counts,
    'digest': _digest(source),
  }


def describe_split_changes(
  now: dict[str, Any], then: dict[str, Any], *, split: str, class_names: Sequence[str]
) -> str:
  """Says how a split differs from what it was; '' if in nothing that `describe_split` sees.

  Args:
    now: of the split as it is.
    then: of the split as it was, with the same classes.
    split: its name, for the message.
    class_names: of both.
  """
  if now == then:
    return ''
  said = []
  if now['num_images'] != then['num_images']:
    said.append(f'{now["num_images"]:,} images, was {then["num_images"]:,}')
  if now['images_per_class'] and then['images_per_class']:
    counts = zip(class_names, now['images_per_class'], then['images_per_class'], strict=True)
    changed = [
      f'{name} {ours:,}, was {theirs:,}' for name, ours, theirs in counts if ours != theirs
    ]
    said += [shorten(changed)] if changed else []
  return f'{split}: {"; ".join(said) or "as many images, but other ones or in another order"}'


class _Relabelled:
  """An `EncodedSource` whose labels count in another list of classes."""

  def __init__(self, source: Any, labels: np.ndarray, class_names: Sequence[str]):
    self._source = source
    self._labels = labels
    self.class_names = tuple(class_names)
    self.description = source.description

  @property
  def num_images(self) -> int:
    """N."""
    return self._source.num_images

  def read(self, index: int) -> tuple[bytes, int]:
    """Returns the encoded image and the label in the other list."""
    encoded, label = self._source.read(index)
    return encoded, int(self._labels[label])

  def image_name(self, index: int) -> str:
    """Returns the name that the source has for it."""
    return self._source.image_name(index)


def map_classes(source: Source, class_names: Sequence[str]) -> Source:
  """Returns `source` with labels that count in `class_names`, which holds all of its classes.

  Raises:
    ValueError: a class of `source` is not in `class_names`, or a name is there twice.
  """
  if len(set(class_names)) < len(class_names) or len({*source.class_names}) < len(
    source.class_names
  ):
    raise ValueError('classes cannot be mapped by name: a name is there twice')
  if new := [name for name in source.class_names if name not in class_names]:
    raise ValueError(
      f'classes cannot be mapped by name: {describe_class_changes(new, ())} ({source.description})'
    )
  labels = np.array([list(class_names).index(name) for name in source.class_names], np.int32)
  if isinstance(source, ArraySource):
    return dataclasses.replace(source, labels=labels[source.labels], class_names=tuple(class_names))
  return _Relabelled(source, labels, class_names)


def _digest(source: Source) -> str:
  digest = hashlib.sha256()
  if isinstance(source, ArraySource):
    digest.update(str(source.images.shape).encode())
    digest.update(np.ascontiguousarray(source.labels, '<i4').tobytes())
  else:
    for name in source.listing:
      digest.update(os.fsencode(name) + b'\0')
  return digest.hexdigest()[:16]
