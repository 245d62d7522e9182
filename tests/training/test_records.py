"""Records that survive kills and do not repeat themselves."""

import json
import math
import os
import time

import pytest

from nfnets_augmult.training import records


def test_an_incomplete_line_and_records_after_the_checkpoint_are_dropped(tmp_path):
  path = str(tmp_path / 'metrics.jsonl')
  file = records.MetricsFile(path)
  for step in (10, 20, 30):
    file.write(step, {'loss': step / 10})
  file.close()
  with open(path, 'a') as cut:
    cut.write('{"step": 40, "los')
  assert [r['step'] for r in records.read_metrics(path)] == [10, 20, 30]
  file = records.MetricsFile(path, resume_step=20)
  file.write(25, {'loss': 2.5})
  file.close()
  assert [r['step'] for r in records.read_metrics(path)] == [10, 20, 25]
  assert (tmp_path / 'metrics.jsonl').read_text().count('\n') == 3


def test_numbers_that_are_not_finite_stay_valid_json(tmp_path):
  path = str(tmp_path / 'metrics.jsonl')
  file = records.MetricsFile(path)
  file.write(1, {'loss': math.nan, 'other': math.inf, 'good': 1.5})
  file.close()
  assert json.loads((tmp_path / 'metrics.jsonl').read_text()) == {
    'step': 1,
    'loss': None,
    'other': None,
    'good': 1.5,
  }


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
  """The disk is full when the new file is synced: the old one stays, and no temporary one."""
  path = str(tmp_path / 'config.json')
  records.write_json(path, {'a': 1})

  def full(descriptor):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full)
  with pytest.raises(OSError, match='No space'):
    records.write_json(path, {'a': 2})
  assert records.read_json(path) == {'a': 1}
  assert os.listdir(tmp_path) == ['config.json']


def test_recorder_finds_its_records(tmp_path):
  recorder = records.Recorder(str(tmp_path))
  recorder.write(5, {'test/ema/top_1': 0.5})
  recorder.write(6, {'train/loss': 1.0})
  assert recorder.has(5, 'test/ema/top_1')
  assert not recorder.has(6, 'test/ema/top_1')
  assert recorder.last('test/ema/top_1')['step'] == 5
  assert recorder.last('absent') is None
  recorder.close()
  reopened = records.Recorder(str(tmp_path), resume_step=5)
  assert reopened.has(5, 'test/ema/top_1')
  assert reopened.last('train/loss') is None
  reopened.close()


def test_tensorboard_reads_the_scalars(tmp_path):
  """Through TensorBoard's own reader; values after the step of a resume are hidden.

  However soon it comes: the name of the first file is after all others of its second.
  """
  from tensorboard.backend.event_processing import event_accumulator

  board = records.TensorBoard(str(tmp_path))
  for step in (1, 2, 3):
    board.write(step, {'train/loss': float(step)})
  board.close()
  (file,) = tmp_path.iterdir()
  file.rename(tmp_path / f'events.out.tfevents.{int(time.time()):010d}.z')
  board = records.TensorBoard(str(tmp_path), resume_step=2)
  board.write(3, {'train/loss': 30.0})
  board.close()
  reader = event_accumulator.EventAccumulator(str(tmp_path))
  reader.Reload()
  events = [(e.step, e.value) for e in reader.Scalars('train/loss')]
  assert events == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_versions_name_what_results_depend_on():
  import jax

  assert records.versions()['jax'] == jax.__version__
