"""Next to PyTorch, of which there is a stand-in: an interpreter that answers without any."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from benchmarks import input_benchmark, step_vs_timm, torch_process
from benchmarks.torch_process import Times
from experiments import nf_resnet50, quickstart_digits
from nfnets_augmult.runs.run import Run
from tests import shared_data

ROOT = pathlib.Path(__file__).parent.parent.parent
# wrn_10_1 with ten classes.
PARAMETERS = 77_709


@pytest.fixture
def python(tmp_path):
  """Answers every command with two seconds a step, and notes its arguments."""
  answer = {
    'seconds': 2.0,
    'processor_seconds': 4.0,
    'images_per_second': 50.0,
    'parameters': PARAMETERS,
    'dtype': 'float32',
    'threads': 3,
    'versions': {'torch': '9.9'},
  }
  path = tmp_path / 'python'
  path.write_text(
    f'#!/bin/sh\n[ "$1" = -c ] && exit 0\necho "$@" >> {tmp_path}/arguments\n'
    f"while read line; do echo noise; echo 'RESULT {json.dumps(answer)}'; done\n"
  )
  path.chmod(0o755)
  return str(path)


def test_steps_in_turn_by_hand():
  """Two of each to warm up, then rounds of as many as take long enough; ratios by round."""
  calls = []

  def ours(count):
    calls.append(('ours', count))
    return Times(1.0 * count, 2.0 * count)

  def theirs(count):
    calls.append(('theirs', count))
    late = 3.0 if len(calls) == 6 else 2.0
    return Times(late * count, 1.0 * count)

  result = torch_process.in_turn(ours, theirs, rounds=3, sample_seconds=6)
  one, three = [('ours', 1), ('theirs', 1)], [('ours', 3), ('theirs', 3)]
  assert calls == [*one, *one, *three, *three, *three]
  assert (result['ours']['seconds'], result['theirs']['seconds']) == (1.0, 2.0)
  assert (result['ratio'], result['ratio_min'], result['ratio_max']) == (2.0, 2.0, 3.0)
  assert result['processor']['ratio'] == 0.5
  assert (result['rounds'], result['steps_per_round']) == (3, 3)
  heading, clock, processor = step_vs_timm.lines(
    'compile', {'versions': {'torch': '9.9', 'timm': '8'}, 'threads': 3}, result
  )
  assert heading == 'next to compile: torch 9.9, timm 8, 3 threads; rounds: 3, steps in each: 3'
  assert clock.endswith(
    'ours 1 s (1 to 1), theirs 2 s (2 to 3); ours takes 0.50 (0.33 to 0.50) of its time'
  )
  assert 'ours 2 s (2 to 2), theirs 1 s' in processor and 'ours takes 2.00' in processor


def test_a_process_that_has_ended_is_an_error(tmp_path):
  """And does not end this one, also where a broken pipe would, as in programs with `| head`."""
  process = torch_process.TorchProcess('/bin/false', 'torch_steps.py')
  with pytest.raises(RuntimeError, match='has ended, with status 1'):
    process.answer()
  before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
  try:
    with pytest.raises(RuntimeError, match='is not running'):
      process.ask('steps eager 1')
    process.end()
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_DFL
  finally:
    signal.signal(signal.SIGPIPE, before)


def _step_vs_timm(python, *arguments, devices=1):
  return subprocess.run(
    [
      *(sys.executable, '-m', 'benchmarks.step_vs_timm', f'--torch_python={python}'),
      *('--config=experiments/quickstart_digits.py', '--config.model.name=wrn_10_1'),
      *('--config.batch_size=8', '--config.unique_images_per_batch=0', '--num_classes=10'),
      *('--config.dataset.image_size=8', '--rounds=1', *arguments),
    ],
    cwd=ROOT,
    env=os.environ
    | {
      'PYTHONPATH': str(ROOT),
      'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
    },
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.extended
def test_the_command_prints_both_and_refuses_another_network(python):
  done = _step_vs_timm(python, '--ways=contiguous')
  assert done.returncode == 0, done.stderr
  assert 'next to contiguous: torch 9.9, 3 threads; rounds: 1, steps in each: 1' in done.stdout
  assert 'theirs 2 s (2 to 2)' in done.stdout and 'theirs 4 s (4 to 4)' in done.stdout
  other = _step_vs_timm(python, '--config.model.name=wrn_16_1')
  assert other.returncode == 1
  assert f'wrn_16_1 in PyTorch {PARAMETERS:,}: they cannot be compared' in other.stderr
  bfloat16 = _step_vs_timm(python, '--config.compute_dtype=bfloat16')
  assert 'say --config.compute_dtype=float32' in bfloat16.stderr
  assert 'JAX has 2 here' in _step_vs_timm(python, devices=2).stderr
  missing = _step_vs_timm('/bin/false')
  assert 'PyTorch with timm is not installed' in missing.stderr


def test_an_input_of_pytorch_gets_the_images_as_files(python, tmp_path):
  """The same bytes, in a folder for each class; the sizes and n are given to it."""
  config = nf_resnet50.get_config()
  config.dataset.data_dir = shared_data.tfds_dir()
  config.dataset.train_split = 'validation'
  config.dataset.image_size = 16
  config.batch_size = 8
  config.augmentation.inception.area = (0.5, 1.0)
  run = Run(config)
  source = run.data.train
  with input_benchmark.torch_input(run, augmult=2, python=python, workers=3) as measure:
    assert measure(0.5) == (50.0, 4.0)
    folder, options = (tmp_path / 'arguments').read_text().split(maxsplit=3)[2:]
    for index in (0, source.num_images - 1):
      encoded, label = source.read(index)
      assert pathlib.Path(folder, str(label), f'{index}.jpg').read_bytes() == encoded
  assert not os.path.exists(folder)
  asked = {'image_size': 16, 'batch_size': 8, 'augmult': 2, 'workers': 3, 'area': [0.5, 1.0]}
  assert asked.items() <= json.loads(options).items()


def test_an_input_of_pytorch_is_for_encoded_images(python):
  config = quickstart_digits.get_config()
  with (
    pytest.raises(ValueError, match='encoded images with Inception crops only'),
    input_benchmark.torch_input(Run(config), augmult=2, python=python, workers=1),
  ):
    pass
