"""What people see of a run: lines with the speed, the best accuracy and the end, or a bar."""

import datetime
import io
import os
import sys

import pytest

from nfnets_augmult.training import progress as progress_lib
from nfnets_augmult.training.progress import Progress

_MEANS = {'train/loss': 1.25, 'train/accuracy': 0.5}


class _Evening(datetime.datetime):
  """Time stands still at half past eleven."""

  @classmethod
  def now(cls, tz=None):
    return datetime.datetime(2025, 3, 8, 23, 30)


@pytest.fixture(name='clock')
def _clock(monkeypatch):
  """A list whose last entry is the time since some start; it is half past eleven."""
  times = [100.0]
  monkeypatch.setattr(progress_lib.time, 'monotonic', lambda: times[-1])
  monkeypatch.setattr(progress_lib.datetime, 'datetime', _Evening)
  return times


def test_a_line_has_the_speed_since_the_clock_was_reset(clock, caplog):
  """40 steps of 8 images in 4 seconds are 80 images/s, and 3,600 steps take 6 minutes more."""
  shown = Progress(start_step=0, total_steps=4000, batch_size=8)
  clock.append(1000.0)  # compilation
  shown.restart(360)
  clock.append(1004.0)
  assert shown.images_per_second(400) == pytest.approx(80.0)
  assert shown.images_per_second(400, at=1008.0) == pytest.approx(40.0)
  with caplog.at_level('INFO', logger='absl'):
    shown.log_step(400, _MEANS, 80.0)
  assert 'step 400 of 4000: loss 1.2500, accuracy 0.500, 80 images/s, 0:06:00 left' in caplog.text
  assert 'best' not in caplog.text


def test_the_end_counts_evaluations_and_the_best_is_named(clock, caplog):
  """100 steps in 10 s, and an evaluation of 30 s: the other 300 steps take 120 s at that rate."""
  shown = Progress(start_step=0, total_steps=400, batch_size=8)
  clock.append(110.0)
  assert shown.seconds_left(100) == pytest.approx(30.0)
  clock.append(140.0)
  shown.reset_clock(100)
  assert shown.seconds_left(100) == pytest.approx(120.0)
  shown.best = 0.975
  with caplog.at_level('INFO', logger='absl'):
    shown.log_step(100, _MEANS, 80.0)
  assert '0:02:00 left, ends 23:32, best test accuracy 97.50 %' in caplog.text


def test_an_end_on_another_day_has_a_date(clock):
  assert progress_lib.format_end(29 * 60) == '23:59'
  assert progress_lib.format_end(45 * 60) == '2025-03-09 00:15'
  assert 'thousand years' in progress_lib.format_end(1e15)


def test_lines_of_a_group_begin_with_the_name_of_the_run(clock, caplog):
  shown = Progress(start_step=0, total_steps=4, batch_size=8, name='seed=0')
  with caplog.at_level('INFO', logger='absl'):
    shown.say('first')
    shown.name = 'seed=1'
    shown.say('second')
  assert [record.getMessage() for record in caplog.records] == ['seed=0: first', 'seed=1: second']


def test_other_hosts_are_silent(clock, caplog):
  silent = Progress(start_step=0, total_steps=4, batch_size=8, enabled=False)
  with caplog.at_level('INFO', logger='absl'):
    silent.say('a word')
    silent.log_step(2, _MEANS, 80.0)
  assert not caplog.records


def test_a_terminal_gets_a_bar_that_is_not_torn(clock, monkeypatch):
  """Also one that says that it has no columns; what is said goes above the bar."""

  class Terminal(io.StringIO):
    def isatty(self):
      return True

    def fileno(self):
      return 2

  terminal = Terminal()
  monkeypatch.setattr(sys, 'stderr', terminal)
  monkeypatch.setattr(progress_lib.os, 'get_terminal_size', lambda _: os.terminal_size((0, 0)))
  shown = Progress(start_step=2, total_steps=4, batch_size=8)
  shown.best = 0.75
  shown.advance(3, {'loss': 0.5, 'accuracy': 0.25})
  shown.say('evaluated')
  shown.log_step(3, _MEANS, 80.0)  # the bar has it already
  shown.close()
  text = terminal.getvalue()
  assert '\revaluated\n' in text or '\nevaluated\n' in text
  assert '3/4' in text and 'loss 0.5000, accuracy 0.250' in text
  assert 'step 3 of 4' not in text
  assert 'ends 23:30, best test 75.00 %, loss' in text
