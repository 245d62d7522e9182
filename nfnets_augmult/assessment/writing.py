"""The files of an assessment: JSON, tables, figures and sheets of images."""

import csv
import io
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nfnets_augmult.assessment import figures, image_sheet
from nfnets_augmult.assessment.outputs import Outputs, ShownImage
from nfnets_augmult.assessment.statistics import probability
from nfnets_augmult.data.sources import printable
from nfnets_augmult.ops import files

NAME = 'assessment.json'
# Above it a table of all pairs is of no use, and of hundreds of MB.
_MOST_CLASSES_IN_TABLE = 4000


def write(
  folder: str, assessment: Mapping[str, Any], outputs: Outputs, image_names: Sequence[str]
) -> None:
  """Writes the files of an assessment.

  `assessment.json` is removed first and written last: where it is, the others belong to it.

  Args:
    folder: made if it is not there.
    assessment: see `statistics.assess`.
    outputs: that it is of.
    image_names: N, of the rows of `outputs`.

  Raises:
    OSError: something cannot be written.
  """
  files.make_dirs(folder)
  path = os.path.join(folder, NAME)
  if files.exists(path):
    files.remove(path)
  names = [one['name'] for one in assessment['classes']]
  tables = {
    'classes.csv': _class_rows(assessment),
    'images.csv': _image_rows(outputs, names, image_names),
  }
  if len(names) <= _MOST_CLASSES_IN_TABLE:
    tables['confusion.csv'] = _confusion_rows(assessment, names)
  for name, rows in tables.items():
    files.write_whole(os.path.join(folder, name), _csv(rows))
  drawn = {
    'confusion.png': figures.draw_confusion(assessment),
    'reliability.png': figures.draw_reliability(assessment),
  }
  with warnings.catch_warnings():
    # Where no font of the machine has the characters of a name, there are boxes.
    warnings.filterwarnings('ignore', 'Glyph .* missing')
    for name, figure in drawn.items():
      files.write_whole(
        os.path.join(folder, name), lambda file, f=figure: f.savefig(file, format='png', dpi=120)
      )
  what = f'of {assessment["images"]:,} images'
  for kind, title, shown in (
    ('worst', f'the {{}} {what} whose true class is the least probable', outputs.worst),
    ('least_sure', f'the {{}} {what} whose prediction is the least probable', outputs.least_sure),
  ):
    title = (
      f'{figures.subject(assessment)}: {title.format(len(shown))}; true class → predicted class, '
      'and their probabilities'
    )
    sheet = _sheet(title, shown, assessment[kind], outputs.label == outputs.predicted)
    files.write_whole(
      os.path.join(folder, f'{kind}.png'), lambda file, s=sheet: s.save(file, format='png')
    )
  files.write_whole(path, (json.dumps(assessment, allow_nan=False) + '\n').encode())


def _class_rows(assessment: Mapping[str, Any]) -> Iterable[Sequence[Any]]:
  keys = ('name', 'images', 'correct', 'accuracy', 'predicted')
  yield ('class', *keys[1:])
  for one in assessment['classes']:
    yield tuple(_cell(one[key]) for key in keys)


def _image_rows(
  outputs: Outputs, class_names: Sequence[str], image_names: Sequence[str]
) -> Iterable[Sequence[Any]]:
  yield ('image', 'true', 'predicted', 'probability_true', 'probability_predicted', 'correct')
  columns = (outputs.label, outputs.predicted, outputs.log_p_true, outputs.log_p_predicted)
  for name, label, predicted, *log_p in zip(image_names, *columns, strict=True):
    probabilities = (_cell(probability(value)) for value in log_p)
    is_correct = int(label == predicted)
    yield (name, class_names[label], class_names[predicted], *probabilities, is_correct)


def _confusion_rows(
  assessment: Mapping[str, Any], class_names: Sequence[str]
) -> Iterable[Sequence[Any]]:
  yield ('true class / predicted class', *class_names)
  counts = np.zeros((len(class_names), len(class_names)), np.int64)
  for true, predicted, images in assessment['confusion']:
    counts[true, predicted] = images
  for name, row in zip(class_names, counts, strict=True):
    yield (name, *row)


def _cell(value: Any) -> Any:
  """What a table shows of a value: nothing of None, six digits of a float."""
  return '' if value is None else f'{value:.6g}' if isinstance(value, float) else value


def _csv(rows: Iterable[Sequence[Any]]) -> bytes:
  """A table as `runs.prediction_files` writes them: names may have any bytes but NUL."""
  text = io.StringIO(newline='')
  csv.writer(text).writerows(rows)
  return text.getvalue().encode('utf-8', 'surrogateescape')


def _sheet(
  title: str,
  shown: Sequence[ShownImage],
  described: Sequence[Mapping[str, Any]],
  is_correct: np.ndarray,
) -> Any:
  images = []
  for one, facts in zip(shown, described, strict=True):
    names = [printable(facts[key]) for key in ('true', 'predicted')]
    shares = [_percent(facts[f'probability_{key}']) for key in ('true', 'predicted')]
    lines = [names[0], f'→ {names[1]}', ' → '.join(shares)]
    if is_correct[one.row]:
      lines = [names[0], 'right', shares[0]]
    file = printable(os.path.basename(facts['image']))
    images.append(image_sheet.Shown(one.image, (*lines, file)))
  return image_sheet.draw_sheet(title, images)


def _percent(share: float | None) -> str:
  return 'nan' if share is None else f'{100 * share:.1f} %'
