"""The assessment of a network on a split, as the values of `assessment.json`."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nfnets_augmult.assessment import calibration
from nfnets_augmult.assessment.outputs import Outputs, ShownImage
from nfnets_augmult.data.sources import printable

_TOP_CONFUSIONS = 10


def assess(
  outputs: Outputs,
  *,
  class_names: Sequence[str],
  image_names: Sequence[str],
  split: str,
  step: int,
  parameters: str,
  num_skipped: int = 0,
) -> dict[str, Any]:
  """Returns the assessment; docs/evaluation.md says what is in it.

  Args:
    outputs: of the network.
    class_names: K, in the order of the labels.
    image_names: N, of the rows of `outputs`.
    split: what was evaluated.
    step: of the checkpoint.
    parameters: `'averaged'` or `'last'`.
    num_skipped: images of the split that do not decode and are not in `outputs`.

  Returns:
    JSON values; None stands for numbers that are not finite.
  """
  label, predicted = outputs.label, outputs.predicted
  is_correct = label == predicted
  confusion = _confusion(outputs, len(class_names))
  num_images, num_predicted, num_correct = (
    np.bincount(labels, minlength=len(class_names)).tolist()
    for labels in (label, predicted, label[is_correct])
  )
  has_confidence = np.isfinite(outputs.log_p_predicted)
  confidence = np.exp(outputs.log_p_predicted[has_confidence], dtype=np.float64)
  bins, error = calibration.reliability(confidence, is_correct[has_confidence])
  scaling = calibration.calibrate(
    outputs.log_probabilities, label[outputs.kept], predicted[outputs.kept]
  )
  if without := len(label) - int(has_confidence.sum()):
    scaling['temperature_text'] += f'; without {without:,} images whose outputs are not finite'
  return {
    'split': split,
    'step': step,
    'parameters': parameters,
    'images': len(label),
    'skipped_images': num_skipped,
    'accuracy': float(is_correct.mean()),
    'top_5': float(outputs.in_top_5.mean()),
    'cross_entropy': _finite(-outputs.log_p_true.mean(dtype=np.float64)),
    'classes': [
      {
        'name': name,
        'images': num_images[k],
        'correct': num_correct[k],
        'accuracy': num_correct[k] / num_images[k] if num_images[k] else None,
        'predicted': num_predicted[k],
      }
      for k, name in enumerate(class_names)
    ],
    'confusion': confusion,
    'top_confusions': _top_confusions(confusion, num_images, class_names),
    'calibration': {
      'bins': bins,
      'expected_calibration_error': error,
      'error_by_chance': calibration.error_by_chance(confidence),
      **scaling,
    },
    'worst': [_described(image, outputs, class_names, image_names) for image in outputs.worst],
    'least_sure': [
      _described(image, outputs, class_names, image_names) for image in outputs.least_sure
    ],
  }


def probability(log_probability: float) -> float | None:
  """Returns a probability; None if its logarithm is nan."""
  return None if math.isnan(log_probability) else math.exp(log_probability)


def _finite(value: float) -> float | None:
  return float(value) if math.isfinite(value) else None


def _confusion(outputs: Outputs, num_classes: int) -> list[list[int]]:
  """The non-zero entries of the confusion matrix: true label, predicted label, images."""
  pairs = outputs.label.astype(np.int64) * num_classes + outputs.predicted
  found, counts = np.unique(pairs, return_counts=True)
  true, predicted = np.divmod(found, num_classes)
  return np.stack([true, predicted, counts], axis=1).tolist()


def _top_confusions(
  confusion: list[list[int]], num_images: Sequence[int], class_names: Sequence[str]
) -> list[dict[str, Any]]:
  """Of the wrong entries those of the most images, then of the largest share of their class."""
  wrong = [entry for entry in confusion if entry[0] != entry[1]]
  wrong.sort(key=lambda entry: (-entry[2], num_images[entry[0]]))
  top = []
  for true, predicted, count in wrong[:_TOP_CONFUSIONS]:
    names = class_names[true], class_names[predicted]
    text = '{} of {} images of class {} are taken for class {}'.format(
      f'{count:,}', f'{num_images[true]:,}', *map(printable, names)
    )
    share = count / num_images[true]
    top.append(
      {'true': names[0], 'predicted': names[1], 'images': count, 'share': share, 'text': text}
    )
  return top


def _described(
  shown: ShownImage, outputs: Outputs, class_names: Sequence[str], image_names: Sequence[str]
) -> dict[str, Any]:
  row = shown.row
  return {
    'image': image_names[row],
    'true': class_names[outputs.label[row]],
    'predicted': class_names[outputs.predicted[row]],
    'probability_true': probability(outputs.log_p_true[row]),
    'probability_predicted': probability(outputs.log_p_predicted[row]),
  }
