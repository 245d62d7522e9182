"""A short description of a data set, by which to notice that another one has taken its place."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from nfnets_augmult.data.image_files import FileSource
from nfnets_augmult.data.sources import (
  ArraySource,
  EncodedSource,
  Source,
  describe_class_changes,
  images_per_class,
  shorten,
)


def describe_split(source: Source) -> dict[str, Any]:
  """Returns what identifies the images of a split, as JSON values.

  `num_images`; `images_per_class`, in the order of the classes, None if images must be read for it;
  and a `digest` of what is cheap to read: the relative paths of a folder, the labels of arrays, the
  files of TensorFlow Datasets and their numbers of examples. Pixels are left out: decoders differ
  by a grey level between versions.
  """
  digest = hashlib.sha256()
  if isinstance(source, ArraySource):
    digest.update(str(source.images.shape).encode())
    digest.update(np.ascontiguousarray(source.labels, '<i4').tobytes())
  else:
    for name in source.listing:
      digest.update(os.fsencode(name) + b'\0')
  return {
    'num_images': source.num_images,
    'images_per_class': images_per_class(source),
    'digest': digest.hexdigest()[:16],
  }


def describe_split_changes(
  now: dict[str, Any], then: dict[str, Any], *, split: str, class_names: Sequence[str]
) -> str:
  """Returns how two descriptions of a split differ, for a message; '' if they are equal.

  Args:
    now: what `describe_split` returns now.
    then: what it returned before, with the same classes.
    split: name of the split.
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
  """A source with labels that index another list of classes."""

  def __init__(self, source: EncodedSource, labels: np.ndarray, class_names: tuple[str, ...]):
    self._source = source
    self._labels = labels
    self.class_names = class_names

  def __getattr__(self, name: str) -> Any:
    return getattr(self._source, name)

  def read(self, index: int) -> tuple[bytes, int]:
    """Returns the encoded image and the new label."""
    encoded, label = self._source.read(index)
    return encoded, int(self._labels[label])


def map_classes(source: Source, class_names: Sequence[str]) -> Source:
  """Returns `source` with labels that index `class_names`, which must contain all of its classes.

  Raises:
    ValueError: a class of `source` is not in `class_names`, or a name is there twice.
  """
  if any(len(set(names)) < len(names) for names in (class_names, source.class_names)):
    raise ValueError('classes cannot be mapped by name: a name is there twice')
  label_of = {name: label for label, name in enumerate(class_names)}
  if new := [name for name in source.class_names if name not in label_of]:
    raise ValueError(
      f'classes cannot be mapped by name: {describe_class_changes(new, ())} ({source.description})'
    )
  labels = np.array([label_of[name] for name in source.class_names], np.int32)
  if isinstance(source, ArraySource | FileSource):
    return dataclasses.replace(source, labels=labels[source.labels], class_names=tuple(class_names))
  return _Relabelled(source, labels, tuple(class_names))
