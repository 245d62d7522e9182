"""A check of the images of a run before it: every one is read and decoded once."""

import array
import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import ml_collections
import numpy as np
from absl import logging

from nfnets_augmult.data import inspection
from nfnets_augmult.data.sources import ArraySource, Source, display_name
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import progress

_MOST_EXAMPLES = 10
# Of more classes only the largest and the smallest are listed.
_MOST_CLASSES, _CLASSES_AT_AN_END = 40, 5
_SECONDS_BETWEEN_REPORTS = 30

_IN_BOTH = 'test images that are training images, too'
_CONTRADICTING = 'images with the pixels of another one with another label'


@dataclasses.dataclass
class SplitReport:
  """What was found in a split.

  Attributes:
    source: its images.
    images_per_class: in the order of the classes, without images that cannot be read.
    kinds: number of images by format.
    traits: by what is not to be expected of every image.
    heights: of the images that decode, in pixels.
    widths: likewise.
    unreadable: name and reason of each image that cannot be read.
    repeated: how many have the pixels of an earlier image of the split, with the same label.
  """

  source: Source
  images_per_class: list[int]
  kinds: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  traits: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  heights: array.array = dataclasses.field(default_factory=lambda: array.array('I'))
  widths: array.array = dataclasses.field(default_factory=lambda: array.array('I'))
  unreadable: list[str] = dataclasses.field(default_factory=list)
  repeated: int = 0


@dataclasses.dataclass
class Report:
  """What was found in both splits.

  Attributes:
    splits: by `'train'` and `'test'`.
    image_size: pixels that the network gets of a training image; 0 if they are not scaled.
    in_both: names of test images with the pixels of a training image, and of that.
    contradicting: names of images with equal pixels and different labels in one split.
  """

  splits: dict[str, SplitReport]
  image_size: int
  in_both: list[str]
  contradicting: list[str]

  @property
  def problems(self) -> list[str]:
    """What should not be, in words; empty if all is well."""
    unreadable = sum(len(split.unreadable) for split in self.splits.values())
    found = {
      'unreadable images': unreadable,
      _IN_BOTH: len(self.in_both),
      _CONTRADICTING: len(self.contradicting),
    }
    return [f'{what}: {count:,}' for what, count in found.items() if count]


def check(config: ml_collections.ConfigDict) -> Report:
  """Reads and decodes every image of both splits, on all cores, with a progress bar.

  Images are equal if all of their pixels are, whatever their files are. No device is used.

  Raises:
    ValueError: the config is not valid, or the data set cannot be loaded.
  """
  run = Run(config)
  data, options = run.data, run.settings.dataset.train_options
  splits = {
    name: SplitReport(source, [0] * len(source.class_names))
    for name, source in (('train', data.train), ('test', data.test))
  }
  size = 0 if isinstance(data.train, ArraySource) else options.image_size
  report = Report(splits, size, [], [])
  training: dict[bytes, tuple[int, int]] = {}
  with _progress(data.train.num_images + data.test.num_images) as count_one:
    for name, split in splits.items():
      seen: dict[bytes, tuple[int, int]] = {}  # label and index
      for index, found in enumerate(inspection.inspect_all(split.source, options.rules)):
        count_one()
        if found.problem:
          split.unreadable.append(found.problem)
          continue
        _add(split, found)
        here = split.source, found.label, index
        if name == 'test' and found.digest in training:
          there = data.train, *training[found.digest]
          report.in_both.append(f'{_named(*here)} is {_named(*there)}')
        label, first = seen.setdefault(found.digest, (found.label, index))
        if label != found.label:
          report.contradicting.append(f'{_named(*here)} is {_named(split.source, label, first)}')
        elif first != index:
          split.repeated += 1
      training = seen
  return report


def _add(split: SplitReport, found: inspection.Inspected) -> None:
  split.images_per_class[found.label] += 1
  split.kinds[found.kind] += 1
  split.traits.update(found.traits)
  split.heights.append(found.height)
  split.widths.append(found.width)


def _named(source: Source, label: int, index: int) -> str:
  return f'{source.image_name(index)} ({display_name(source.class_names[label])})'


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
  """Yields what counts an image that is done, on a bar or in lines of the log."""
  bar = progress.make_bar(total=total, initial=0, unit='image')
  done, reported = 0, time.monotonic()

  def count_one() -> None:
    nonlocal done, reported
    done += 1
    if bar is not None:
      bar.update()
    elif time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS:
      reported = time.monotonic()
      logging.info('%d of %d images', done, total)

  try:
    yield count_one
  finally:
    if bar is not None:
      bar.close()


def report_text(report: Report) -> str:
  """Returns what was found, as text to print."""
  lines = _class_lines(report)
  for name, split in report.splits.items():
    what = {'train': 'training', 'test': 'test'}[name]
    lines += [f'{what} images: {split.source.num_images:,} ({split.source.description})']
    lines += [f'  {line}' for line in _split_lines(split, report.image_size)]
  for what, found in ((_IN_BOTH, report.in_both), (_CONTRADICTING, report.contradicting)):
    if found:
      lines += [f'{what}: {len(found):,}', *_examples(found)]
  return '\n'.join([*lines, f'problems: {"; ".join(report.problems) or "none"}'])


def _class_lines(report: Report) -> list[str]:
  """A table of the images of each class; of many classes, the largest and the smallest."""
  train, test = report.splits['train'], report.splits['test']
  rows = [
    (display_name(name), f'{in_train:,}', f'{in_test:,}')
    for name, in_train, in_test in zip(
      train.source.class_names, train.images_per_class, test.images_per_class, strict=True
    )
  ]
  if len(rows) > _MOST_CLASSES:
    order = np.argsort(-np.array(train.images_per_class), kind='stable').tolist()
    ends = order[:_CLASSES_AT_AN_END], order[-_CLASSES_AT_AN_END:]
    more = f'... {len(rows) - 2 * _CLASSES_AT_AN_END:,} more'
    rows = [*(rows[k] for k in ends[0]), (more, '', ''), *(rows[k] for k in ends[1])]
  rows = [('class', 'training', 'test'), *rows]
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    f'{name:{widths[0]}}  {in_train:>{widths[1]}}  {in_test:>{widths[2]}}'.rstrip()
    for name, in_train, in_test in rows
  ]


def _split_lines(split: SplitReport, image_size: int) -> Iterator[str]:
  """What a split has besides its classes."""
  if not split.heights:
    yield 'no image can be read'
  else:
    for what, lengths in (('width', split.widths), ('height', split.heights)):
      least, median, most = np.percentile(lengths, (0, 50, 100))
      yield f'{what:6} {least:,.0f} to {most:,.0f} pixels, median {median:,.0f}'
    sides = np.minimum(split.heights, split.widths)
    if small := int((sides < image_size).sum()):
      yield f'{small:,} with a side of less than image_size={image_size}'
  counts = {kind: count for kind, count in split.kinds.most_common() if kind}
  if counts:
    yield ', '.join(f'{count:,} {kind}' for kind, count in counts.items())
  yield from (f'{count:,} {trait}' for trait, count in split.traits.most_common())
  if split.repeated:
    yield f'{split.repeated:,} with the pixels of an earlier image of the same class'
  if split.unreadable:
    yield f'unreadable images: {len(split.unreadable):,}'
    yield from _examples(split.unreadable)


def _examples(texts: Sequence[str]) -> list[str]:
  """The first few texts, indented, and the number of others."""
  more = len(texts) - _MOST_EXAMPLES
  return [f'  {text}' for text in texts[:_MOST_EXAMPLES]] + (
    [f'  ... {more:,} more'] if more > 0 else []
  )
