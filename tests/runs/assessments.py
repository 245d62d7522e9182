"""Assessments of runs that were never evaluated, for tests of what reads them."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from nfnets_augmult.ops import files
from nfnets_augmult.training import records


def make_assessment(
  names: Sequence[str], *, images_per_class: int = 40, share_right: float = 0.85
) -> dict[str, Any]:
  """Returns an assessment of classes with these names, of made-up predictions.

  The first class has no image, and the calibration has been scaled.
  """
  rng = np.random.default_rng(0)
  count = len(names)
  true = np.repeat(np.arange(1, count), images_per_class)
  neighbours = (true + rng.integers(1, 4, true.size)) % count
  predicted = np.where(rng.random(true.size) < share_right, true, neighbours)
  labels, images = np.unique(np.stack([true, predicted], 1), axis=0, return_counts=True)
  cells = [[*pair, n] for pair, n in zip(labels.tolist(), images.tolist(), strict=True)]
  wrong = sorted((cell for cell in cells if cell[0] != cell[1]), key=lambda cell: -cell[2])[:8]
  right = np.bincount(true[true == predicted], minlength=count)
  bins = [
    {
      'low': low / 15,
      'high': (low + 1) / 15,
      'images': 3 * low * low,
      'confidence': (low + 0.5) / 15,
      'accuracy': ((low + 0.5) / 15) ** 1.4,
    }
    for low in range(3, 15)
  ]
  shown = [
    {
      'image': f'photos/{names[t]}/{i}.jpg',
      'true': names[t],
      'predicted': names[p],
      'probability_true': 0.01 * i,
      'probability_predicted': 0.9 - 0.01 * i,
    }
    for i, (t, p, _) in enumerate(wrong)
  ]
  return {
    'split': 'test',
    'step': 270,
    'parameters': 'averaged',
    'images': true.size,
    'skipped_images': 2,
    'accuracy': float((true == predicted).mean()),
    'top_5': 1.0,
    'cross_entropy': 0.41,
    'classes': [
      {
        'name': name,
        'images': images_per_class * (label > 0),
        'correct': int(right[label]),
        'accuracy': right[label] / images_per_class if label else None,
        'predicted': int((predicted == label).sum()),
      }
      for label, name in enumerate(names)
    ],
    'confusion': cells,
    'top_confusions': [
      {
        'true': names[t],
        'predicted': names[p],
        'images': n,
        'share': n / images_per_class,
        'text': f'{n} of {images_per_class} {names[t]} are taken for {names[p]}',
      }
      for t, p, n in wrong
    ],
    'calibration': {
      'bins': bins,
      'expected_calibration_error': 0.081,
      'error_by_chance': 0.0345,
      'temperature': 1.43,
      'temperature_text': 'fitted on each half of the split and measured on the other',
      'scaled': {
        'bins': [{**b, 'accuracy': b['confidence'] - 0.01} for b in bins],
        'expected_calibration_error': 0.012,
        'cross_entropy': 0.37,
      },
    },
    'worst': shown,
    'least_sure': shown[::-1],
  }


def write_assessment(workdir: str, assessment: dict[str, Any], pixels: int = 300) -> None:
  """Writes it into a work directory, with sheets of `pixels` x `pixels` of noise."""
  folder = f'{workdir}/evaluation'
  files.make_dirs(folder)
  records.write_json(f'{folder}/assessment.json', assessment)
  noise = np.random.default_rng(0).integers(0, 256, (pixels, pixels, 3), np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(noise).save(buffer, format='png', compress_level=1)
  for name in ('worst', 'least_sure'):
    files.write_whole(f'{folder}/{name}.png', buffer.getvalue())
