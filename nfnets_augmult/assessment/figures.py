"""The confusion matrix and the reliability diagram, drawn from an assessment."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Text

from nfnets_augmult.assessment.image_sheet import font_path
from nfnets_augmult.data.sources import printable

_MOST_CLASSES = 40  # whose names can be read beside the matrix
_MOST_WITH_NUMBERS = 25  # classes, so that the numbers fit into the cells
_LONGEST_NAME = 24


def draw_confusion(assessment: Mapping[str, Any]) -> Figure:
  """Returns the confusion matrix; of more than 40 classes that of the 40 most often confused.

  A row is a true class, a column a predicted one. Shades are shares of the images of the class,
  numbers are images.

  Args:
    assessment: see `statistics.assess`.
  """
  classes = assessment['classes']
  shown = _most_confused(assessment) if len(classes) > _MOST_CLASSES else range(len(classes))
  place = {label: number for number, label in enumerate(shown)}
  counts = np.zeros((len(place), len(place)), int)
  for true, predicted, images in assessment['confusion']:
    if true in place and predicted in place:
      counts[place[true], place[predicted]] = images
  totals = np.array([max(classes[label]['images'], 1) for label in place])
  shares = counts / totals[:, np.newaxis]
  side = 2.2 + (0.36 if len(place) <= _MOST_WITH_NUMBERS else 0.22) * max(len(place), 6)
  figure = Figure(figsize=(side + 0.8, side), layout='constrained')
  axes = figure.subplots()
  # Not linear, so that confusions, a few percent, can be seen.
  image = axes.imshow(shares, cmap='Blues', norm=PowerNorm(0.5, 0, 1))
  figure.colorbar(image, ax=axes, shrink=0.7, label='share of the images of the class')
  if len(place) <= _MOST_WITH_NUMBERS:
    for row, column in np.argwhere(counts):
      color = 'white' if shares[row, column] > 0.4 else 'black'
      number = f'{counts[row, column]:,}'
      axes.text(column, row, number, ha='center', va='center', size=7, color=color)
  names = [_shortened(classes[label]['name']) for label in place]
  axes.set_xticks(range(len(place)), names, rotation=90)
  axes.set_yticks(range(len(place)), names)
  for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
    _make_plain(text, size=8)
  axes.set_xlabel('predicted class')
  axes.set_ylabel('true class')
  what = f'{100 * assessment["accuracy"]:.2f} % of {assessment["images"]:,} images are right'
  if len(place) < len(classes):
    what += f'\nthe {len(place)} of {len(classes):,} classes that are confused most often'
  _make_plain(axes.set_title(f'{subject(assessment)}\n{what}'), size=10)
  return figure


def subject(assessment: Mapping[str, Any]) -> str:
  """Returns what an assessment is of, for the title of a picture."""
  split, parameters = printable(assessment['split']), assessment['parameters']
  return f'{split}, {parameters} parameters of step {assessment["step"]:,}'


def _most_confused(assessment: Mapping[str, Any]) -> list[int]:
  """The labels of the classes with most wrong images, as true or as predicted class, in order."""
  mistakes = np.zeros(len(assessment['classes']), int)
  for true, predicted, images in assessment['confusion']:
    if true != predicted:
      mistakes[[true, predicted]] += images
  return sorted(np.argsort(-mistakes, kind='stable')[:_MOST_CLASSES].tolist())


def _shortened(name: str) -> str:
  name = printable(name)
  return name if len(name) <= _LONGEST_NAME else f'{name[: _LONGEST_NAME - 1]}…'


def _make_plain(text: Text, size: float) -> None:
  """Shows names as they are: no formulas between dollars, and a font that has the characters."""
  text.set_parse_math(False)
  text.set_fontproperties(FontProperties(fname=font_path(text.get_text()), size=size))


def draw_reliability(assessment: Mapping[str, Any]) -> Figure:
  """Returns the reliability diagram; beside it that after scaling by the temperature, if it has.

  Args:
    assessment: see `statistics.assess`.

  Source: Guo et al. 2017 (arXiv:1706.04599), Figures 1 and 4.
  """
  found = assessment['calibration']
  panels = [('as they are', found)]
  if found['scaled']:
    title = f'scaled, temperature {found["temperature"]:.3g}'
    panels.append((f'{title}\n(each half with that of the other half)', found['scaled']))
  figure = Figure(figsize=(0.8 + 4.2 * len(panels), 5.2), layout='constrained')
  grid = figure.subplots(
    2, len(panels), squeeze=False, sharex=True, sharey='row', height_ratios=(3, 1)
  )
  for (title, values), (diagram, histogram) in zip(panels, grid.T, strict=True):
    _draw_bins(diagram, histogram, values['bins'])
    error = values['expected_calibration_error']
    shown = 'none' if error is None else f'{100 * error:.2f} %'
    diagram.set_title(f'{title}\nexpected calibration error {shown}', size=10)
    histogram.set_xlabel('probability of the predicted class')
  _make_plain(figure.suptitle(subject(assessment)), size=10)
  grid[0, 0].set_ylabel('share of right predictions')
  grid[1, 0].set_ylabel('images')
  if found['bins']:
    grid[1, 0].set_yscale('log')
    grid[1, 0].set_ylim(bottom=0.5)
  return figure


def _draw_bins(diagram: Axes, histogram: Axes, bins: Sequence[Mapping[str, float]]) -> None:
  low, high, images, confidence, accuracy = (
    np.array([one[key] for one in bins])
    for key in ('low', 'high', 'images', 'confidence', 'accuracy')
  )
  width = {'width': high - low, 'align': 'edge', 'edgecolor': 'white'}
  diagram.bar(low, accuracy, color='C0', label='right', **width)
  gap = {'facecolor': 'none', 'hatch': '////', 'align': 'edge', 'edgecolor': 'C3', 'lw': 0}
  diagram.bar(low, confidence - accuracy, high - low, accuracy, label='gap to probability', **gap)
  diagram.plot([0, 1], [0, 1], color='0.4', ls='--', lw=1)
  diagram.set(xlim=(0, 1), ylim=(0, 1))
  diagram.legend(loc='upper left', fontsize=8)
  histogram.bar(low, images, color='0.6', **width)
