"""The program that predicts: what it writes and prints, interrupted or not, and its exit status."""

import csv
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from nfnets_augmult.runs.predicting import load_predictor
from tests.runs import predicted_runs

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(name='folder')
def _folder(tmp_path):
  """Many links to a few images, some broken ones, files that are none, and names that are odd."""
  digits = sorted((predicted_runs.digits() / 'files').iterdir())
  inside = tmp_path / 'images' / 'more'
  inside.mkdir(parents=True)
  for number in range(800):
    (inside / f'{number:04}.png').symlink_to(digits[number % len(digits)])
  (tmp_path / 'images' / os.fsdecode(b'\xff, "a"\n.png')).symlink_to(digits[0])
  for number in range(30):
    (tmp_path / 'images' / f'broken{number:02}.png').write_bytes(digits[0].read_bytes()[:-20])
  (tmp_path / 'images' / 'notes.txt').write_text('none')
  return tmp_path


def _start(folder, *arguments, **environment):
  # A run on arrays is to be predicted without TensorFlow.
  (folder / 'tensorflow.py').write_text('raise ImportError("TensorFlow was imported")')
  command = [sys.executable, '-m', 'nfnets_augmult.predict', *arguments]
  run = predicted_runs.digits() / 'run'
  return subprocess.Popen(
    [*command, f'--workdir={run}'],
    cwd=folder,
    env=os.environ | {'PYTHONPATH': f'{folder}:{ROOT}'} | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def test_interrupted_it_goes_on_where_it_stopped(folder):
  output = folder / 'p.csv'
  arguments = ['images', 'images/more/0000.png', '--output=p.csv', '--top=3']
  process = _start(folder, *arguments, '--batch_size=8', LC_ALL='C')
  while not (output.exists() and output.read_bytes().count(b'more/') > 8):
    assert process.poll() is None, process.stderr.read()
    time.sleep(0.005)
  process.send_signal(signal.SIGTERM)
  _, errors = process.communicate(timeout=60)
  assert process.returncode == 128 + signal.SIGTERM
  begun = output.read_bytes()
  assert begun.endswith(b'\n') and begun.count(b'\n') < 800
  (last,) = [line for line in errors.splitlines() if 'interrupted' in line]
  assert last.startswith('interrupted: p.csv has ')
  assert last.endswith(' of 831 images; the same command goes on')
  shown = [line for line in errors.splitlines() if 'images/broken' in line]
  assert len(shown) == 20 and all('PNG that is cut off' in line for line in shown)
  assert '1 file passed over: 1 without an image (e.g. images/notes.txt)' in errors

  output.write_bytes(begun[:-7])
  process = _start(folder, *arguments, '--on_bad_image=fail', '--sheet=s.png')
  printed, errors = process.communicate(timeout=120)
  assert process.returncode == 1
  assert errors.splitlines()[-1] == 'error: 30 of 831 images cannot be read'
  assert 'p.csv: 831 images, predicted with ' in printed
  assert output.read_bytes().startswith(begun)
  with output.open(encoding='utf-8', errors='surrogateescape', newline='') as file:
    rows = list(csv.DictReader(file))
  names = [os.fsencode(row['path']) for row in rows]
  assert names == sorted(names) and len(set(names)) == 831
  assert b'images/\xff, "a"\n.png' in names
  assert sum(bool(row['error']) for row in rows) == 30
  predictor = load_predictor(str(predicted_runs.digits() / 'run'))
  found = predictor([folder / f'images/more/{number:04}.png' for number in range(800)])
  more = [row for row in rows if '/more/' in row['path']]
  for row, top in zip(more, found.top(3), strict=True):
    assert [row[f'name_{k}'] for k in (1, 2, 3)] == [name for name, _ in top]
    assert float(row['probability_2']) == pytest.approx(top[1][1], rel=1e-4)
  with Image.open(folder / 's.png') as sheet:
    assert sheet.width > 1000


def test_predictions_are_printed(folder):
  """Without an output; with a flag that names no run, one line says so."""
  process = _start(folder, 'images/more/0003.png', 'images/broken00.png', '--copies=2')
  printed, errors = process.communicate(timeout=60)
  assert process.returncode == 0, errors
  assert 'images/broken00.png: PNG that is cut off: ' in errors
  assert '1 of 2 images cannot be read' in errors
  predictor = load_predictor(str(predicted_runs.digits() / 'run'))
  (top,) = predictor([folder / 'images/more/0003.png'], copies=2).top(5)
  shares = ', '.join(f'{name} {100 * share:.1f} %' for name, share in top)
  assert printed == f'images/more/0003.png: {shares}\n'
