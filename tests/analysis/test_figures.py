"""Statistics over runs, and what the figures show of them, from records made by hand."""

import dataclasses
import os
import pathlib

import numpy as np
import pytest

from nfnets_augmult import configs, report, sweeps
from nfnets_augmult.analysis import figures, runs
from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.recipes import small_digits_recipe
from nfnets_augmult.training import records
from nfnets_augmult.training.plan import make_plan

ROOT = pathlib.Path(__file__).parents[2]
METRIC = 'test/raw/top_1'


def _run(accuracy=None, *, status='finished', loss=1.0, **keys):
  """A run of the config with `keys`, `__` for a dot; 100 updates are an epoch of n = 1."""
  config = small_digits_recipe()
  config.batch_size = 64
  config.total_epochs = 8.0
  flat = {**configs.flatten(config), **{key.replace('__', '.'): v for key, v in keys.items()}}
  result = {}
  if status == 'finished':
    steps = round(100 * flat['total_epochs'] * flat['augmult'])
    result = {METRIC: accuracy, runs.TRAINING_LOSS: loss, 'step': steps, 'epoch': steps / 100}
  return runs.RecordedRun('a folder', status, '', flat, result)


def _curve(axes, label):
  """The points of the line with this label, of the error bar's data line."""
  (found,) = [c for c in axes.containers if c.get_label() == label]
  return [tuple(map(float, point)) for point in found.lines[0].get_xydata()]


def test_of_seven_runs_the_best_five_count():
  """As in Section 2: two are left out, and two may diverge; a third one makes the cell diverge."""
  values = [0.7, 0.1, 0.75, 0.74, 0.2, 0.73, 0.72]
  cell = runs.make_cell([_run(value, seed=s) for s, value in enumerate(values)], METRIC)
  best = [0.75, 0.74, 0.73, 0.72, 0.7]
  assert cell.values == best
  assert cell.mean == pytest.approx(sum(best) / 5)
  assert cell.standard_error == pytest.approx(np.std(best, ddof=1) / 5**0.5)
  for diverged, status in ((2, 'measured'), (3, 'diverged')):
    mixed = [
      _run(status='diverged', seed=s) if s < diverged else _run(value, seed=s)
      for s, value in enumerate(values)
    ]
    assert runs.make_cell(mixed, METRIC).status == status
  losses = [_run(0.5, loss=loss, seed=loss) for loss in range(7)]
  assert runs.make_cell(losses, runs.TRAINING_LOSS, smallest=True).values == [0, 1, 2, 3, 4]


def test_of_fewer_runs_all_count_and_the_count_is_told():
  three = [_run(0.5), _run(0.7, seed=1), _run(status='unfinished', seed=2)]
  cell = runs.make_cell(three, METRIC)
  assert (cell.mean, len(cell.values), len(cell.runs), cell.num_missing) == (0.6, 2, 3, 1)
  assert report.summary_rows(three, METRIC)[0]['runs that count'] == '2 of 3, 1 to come'
  assert runs.make_cell([_run(0.5)], METRIC).standard_error is None
  diverged = _run(status='diverged', seed=1)
  assert runs.make_cell([_run(0.5), diverged], METRIC).status == 'diverged'
  assert runs.make_cell([_run(status='failed')], METRIC).status == 'missing'
  # Two of seven may diverge, so that one has says nothing yet.
  begun = [diverged, *(_run(status='missing', seed=s) for s in range(2, 8))]
  assert runs.make_cell(begun, METRIC).status == 'missing'


def test_a_run_that_two_sweeps_share_counts_once():
  """Whichever of the two has finished it."""
  same = [_run(status='missing'), _run(0.5), _run(0.7, seed=1), _run(0.7, seed=1)]
  cell = runs.make_cell(same, METRIC)
  assert (cell.mean, len(cell.runs), cell.num_missing) == (0.6, 2, 0)


def test_the_best_learning_rate_is_found_over_means_and_its_place_in_the_grid():
  """0.1 has the best single run, 0.05 the best mean; 0.2 diverges."""
  found = [
    _run(accuracy, seed=seed, optimizer__learning_rate=rate)
    for rate, both in ((0.025, (0.6, 0.6)), (0.05, (0.7, 0.8)), (0.1, (0.9, 0.2)))
    for seed, accuracy in enumerate(both)
  ]
  found.append(_run(status='diverged', optimizer__learning_rate=0.2))
  best = runs.best_cell(found, METRIC)
  assert best.runs[0].learning_rate == 0.05
  assert not runs.is_at_edge(best, found)
  assert runs.is_at_edge(best, found[:4])
  to_come = _run(status='missing', optimizer__learning_rate=0.2)
  assert runs.is_at_edge(best, [*found[:4], to_come])


def test_a_learning_rate_with_runs_to_come_is_set_aside_where_others_are_complete():
  """One lucky run of seven is not compared with the mean of seven."""
  complete = [_run(0.7, seed=s, optimizer__learning_rate=0.05) for s in range(7)]
  begun = [_run(status='missing', seed=s, optimizer__learning_rate=0.1) for s in range(1, 7)]
  begun.append(_run(0.75, optimizer__learning_rate=0.1))
  assert runs.best_cell([*complete, *begun], METRIC).mean == pytest.approx(0.7)
  assert runs.best_cell(begun, METRIC).mean == 0.75


def test_lines_go_through_the_means_at_the_best_learning_rate():
  """Against epochs and updates; the neighbouring placement is another, dashed line."""
  found = [
    _run(accuracy, augmult=n, total_epochs=epochs, optimizer__learning_rate=rate)
    for n, epochs, rate, accuracy in (
      *((1, 8.0, 0.1, 0.5), (1, 8.0, 0.2, 0.4), (1, 16.0, 0.1, 0.6), (1, 16.0, 0.2, 0.7)),
      *((4, 8.0, 0.1, 0.8), (4, 8.0, 0.2, 0.3)),
    )
  ]
  found.append(_run(0.9, augmult=4, placement='neighbouring'))
  (axes,) = figures.accuracy_against_length(found).axes
  assert _curve(axes, 'n = 1') == [(8.0, 50.0), (16.0, 70.0)]
  assert _curve(axes, 'n = 4') == [(8.0, 80.0)]
  assert _curve(axes, 'n = 4, neighbouring') == [(8.0, 90.0)]
  styles = {c.get_label(): c.lines[0].get_linestyle() for c in axes.containers}
  assert (styles['n = 4'], styles['n = 4, neighbouring']) == ('-', '--')
  (axes,) = figures.accuracy_against_length(found, unit='updates').axes
  assert _curve(axes, 'n = 1') == [(800.0, 50.0), (1600.0, 70.0)]
  assert _curve(axes, 'n = 4') == [(3200.0, 80.0)]
  with pytest.raises(ValueError, match="unit='steps' must be epochs or updates"):
    figures.accuracy_against_length(found, unit='steps')


def test_n_counts_dropout_masks_where_the_runs_differ_in_them():
  """Figure 12: one panel, a line and a row of the table for each number of masks."""
  found = [
    _run(accuracy, dropout_masks=masks, optimizer__learning_rate=rate, model__dropout_rate=0.4)
    for masks, rate, accuracy in (
      *((1, 0.1, 0.5), (1, 0.2, 0.4), (4, 0.1, 0.7), (4, 0.2, 0.8)),
      (16, 0.1, 0.6),
    )
  ]
  figure = figures.accuracy_against_learning_rate(found)
  (axes,) = figure.axes
  assert _curve(axes, 'n = 1 dropout mask') == [(0.1, 50.0), (0.2, 40.0)]
  assert _curve(axes, 'n = 4 dropout masks') == [(0.1, 70.0), (0.2, 80.0)]
  assert len({c.lines[0].get_color() for c in axes.containers}) == 3
  figure.draw_without_rendering()
  legend = figure.legends[0].get_window_extent()
  assert legend.x0 >= 0 and legend.x1 <= figure.bbox.x1
  rows = report.summary_rows(found, METRIC)
  assert [(row['dropout masks'], row['test accuracy (%)']) for row in rows] == [
    (1, '50.00'),
    (4, '80.00'),
    (16, '60.00'),
  ]
  more = [*found, _run(0.6, augmult=2, dropout_masks=4, model__dropout_rate=0.4)]
  (axes,) = figures.accuracy_against_length(more).axes
  assert _curve(axes, 'n = 1, 4 dropout masks') == [(8.0, 80.0)]
  assert _curve(axes, 'n = 2, 4 dropout masks') == [(8.0, 60.0)]


def test_the_training_loss_is_taken_where_it_is_least():
  """Which is at another learning rate than the best test accuracy."""
  found = [
    _run(0.9, loss=0.3, optimizer__learning_rate=0.1),
    _run(0.5, loss=0.01, optimizer__learning_rate=0.05),
  ]
  (axes,) = figures.training_loss_against_length(found).axes
  assert _curve(axes, 'n = 1') == [(8.0, 0.01)]


def test_temperature_is_learning_rate_times_n_and_every_length_has_its_panel():
  found = [
    _run(accuracy, augmult=n, total_epochs=epochs, optimizer__learning_rate=rate)
    for n, epochs, rate, accuracy in (
      (1, 8.0, 0.1, 0.5),
      (4, 8.0, 0.1, 0.6),
      (4, 8.0, 0.2, 0.7),
      (4, 16.0, 0.1, 0.8),
    )
  ]
  first, second = figures.accuracy_against_learning_rate(found, temperature=True).axes
  assert _curve(first, 'n = 1') == [(0.1, 50.0)]
  assert _curve(first, 'n = 4') == [(0.4, 60.0), (0.8, 70.0)]
  assert _curve(second, 'n = 4') == [(0.4, 80.0)]
  first, _ = figures.accuracy_against_learning_rate(found).axes
  assert _curve(first, 'n = 4') == [(0.1, 60.0), (0.2, 70.0)]
  assert 'batch size 64' in first.get_title() and '8 epochs' in first.get_title()


def test_what_is_missing_or_has_diverged_is_shown_as_such():
  found = [
    _run(0.5, optimizer__learning_rate=0.1),
    _run(status='diverged', optimizer__learning_rate=0.2),
    _run(status='missing', optimizer__learning_rate=0.4),
  ]
  figure = figures.accuracy_against_learning_rate(found)
  (axes,) = figure.axes
  (legend,) = figure.legends
  labels = [text.get_text() for text in legend.get_texts()]
  assert labels == ['n = 1', 'diverged', 'not run to its end']
  marks = {
    line.get_marker(): line.get_xdata()[0]
    for line in axes.lines
    if line.get_marker() in ('x', '$?$') and len(line.get_xdata())
  }
  assert marks == {'x': 0.2, '$?$': 0.4}
  assert _curve(axes, 'n = 1') == [(0.1, 50.0)]


def test_a_point_that_diverged_breaks_the_line():
  found = [
    _run(0.5, optimizer__learning_rate=0.1),
    _run(status='diverged', optimizer__learning_rate=0.2),
    _run(0.6, optimizer__learning_rate=0.4),
  ]
  (axes,) = figures.accuracy_against_learning_rate(found).axes
  first, between, last = _curve(axes, 'n = 1')
  assert (first, last) == ((0.1, 50.0), (0.4, 60.0))
  assert between[0] == 0.2 and np.isnan(between[1])


def test_runs_that_differ_in_more_than_the_question_get_panels_of_their_own():
  found = [_run(0.5), _run(0.6, batch_size=16), _run(0.7, **{'model__name': 'wrn_16_1'})]
  panels = figures.accuracy_against_length(found).axes
  titles = [axes.get_title() for axes in panels]
  assert len(set(titles)) == 3
  assert any('batch size 16' in title for title in titles)
  assert any('wrn_16_1' in title for title in titles)
  same = dataclasses.replace(found[0], config={**found[0].config, 'log_every_steps': 7})
  assert len(figures.accuracy_against_length([found[0], same]).axes) == 1


def test_the_papers_number_stands_beside_the_runs_that_it_is_about():
  number = {'top_1': 74.1, 'keys': {'augmult': 1, 'total_epochs': 16.0}, 'source': 'Section 2'}
  found = [_run(0.5), _run(0.6, total_epochs=16.0)]
  rows = report.summary_rows(found, METRIC, [number])
  assert [row['paper (%)'] for row in rows] == ['', 74.1]
  (axes,) = figures.accuracy_against_length(found, published=[number]).axes
  (star,) = [line for line in axes.lines if line.get_marker() == '*' and len(line.get_xdata())]
  assert [tuple(map(float, point)) for point in star.get_xydata()] == [(16.0, 74.1)]
  assert not figures.matches({**number, 'keys': {'augmult': 1}}, found[0])
  # For no length in particular: beside the best.
  rows = report.summary_rows(found, METRIC, [{**number, 'keys': {'augmult': 1}}])
  assert [row['paper (%)'] for row in rows] == ['', 74.1]


def test_a_number_of_the_paper_is_about_its_own_sweep():
  """That of another one in the same folder has the same keys."""
  number = {'top_1': 74.1, 'keys': {'augmult': 1, 'total_epochs': 8.0}, 'sweep': 'all/fig2'}
  own, other = (dataclasses.replace(_run(0.5), path=path) for path in ('all/fig2/a', 'all/fig22/a'))
  assert figures.matches(number, own)
  assert not figures.matches(number, other)


def test_a_line_looks_the_same_in_all_panels():
  """Although a panel lacks the lines before it."""
  found = [_run(0.5, augmult=n) for n in (1, 2, 4)] + [_run(0.5, augmult=4, batch_size=16)]
  small, large = figures.accuracy_against_length(found).axes
  colors = [
    next(c.lines[0].get_color() for c in axes.containers if c.get_label() == 'n = 4')
    for axes in (small, large)
  ]
  assert colors[0] == colors[1]


def test_a_panel_with_one_point_has_an_extent():
  (axes,) = figures.accuracy_against_learning_rate([_run(0.5)]).axes
  low, high = axes.get_xlim()
  assert low < 0.06 and high > 0.09


def test_marks_lie_below_the_data():
  """Also on the logarithmic axis of losses, and where stars are lower than the data."""
  found = [_run(0.5), *(_run(status='diverged', total_epochs=e) for e in (16.0, 32.0))]
  number = {'top_1': 20.0, 'keys': {'augmult': 1, 'total_epochs': 8.0}}
  for figure, lowest in (
    (figures.accuracy_against_length(found, published=[number]), 20.0),
    (figures.training_loss_against_length(found), 1.0),
  ):
    (axes,) = figure.axes
    (place,) = {
      float(line.get_ydata()[0])
      for line in axes.lines
      if line.get_marker() == 'x' and len(line.get_xdata())
    }
    below = axes.transAxes.transform((0, place))[1]
    assert below < axes.transData.transform((8, lowest))[1]


def test_lengths_of_runs_to_come_are_derived_from_a_finished_one():
  """Epochs and updates, which tell the number of images: 6,400 in `_run`."""
  finished = _run(0.5)
  assert finished.recorded_num_images == 6400
  to_come = [
    dataclasses.replace(run, num_images=6400)
    for run in (
      _run(status='missing', augmult=4, total_epochs=16.0),
      _run(status='missing', augmult=4, placement='neighbouring', total_epochs=16.0),
      _run(status='missing', augmult=4, total_epochs=0.0, total_steps=6400),
    )
  ]
  assert [(run.epochs, run.updates) for run in to_come] == [(16.0, 6400)] * 3
  assert _run(status='missing').updates is None


def test_networks_beside_each_other_with_and_without_sam():
  """Figure 8b: the best length of each; published points of networks that were not run, too."""
  found = [
    _run(0.5, **{'model__name': 'nfnet_f2', 'augmult': 16}),
    _run(0.6, **{'model__name': 'nfnet_f2', 'augmult': 16, 'total_epochs': 16.0}),
    _run(0.7, **{'model__name': 'nfnet_f3', 'augmult': 16, 'sam__rho': 0.05}),
  ]
  keys = {'model.name': 'nfnet_f6', 'sam.rho': 0.05, 'augmult': 1, 'total_steps': 5}
  number = {'top_1': 86.5, 'keys': keys}
  (axes,) = figures.accuracy_by_model(found, metric=METRIC, published=[number]).axes
  shown = {
    line.get_label(): (line.get_marker(), float(line.get_xdata()[0]), float(line.get_ydata()[0]))
    for line in axes.lines
  }
  assert shown == {
    'n = 16': ('^', 0, 60.0),
    'n = 16, SAM': ('o', 1, 70.0),
    'published, n = 1, SAM': ('o', 2, 86.5),
  }
  assert [text.get_text() for text in axes.get_xticklabels()] == [
    *('nfnet\nf2', 'nfnet\nf3', 'nfnet\nf6')
  ]


def test_titles_tell_panels_apart_and_leave_out_what_follows():
  """The resolution follows from the network; SAM does not."""
  f2 = {'model__name': 'nfnet_f2', 'dataset__image_size': 256}
  f3 = {'model__name': 'nfnet_f3', 'dataset__image_size': 320}
  found = [_run(0.5, **f2), _run(0.5, **f3), _run(0.5, **f3, sam__rho=0.05)]
  titles = figures.panel_titles([run.panel for run in found])
  assert len(set(titles.values())) == 3
  assert not any('image_size' in title for title in titles.values())
  assert titles[found[2].panel].splitlines()[-1] == 'sam.rho=0.05'


@pytest.mark.parametrize(
  'name', ['fig6_7_10_cifar.py:small', 'table1_nfnet.py', 'table2_nfnet_sam.py']
)
def test_a_report_of_a_sweep_that_has_hardly_begun(name, tmp_path):
  """Before the first run, and after one: nothing is missing from the report but results."""
  sweep = sweeps.load_sweep(str(ROOT / 'experiments' / 'figures' / name))
  sweeps.describe(sweep, str(tmp_path))
  report.write_report(str(tmp_path))
  first, *_ = sweep.named_points()
  result = {sweep.metric: 0.5, 'step': 100, 'epoch': 2.0, runs.TRAINING_LOSS: None}
  config = configs.flatten(sweep.config(sweep.points[0]))
  (tmp_path / first).mkdir()
  records.write_json(str(tmp_path / first / 'config.json'), config)
  records.write_json(str(tmp_path / first / 'result.json'), result)
  files = report.write_report(str(tmp_path))
  assert all(os.path.getsize(file) for file in files)
  text = (tmp_path / 'report' / 'report.md').read_text(encoding='utf-8')
  assert text.startswith(f'# {sweep.title}') and '1 finished' in text
  with pytest.raises(ValueError, match=r'--metric=top1 .*; there is test/(raw|ema)/top_1'):
    report.write_report(str(tmp_path), metric='top1')


def test_the_runs_of_a_bundle_are_found(tmp_path):
  """Each in its folder below that of the bundle, which is no run itself."""
  config = dict(_run(0.5).config)
  records.write_json(str(tmp_path / 'config.json'), {**config, 'runs.seeds': [0, 1]})
  records.write_json(str(tmp_path / 'result.json'), {'run_0_0.1': {}})
  for seed in (0, 1):
    folder = tmp_path / f'run_{seed}_0.1'
    folder.mkdir()
    records.write_json(str(folder / 'config.json'), {**config, 'seed': seed})
  assert [(run.seed, run.status) for run in runs.read_runs(str(tmp_path))] == [
    *((0, 'unfinished'), (1, 'unfinished'))
  ]


def test_runs_are_read_whatever_state_they_are_in(tmp_path):
  """A sweep with runs to come, a killed run, and a single run beside them."""
  config = dict(_run(0.5).config)
  point = {'seed': 5}
  sweep = {'base': config, 'points': {'seed=5': point}, 'published': []}
  for folder in ('sweep/seed=0/checkpoints/3', 'single'):
    (tmp_path / folder).mkdir(parents=True)
  records.write_json(str(tmp_path / 'sweep' / 'sweep.json'), sweep)
  records.write_json(str(tmp_path / 'sweep' / 'seed=0' / 'config.json'), config)
  (tmp_path / 'sweep' / 'seed=0' / 'metrics.jsonl').write_text('{"step": 5, "tr')
  records.write_json(str(tmp_path / 'single' / 'config.json'), {**config, 'augmult': 4})
  result = {METRIC: 0.5, 'step': 3, 'epoch': 0.24}
  records.write_json(str(tmp_path / 'single' / 'result.json'), result)
  # Of other programs.
  (tmp_path / 'other').mkdir()
  records.write_json(str(tmp_path / 'other' / 'config.json'), {'theirs': 1})
  found = {os.path.relpath(run.path, tmp_path): run for run in runs.read_runs(str(tmp_path))}
  assert {name: run.status for name, run in found.items()} == {
    'single': 'finished',
    'sweep/seed=0': 'unfinished',
    'sweep/seed=5': 'missing',
  }
  assert found['sweep/seed=5'].config['seed'] == 5
  assert (found['single'].augmult, found['single'].unique_images_per_batch) == (4, 16)
  assert {run.num_images for run in found.values()} == {200}
  (tmp_path / 'single' / 'result.json').write_text('{"a":')
  with pytest.raises(ValueError, match=r'result\.json is damaged'):
    runs.read_runs(str(tmp_path))
  with pytest.raises(ValueError, match='is not a folder'):
    runs.read_runs(str(tmp_path / 'nowhere'))


def test_updates_are_those_of_the_plan():
  """1.1 epochs of 50,000 images at 50 unique ones a batch are 1,100 updates, in run and report."""
  keys = {'total_epochs': 1.1, 'total_steps': 0, 'unique_images_per_batch': 50, 'batch_size': 0}
  run = dataclasses.replace(_run(status='missing', **keys), num_images=50_000)
  assert run.updates == 1_100
  multiplicity = Multiplicity(50_000, 50, run.augmult, 0)
  assert make_plan(multiplicity, learning_rate=0.1, total_epochs=1.1).total_steps == 1_100


def test_the_number_of_images_is_read_from_the_record(tmp_path):
  """Of a run that has only begun; what an older version wrote there is text, and tells nothing."""
  config = dict(_run(0.5).config)
  records.write_json(str(tmp_path / 'config.json'), config)
  for plan, expected in (({'num_train_images': 640}, 640), ({'total': '12 steps'}, None)):
    records.write_json(str(tmp_path / 'run.json'), {'plan': plan})
    (run,) = runs.read_runs(str(tmp_path))
    assert run.num_images == expected
