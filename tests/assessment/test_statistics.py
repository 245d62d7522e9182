"""What is collected of a split and counted, by hand and against scikit-learn."""

import csv
import io
import json
import os

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

from nfnets_augmult.assessment import figures, outputs, statistics, writing

_NAMES = ('cat', 'dog, or wolf', 'two\nlines', 'caf\udce9')
# True and predicted labels of ten images.
_LABEL = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
_PREDICTED = np.array([0, 1, 1, 2, 1, 1, 1, 0, 2, 2])


def _log_probabilities(predicted, num_classes, seed=0):
  """Random ones of which those of the predicted labels are the largest."""
  random = np.random.default_rng(seed)
  logits = random.normal(0, 1, (len(predicted), num_classes))
  rows = np.arange(len(predicted))
  logits[rows, predicted] = logits.max(axis=1) + random.random(len(predicted))
  return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def _batches(label, predicted, log_p, size=4):
  """Each image shows its number."""
  for start in range(0, len(label), size):
    rows = np.arange(len(label))[start : start + size]
    yield {
      'image_index': rows,
      'label': label[rows],
      'predicted': predicted[rows],
      'in_top_5': np.ones(len(rows), bool),
      'log_probabilities': log_p[rows],
      'image': np.broadcast_to(rows.astype(np.uint8)[:, None, None, None], (len(rows), 6, 8, 3)),
    }


def _collected(label=_LABEL, predicted=_PREDICTED, num_classes=4, log_p=None, **options):
  if log_p is None:
    log_p = _log_probabilities(predicted, num_classes)
  batches = _batches(label, predicted, log_p)
  return outputs.collect(batches, num_images=len(label), num_classes=num_classes, **options)


def _assess(collected, names=_NAMES, **options):
  image_names = [f'{names[label]}/{row}.png' for row, label in enumerate(collected.label)]
  return image_names, statistics.assess(
    collected,
    class_names=names,
    image_names=image_names,
    split='photos/test',
    step=7,
    parameters='averaged',
    **options,
  )


def test_classes_and_confusions_by_hand():
  _, found = _assess(_collected(), num_skipped=2)
  assert (found['images'], found['skipped_images'], found['accuracy']) == (10, 2, 0.6)
  assert [tuple(one.values()) for one in found['classes']] == [
    ('cat', 4, 1, 0.25, 2),
    ('dog, or wolf', 4, 3, 0.75, 5),
    ('two\nlines', 2, 2, 1.0, 3),
    ('caf\udce9', 0, 0, None, 0),
  ]
  assert found['confusion'] == [
    *([0, 0, 1], [0, 1, 2], [0, 2, 1], [1, 0, 1], [1, 1, 3]),
    [2, 2, 2],
  ]
  texts = [one['text'] for one in found['top_confusions']]
  assert texts[0] == '2 of 4 images of class cat are taken for class dog, or wolf'
  assert texts[1] == r'1 of 4 images of class cat are taken for class two\nlines'
  assert len(texts) == 3
  assert found['top_confusions'][0]['share'] == 0.5


def test_the_confusion_matrix_is_that_of_scikit_learn():
  """Also the accuracy by class, its recall, and the cross entropy."""
  random = np.random.default_rng(3)
  label, predicted = random.integers(0, 7, (2, 300))
  log_p = _log_probabilities(predicted, 7)
  _, found = _assess(_collected(label, predicted, 7, log_p), [f'class {k}' for k in range(7)])
  matrix = np.zeros((7, 7), int)
  for true, guess, images in found['confusion']:
    matrix[true, guess] = images
  np.testing.assert_array_equal(matrix, metrics.confusion_matrix(label, predicted))
  recall = metrics.recall_score(label, predicted, average=None)
  np.testing.assert_allclose([one['accuracy'] for one in found['classes']], recall)
  probabilities = np.exp(log_p.astype(np.float64))
  expected = metrics.log_loss(label, probabilities / probabilities.sum(axis=1, keepdims=True))
  assert found['cross_entropy'] == pytest.approx(expected, rel=1e-5)
  largest = max(images for true, guess, images in found['confusion'] if true != guess)
  assert found['top_confusions'][0]['images'] == largest


def test_the_worst_have_the_least_probable_true_class_and_the_least_sure_prediction():
  """From all batches, in order, with their own images; there are more than are kept."""
  random = np.random.default_rng(5)
  label, predicted = random.integers(0, 4, (2, 90))
  log_p = _log_probabilities(predicted, 4)
  collected = _collected(label, predicted, 4, log_p)
  names, found = _assess(collected)
  rows = np.arange(90)
  for kind, scores in (
    ('worst', log_p[rows, label]),
    ('least_sure', log_p[rows, predicted]),
  ):
    expected = np.argsort(scores)[:40]
    assert [one['image'] for one in found[kind]] == [names[row] for row in expected]
    shown = getattr(collected, kind)
    assert [one.image[0, 0, 0] for one in shown] == list(expected)
    first = found[kind][0]
    assert first['true'] == _NAMES[label[expected[0]]]
    assert first['predicted'] == _NAMES[predicted[expected[0]]]
    true, guess = (np.exp(log_p[expected[0], of[expected[0]]]) for of in (label, predicted))
    assert first['probability_true'] == pytest.approx(true)
    assert first['probability_predicted'] == pytest.approx(guess)


def test_memory_is_bounded():
  """Of many images a random part keeps all its probabilities; what is counted is of all."""
  random = np.random.default_rng(5)
  label, predicted = random.integers(0, 4, (2, 300))
  log_p = _log_probabilities(predicted, 4)
  collected = _collected(label, predicted, 4, log_p, most_kept=4 * 100 + 3)
  assert len(collected.kept) == len(collected.log_probabilities) == 100
  np.testing.assert_array_equal(collected.log_probabilities, log_p[collected.kept])
  assert 20 < (collected.kept < 150).sum() < 80
  _, found = _assess(collected)
  assert found['images'] == sum(images for _, _, images in found['confusion']) == 300
  assert sum(one['images'] for one in found['calibration']['scaled']['bins']) == 100
  assert 'fitted on 100 images' in found['calibration']['temperature_text']


def test_outputs_without_numbers_are_null_and_come_first(tmp_path):
  """JSON has no nan; the other images are calibrated."""
  label, predicted = np.tile(_LABEL, 6), np.tile(_PREDICTED, 6)
  log_p = _log_probabilities(predicted, 4)
  log_p[[3, 17]] = np.nan
  collected = _collected(label, predicted, 4, log_p)
  names, found = _assess(collected)
  assert found['cross_entropy'] is None
  assert [one['image'] for one in found['worst'][:2]] == [names[3], names[17]]
  assert found['worst'][0]['probability_true'] is None
  assert found['worst'][2]['probability_true'] is not None
  assert sum(one['images'] for one in found['calibration']['bins']) == 58
  assert found['calibration']['temperature']
  assert 'without 2 images' in found['calibration']['temperature_text']
  writing.write(str(tmp_path), found, collected, names)
  assert json.loads((tmp_path / writing.NAME).read_text()) == found


def test_no_image_is_an_error():
  with pytest.raises(ValueError, match='no image'):
    outputs.collect([], num_images=3, num_classes=2)


def _table(path):
  text = path.read_bytes().decode('utf-8', 'surrogateescape')
  return list(csv.reader(io.StringIO(text, newline=''), strict=True))


def test_all_files_are_written(tmp_path):
  """Names come back whole from the tables; pictures open."""
  collected = _collected()
  names, found = _assess(collected)
  folder = tmp_path / 'a' / 'b'
  writing.write(str(folder), found, collected, names)
  assert sorted(os.listdir(folder)) == [
    *('assessment.json', 'classes.csv', 'confusion.csv', 'confusion.png', 'images.csv'),
    *('least_sure.png', 'reliability.png', 'worst.png'),
  ]
  header, *rows = _table(folder / 'images.csv')
  assert header[:3] == ['image', 'true', 'predicted'] and header[-1] == 'correct'
  assert [row[:3] for row in rows] == [
    [name, _NAMES[true], _NAMES[guess]]
    for name, true, guess in zip(names, _LABEL, _PREDICTED, strict=True)
  ]
  assert [float(row[4]) for row in rows] == pytest.approx(
    np.exp(collected.log_p_predicted), rel=1e-4
  )
  assert [row[-1] for row in rows] == list('1000111011')
  header, *rows = _table(folder / 'confusion.csv')
  assert tuple(header[1:]) == tuple(row[0] for row in rows) == _NAMES
  matrix = metrics.confusion_matrix(_LABEL, _PREDICTED, labels=range(4))
  np.testing.assert_array_equal(np.array([row[1:] for row in rows], int), matrix)
  header, *rows = _table(folder / 'classes.csv')
  assert rows[0] == ['cat', '4', '1', '0.25', '2'] and rows[3][3] == ''
  for name in ('confusion', 'reliability', 'worst', 'least_sure'):
    with Image.open(folder / f'{name}.png') as picture:
      assert min(picture.size) > 100


def test_a_crash_leaves_no_assessment_of_other_files(tmp_path, monkeypatch):
  collected = _collected()
  names, found = _assess(collected)
  (tmp_path / writing.NAME).write_text('{}')
  monkeypatch.setattr(writing.figures, 'draw_reliability', lambda _: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    writing.write(str(tmp_path), found, collected, names)
  assert not (tmp_path / writing.NAME).exists()


def test_captions_say_what_is_right(monkeypatch):
  """True and predicted names and probabilities, in this order, and the file."""
  drawn = []
  monkeypatch.setattr(writing.image_sheet, 'draw_sheet', lambda title, images: drawn.append(images))
  described = [
    {'image': 'x/1.png', 'true': 'cat', 'predicted': 'dog'}
    | {'probability_true': 0.125, 'probability_predicted': 0.75},
    {'image': 'x/2.png', 'true': 'cat', 'predicted': 'cat'}
    | {'probability_true': 0.5, 'probability_predicted': 0.5},
  ]
  shown = [outputs.ShownImage(-1.0, row, np.zeros((2, 2, 3), np.uint8)) for row in (1, 0)]
  writing._sheet('title', shown, described, np.array([True, False]))
  assert [image.lines for image in drawn[0]] == [
    ('cat', '→ dog', '12.5 % → 75.0 %', '1.png'),
    ('cat', 'right', '50.0 %', '2.png'),
  ]


def test_a_large_matrix_shows_the_classes_that_are_confused():
  """Rows are true classes, columns predicted ones, of 200 classes the 40 with most mistakes."""
  label = np.arange(200)
  predicted = label.copy()
  predicted[100:120] = label[140:160]
  names = [f'number {k}' for k in range(200)]
  _, found = _assess(_collected(label, predicted, 200), names)
  axes = figures.draw_confusion(found).axes[0]
  shown = [text.get_text() for text in axes.get_yticklabels()]
  assert shown == [names[k] for k in (*range(100, 120), *range(140, 160))]
  shares = np.asarray(axes.images[0].get_array())
  expected = np.zeros((40, 40))
  expected[np.arange(20), np.arange(20, 40)] = 1
  expected[np.arange(20, 40), np.arange(20, 40)] = 1
  np.testing.assert_array_equal(shares, expected)
  assert 'the 40 of 200 classes' in axes.get_title()


def test_a_small_matrix_has_all_classes_with_numbers():
  _, found = _assess(_collected())
  axes = figures.draw_confusion(found).axes[0]
  assert [text.get_text() for text in axes.get_xticklabels()] == [
    'cat',
    'dog, or wolf',
    r'two\nlines',
    r'caf\xe9',
  ]
  np.testing.assert_array_equal(np.asarray(axes.images[0].get_array())[0], [0.25, 0.5, 0.25, 0])
  numbers = {text.get_position(): text.get_text() for text in axes.texts}
  assert numbers[1, 0] == '2' and numbers[0, 1] == '1'  # x is the column
