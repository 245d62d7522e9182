"""What a notebook shows of a run and of a sweep: pictures in place of each other."""

import json

import pytest
from IPython import display

from nfnets_augmult import live
from nfnets_augmult.report import figures
from nfnets_augmult.sweep.grid import Sweep, grid
from nfnets_augmult.training.run_log import DivergedError
from tests.toy_runs import device_config


@pytest.fixture
def shown(monkeypatch):
  """What is displayed: (display id, whether it takes the place of the one before, content)."""
  contents = []

  def note(content, *, display_id, update=False):
    contents.append((display_id, update, content))

  monkeypatch.setattr(display.DisplayHandle, 'display', lambda s, c: note(c, display_id=s))
  monkeypatch.setattr(
    display.DisplayHandle, 'update', lambda s, c: note(c, display_id=s, update=True)
  )
  monkeypatch.setattr(live, '_SECONDS_BETWEEN_PICTURES', 0.0)
  return contents


def test_a_run_is_trained_and_its_curves_take_the_place_of_each_other(shown, tmp_path):
  config, workdir = device_config(), str(tmp_path / 'run')
  result = live.train(config, workdir)
  assert result == json.loads((tmp_path / 'run' / 'result.json').read_text(encoding='utf-8'))
  assert len(shown) > 2
  assert [update for _, update, _ in shown] == [False] + [True] * (len(shown) - 1)
  assert len({handle for handle, *_ in shown}) == 1
  last = shown[-1][2].data
  assert last != shown[0][2].data
  shown.clear()
  assert live.train(config, workdir) == result  # finished: its curves, once
  assert [content.data for *_, content in shown] == [last]
  with pytest.raises(ValueError, match='holds a run with another config'):
    live.train(device_config(seed=1), workdir)


def test_a_run_that_diverges_shows_up_to_where(shown, tmp_path):
  config = device_config(optimizer__learning_rate=1e30, optimizer__warmup_steps=0)
  with pytest.raises(DivergedError):
    live.train(config, str(tmp_path))
  assert shown


@pytest.mark.extended
def test_a_sweep_is_drawn_after_each_group_and_says_no_times_at_its_end(shown, tmp_path):
  base = device_config(evaluation__train_images=0)
  points = grid({'augmult': (2, 4), 'seed': (0, 1)})
  sweep = Sweep(title='n', base=base, points=points, expected='')
  runs = live.run_sweep(sweep, str(tmp_path), figures.accuracy_against_learning_rate, together=True)
  assert [run.status for run in runs] == ['finished'] * 4
  texts = [content.data for *_, content in shown if isinstance(content, display.Markdown)]
  assert len(texts) == 3  # of two groups, and at the end
  assert texts[-1] == '4 runs: 4 finished'


def test_a_sweep_with_a_run_that_fails_says_why(shown, tmp_path):
  """A batch of 4 cannot be divided among the eight devices; the other run is done."""
  points = grid({'augmult': (1, 4)})
  sweep = Sweep(title='n', base=device_config(), points=points, expected='')
  with pytest.raises(RuntimeError, match=r'^1 runs failed; .*augmult=1: ValueError: .*devices'):
    live.run_sweep(sweep, str(tmp_path), figures.accuracy_against_length)
  assert shown[-1][2].data == '2 runs: 1 failed, 1 finished'
