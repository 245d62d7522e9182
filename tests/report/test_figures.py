"""What the figures and tables show of runs, from records made by hand."""

import dataclasses

import numpy as np
import pytest

from nfnets_augmult.report import charts, figures, tables
from tests.report.records_of_runs import METRIC, make_run


def _curve(axes, label):
  """The points of the line with this label, of the error bar's data line."""
  (found,) = [c for c in axes.containers if c.get_label() == label]
  return [tuple(map(float, point)) for point in found.lines[0].get_xydata()]


def test_lines_go_through_the_means_at_the_best_learning_rate():
  """Against epochs and updates; the neighbouring placement is another, dashed line."""
  found = [
    make_run(accuracy, augmult=n, total_epochs=epochs, optimizer__learning_rate=rate)
    for n, epochs, rate, accuracy in (
      *((1, 8.0, 0.1, 0.5), (1, 8.0, 0.2, 0.4), (1, 16.0, 0.1, 0.6), (1, 16.0, 0.2, 0.7)),
      *((4, 8.0, 0.1, 0.8), (4, 8.0, 0.2, 0.3)),
    )
  ]
  found.append(make_run(0.9, augmult=4, placement='neighbouring'))
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


def test_numbers_of_larger_runs_have_a_panel_of_their_own():
  """In the colour of their n, with the standard error; none without a length in the unit."""
  found = [make_run(0.5, augmult=n) for n in (1, 4)]
  numbers = [
    {'top_1': 73.7, 'keys': {'augmult': 4, 'total_epochs': 2048.0}, 'standard_error': 0.5},
    {'top_1': 61.4, 'keys': {'augmult': 1}, 'standard_error': None},
  ]
  ours, paper = figures.accuracy_against_length(found, beside=numbers).axes
  colors = {c.get_label(): c.lines[0].get_color() for c in ours.containers}
  (star,) = [line for line in paper.lines if line.get_marker() == '*' and len(line.get_xdata())]
  assert (star.get_xdata()[0], star.get_ydata()[0]) == (2048.0, 73.7)
  assert star.get_markeredgecolor() == colors['n = 4']
  (bar,) = paper.containers
  np.testing.assert_allclose(bar.lines[2][0].get_segments()[0][:, 1], [73.2, 74.2])
  assert not [line for line in ours.lines if line.get_marker() == '*']
  assert len(figures.accuracy_against_length(found, unit='updates', beside=numbers).axes) == 1


def test_n_counts_dropout_masks_where_the_runs_differ_in_them():
  """Figure 12: one panel, a line and a row of the table for each number of masks."""
  found = [
    make_run(accuracy, dropout_masks=masks, optimizer__learning_rate=rate, model__dropout_rate=0.4)
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
  rows = tables.summary_rows(found, METRIC)
  assert [(row['dropout masks'], row['test accuracy (%)']) for row in rows] == [
    (1, '50.00'),
    (4, '80.00'),
    (16, '60.00'),
  ]
  more = [*found, make_run(0.6, augmult=2, dropout_masks=4, model__dropout_rate=0.4)]
  (axes,) = figures.accuracy_against_length(more).axes
  assert _curve(axes, 'n = 1, 4 dropout masks') == [(8.0, 80.0)]
  assert _curve(axes, 'n = 2, 4 dropout masks') == [(8.0, 60.0)]


def test_the_training_loss_is_taken_where_it_is_least():
  """Which is at another learning rate than the best test accuracy."""
  found = [
    make_run(0.9, loss=0.3, optimizer__learning_rate=0.1),
    make_run(0.5, loss=0.01, optimizer__learning_rate=0.05),
  ]
  (axes,) = figures.training_loss_against_length(found).axes
  assert _curve(axes, 'n = 1') == [(8.0, 0.01)]


def test_temperature_is_learning_rate_times_n_and_every_length_has_its_panel():
  found = [
    make_run(accuracy, augmult=n, total_epochs=epochs, optimizer__learning_rate=rate)
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
    make_run(0.5, optimizer__learning_rate=0.1),
    make_run(status='diverged', optimizer__learning_rate=0.2),
    make_run(status='missing', optimizer__learning_rate=0.4),
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
    make_run(0.5, optimizer__learning_rate=0.1),
    make_run(status='diverged', optimizer__learning_rate=0.2),
    make_run(0.6, optimizer__learning_rate=0.4),
  ]
  (axes,) = figures.accuracy_against_learning_rate(found).axes
  first, between, last = _curve(axes, 'n = 1')
  assert (first, last) == ((0.1, 50.0), (0.4, 60.0))
  assert between[0] == 0.2 and np.isnan(between[1])


def test_runs_that_differ_in_more_than_the_question_get_panels_of_their_own():
  found = [
    make_run(0.5),
    make_run(0.6, batch_size=16),
    make_run(0.7, **{'model__name': 'wrn_16_1'}),
  ]
  panels = figures.accuracy_against_length(found).axes
  titles = [axes.get_title() for axes in panels]
  assert len(set(titles)) == 3
  assert any('batch size 16' in title for title in titles)
  assert any('wrn_16_1' in title for title in titles)
  same = dataclasses.replace(found[0], config={**found[0].config, 'log_every_steps': 7})
  assert len(figures.accuracy_against_length([found[0], same]).axes) == 1


def test_the_papers_number_stands_beside_the_runs_that_it_is_about():
  number = {'top_1': 74.1, 'keys': {'augmult': 1, 'total_epochs': 16.0}, 'source': 'Section 2'}
  found = [make_run(0.5), make_run(0.6, total_epochs=16.0)]
  rows = tables.summary_rows(found, METRIC, [number])
  assert [row['paper (%)'] for row in rows] == ['', 74.1]
  (axes,) = figures.accuracy_against_length(found, published=[number]).axes
  (star,) = [line for line in axes.lines if line.get_marker() == '*' and len(line.get_xdata())]
  assert [tuple(map(float, point)) for point in star.get_xydata()] == [(16.0, 74.1)]
  assert not charts.matches_setting_and_length({**number, 'keys': {'augmult': 1}}, found[0])
  # For no length in particular: beside the best.
  rows = tables.summary_rows(found, METRIC, [{**number, 'keys': {'augmult': 1}}])
  assert [row['paper (%)'] for row in rows] == ['', 74.1]


def test_a_number_of_the_paper_is_about_its_own_sweep():
  """That of another one in the same folder has the same keys."""
  number = {'top_1': 74.1, 'keys': {'augmult': 1, 'total_epochs': 8.0}, 'sweep': 'all/fig2'}
  own, other = (
    dataclasses.replace(make_run(0.5), path=path) for path in ('all/fig2/a', 'all/fig22/a')
  )
  assert charts.matches_setting_and_length(number, own)
  assert not charts.matches_setting_and_length(number, other)


def test_a_line_looks_the_same_in_all_panels():
  """Although a panel lacks the lines before it."""
  found = [make_run(0.5, augmult=n) for n in (1, 2, 4)] + [make_run(0.5, augmult=4, batch_size=16)]
  small, large = figures.accuracy_against_length(found).axes
  colors = [
    next(c.lines[0].get_color() for c in axes.containers if c.get_label() == 'n = 4')
    for axes in (small, large)
  ]
  assert colors[0] == colors[1]


def test_a_panel_with_one_point_has_an_extent():
  (axes,) = figures.accuracy_against_learning_rate([make_run(0.5)]).axes
  low, high = axes.get_xlim()
  assert low < 0.06 and high > 0.09


def test_marks_lie_below_the_data():
  """Also on the logarithmic axis of losses, and where stars are lower than the data."""
  found = [make_run(0.5), *(make_run(status='diverged', total_epochs=e) for e in (16.0, 32.0))]
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


def test_networks_beside_each_other_with_and_without_sam():
  """Figure 8b: the best length of each; published points of networks that were not run, too."""
  found = [
    make_run(0.5, **{'model__name': 'nfnet_f2', 'augmult': 16}),
    make_run(0.6, **{'model__name': 'nfnet_f2', 'augmult': 16, 'total_epochs': 16.0}),
    make_run(0.7, **{'model__name': 'nfnet_f3', 'augmult': 16, 'sam__rho': 0.05}),
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
  found = [make_run(0.5, **f2), make_run(0.5, **f3), make_run(0.5, **f3, sam__rho=0.05)]
  titles = charts.panel_titles([run.panel for run in found])
  assert len(set(titles.values())) == 3
  assert not any('image_size' in title for title in titles.values())
  assert titles[found[2].panel].splitlines()[-1] == 'sam.rho=0.05'
