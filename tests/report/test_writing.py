"""Whole reports, from work directories written by hand, and the program that writes them."""

import csv
import importlib
import os
import pathlib
import subprocess
import sys
import types

import pytest

from nfnets_augmult import configs
from nfnets_augmult.recipes import tiny_digits_recipe
from nfnets_augmult.report import recorded_runs, writing
from nfnets_augmult.sweep import grid
from nfnets_augmult.training import records
from tests.report.records_of_runs import METRIC

ROOT = pathlib.Path(__file__).parents[2]


def _write_sweep(workdir, expected='Nothing in particular.', published=()):
  """Two runs that finished, one that diverged and one that failed."""
  base = tiny_digits_recipe()
  base.batch_size = 16
  base.total_steps = 6
  learning_rates = (0.05, 0.1, 0.2, 0.4)
  points = grid.grid({'augmult': (2,), 'optimizer.learning_rate': learning_rates})
  sweep = grid.Sweep('A test', base, points, expected, published=published)
  grid.describe(sweep, str(workdir))
  for place, (name, point) in enumerate(sweep.named_points().items()):
    status, message = (
      ('diverged', 'at step 3') if place == 2 else ('failed', 'out of memory\nthere')
    )
    if place > 1:
      records.write_status(str(workdir / name), status, message)
    else:
      (workdir / name).mkdir()
      result = {METRIC: 0.5 + place / 10, 'step': 6, 'epoch': 0.24}
      records.write_json(str(workdir / name / 'result.json'), result)
    records.write_json(str(workdir / name / 'config.json'), configs.flatten(sweep.config(point)))


def test_the_report_shows_the_result_or_the_status_of_every_run(tmp_path):
  _write_sweep(tmp_path)
  files = writing.write_report(str(tmp_path), str(tmp_path / 'out'))
  assert {os.path.basename(file) for file in files} >= {'runs.csv', 'summary.csv', 'report.md'}
  text = (tmp_path / 'out' / 'report.md').read_text(encoding='utf-8')
  assert '4 runs: 1 diverged, 1 failed, 2 finished' in text
  assert '## Diverged runs' in text and '0.4: out of memory\n' in text
  with open(tmp_path / 'out' / 'runs.csv', encoding='utf-8') as file:
    rows = {row['run']: row for row in csv.DictReader(file)}
  row = rows['augmult=2,learning_rate=0.1']
  assert (row[METRIC], row['temperature'], row['unique images per batch']) == ('0.6', '0.2', '8')


@pytest.mark.parametrize('expected', ['All n are alike.', ''])
def test_the_papers_finding_is_quoted_where_there_is_one(tmp_path, expected):
  _write_sweep(tmp_path, expected)
  writing.write_report(str(tmp_path), str(tmp_path / 'out'))
  text = (tmp_path / 'out' / 'report.md').read_text(encoding='utf-8')
  assert ('\n\nThe paper: All n are alike.\n\n' in text) == bool(expected)
  assert ('The paper' in text) == bool(expected)


def test_what_two_sweeps_say_alike_is_said_once(tmp_path):
  """As sweeps of one experiment at several lengths do; the runs of both are there."""
  for name in ('short', 'long'):
    _write_sweep(
      tmp_path / name, 'All n are alike.', [grid.Published(70.5, {'augmult': 2}, 'Table 9')]
    )
  writing.write_report(str(tmp_path), str(tmp_path / 'out'))
  text = (tmp_path / 'out' / 'report.md').read_text(encoding='utf-8')
  assert text.startswith('# A test\n')
  assert text.count('The paper: All n are alike.') == 1
  assert text.count('70.5 % for augmult 2 (Table 9)') == 1
  assert '8 runs: 2 diverged, 2 failed, 4 finished' in text


def test_records_alone_give_the_same_report_again(tmp_path):
  _write_sweep(tmp_path)
  output = tmp_path / 'out'
  files = writing.write_report(str(tmp_path), str(output))
  before = {file: file.read_bytes() for file in output.iterdir()}
  for file in before:
    if file.name != 'records.json':
      file.unlink()
  assert writing.write_report(str(output)) == files
  assert {file: file.read_bytes() for file in output.iterdir()} == before


def test_the_program_prints_its_files_or_one_error(tmp_path):
  _write_sweep(tmp_path)

  def start(*arguments):
    command = [sys.executable, '-m', 'nfnets_augmult.report', f'--workdir={tmp_path}', *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

  done = start(f'--output={tmp_path / "out"}')
  assert done.returncode == 0
  assert all(os.path.getsize(file) for file in done.stdout.splitlines())
  refused = start('--metric=top1')
  assert refused.returncode == 1
  assert refused.stderr == f'error: --metric=top1 is recorded by no run; there is {METRIC}\n'


@pytest.mark.extended
@pytest.mark.parametrize(
  'name', ['fig6_7_10_cifar.py:tiny', 'table1_nfnet.py', 'table2_nfnet_sam.py']
)
def test_a_report_of_a_sweep_that_has_hardly_begun(name, tmp_path):
  """Before the first run, and after one: nothing is missing from the report but results."""
  sweep = grid.load_sweep(str(ROOT / 'experiments' / 'figures' / name))
  grid.describe(sweep, str(tmp_path))
  writing.write_report(str(tmp_path))
  first, *_ = sweep.named_points()
  result = {sweep.metric: 0.5, 'step': 100, 'epoch': 2.0, recorded_runs.TRAINING_LOSS: None}
  config = configs.flatten(sweep.config(sweep.points[0]))
  (tmp_path / first).mkdir()
  records.write_json(str(tmp_path / first / 'config.json'), config)
  records.write_json(str(tmp_path / first / 'result.json'), result)
  files = writing.write_report(str(tmp_path))
  assert all(os.path.getsize(file) for file in files)
  text = (tmp_path / 'report' / 'report.md').read_text(encoding='utf-8')
  assert text.startswith(f'# {sweep.title}') and '1 finished' in text
  with pytest.raises(ValueError, match=r'--metric=top1 .*; there is test/(raw|ema)/top_1'):
    writing.write_report(str(tmp_path), metric='top1')


def test_a_report_on_one_run_draws_its_page_too(tmp_path, monkeypatch, capsys):
  _write_sweep(tmp_path)
  program = importlib.import_module('nfnets_augmult.report.__main__')
  run = str(tmp_path / 'augmult=2,learning_rate=0.1')
  for workdir, has_page in ((run, True), (str(tmp_path), False)):
    args = types.SimpleNamespace(workdir=workdir, output='', metric='')
    monkeypatch.setattr(program.flags, 'FLAGS', args)
    program.main()
    page = os.path.join(workdir, 'run.html')
    assert (page in capsys.readouterr().out.splitlines()) == os.path.exists(page) == has_page
