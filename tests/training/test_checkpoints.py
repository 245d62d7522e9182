"""Checkpoints: whole or not at all, the last few and the best."""

import copy
import os
import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from nfnets_augmult.training import checkpoints as checkpoints_lib
from nfnets_augmult.training.checkpoints import CheckpointError, Checkpoints, has_checkpoint
from tests.training import toy


def _state(step):
  _, _, state = toy.make()
  generator = np.random.default_rng(step)
  state = jax.tree.map(lambda x: generator.standard_normal(x.shape).astype(x.dtype), state)
  return state._replace(step=np.array(step, np.int32))


def _assert_equal(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert np.asarray(x).dtype == np.asarray(y).dtype
    np.testing.assert_array_equal(x, y)


def test_restores_bit_for_bit_and_keeps_the_last_ones(tmp_path):
  with Checkpoints(str(tmp_path), keep=2) as checkpoints:
    for step in (10, 20, 30):
      checkpoints.save(_state(step))
  with Checkpoints(str(tmp_path), keep=2) as checkpoints:
    assert checkpoints.latest_step == 30
    _assert_equal(checkpoints.restore(_state(0)), _state(30))
    _assert_equal(checkpoints.restore(_state(0), which=20), _state(20))
    for absent in (10, '10', 'newest'):
      with pytest.raises(CheckpointError, match='has 20, 30'):
        checkpoints.restore(_state(0), which=absent)


def test_keeps_the_best(tmp_path):
  with Checkpoints(str(tmp_path), keep=1) as checkpoints:
    best = []
    for step, metric in ((1, 0.5), (2, 0.9), (3, 0.7), (4, 0.9)):
      checkpoints.save(_state(step))
      best.append(checkpoints.save_if_best(lambda step=step: _state(step), metric))
    assert best == [True, True, False, False]  # an equal one does not replace the first
  with Checkpoints(str(tmp_path), keep=1, read_only=True) as checkpoints:
    assert (checkpoints.latest_step, checkpoints.best_step) == (4, 2)
    assert checkpoints.best_metric() == 0.9
    _assert_equal(checkpoints.restore(_state(0), which='best'), _state(2))


def test_a_half_written_checkpoint_is_never_read(tmp_path):
  """A killed run leaves a temporary folder, here a copy of a complete one; it is removed."""
  with Checkpoints(str(tmp_path)) as checkpoints:
    checkpoints.save(_state(1))
    checkpoints.save(_state(2))
  folder = tmp_path / 'checkpoints'
  os.rename(folder / '2', folder / '2.orbax-checkpoint-tmp-1')
  with Checkpoints(str(tmp_path)) as checkpoints:
    assert checkpoints.latest_step == 1
    _assert_equal(checkpoints.restore(_state(0)), _state(1))
    checkpoints.save(_state(2))
  assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == ['1', '2']


def test_read_only_changes_nothing(tmp_path):
  with Checkpoints(str(tmp_path)) as checkpoints:
    checkpoints.save(_state(1))
  before = sorted(map(str, pathlib.Path(tmp_path).rglob('*')))
  with Checkpoints(str(tmp_path), read_only=True) as checkpoints:
    checkpoints.restore(_state(0))
  assert sorted(map(str, pathlib.Path(tmp_path).rglob('*'))) == before


def test_no_checkpoints(tmp_path):
  with (
    Checkpoints(str(tmp_path)) as checkpoints,
    pytest.raises(CheckpointError, match='it has none'),
  ):
    checkpoints.restore(_state(0))


def test_a_write_that_fails_is_reported_and_earlier_checkpoints_stay(tmp_path):
  """The folder is replaced by a file, so that nothing can be written."""
  with Checkpoints(str(tmp_path)) as checkpoints:
    checkpoints.save(_state(1))
  with pytest.raises(CheckpointError, match=r'cannot write .* has none'):  # noqa: SIM117
    with Checkpoints(str(tmp_path)) as checkpoints:
      os.rename(tmp_path / 'checkpoints', tmp_path / 'moved')
      (tmp_path / 'checkpoints').write_text('in the way')
      checkpoints.save(_state(2))
      checkpoints.wait()
  assert (tmp_path / 'moved' / '1').is_dir()


def test_another_model_does_not_fit(tmp_path):
  with Checkpoints(str(tmp_path)) as checkpoints:
    checkpoints.save(_state(1))
    template = _state(0)
    template = template._replace(params={'other': template.params['linear']})
    with pytest.raises(CheckpointError, match='of another network: 2 arrays are missing in it'):
      checkpoints.restore(template)


def test_keep_must_be_positive(tmp_path):
  with pytest.raises(ValueError, match=r'^keep=0'):
    Checkpoints(str(tmp_path), keep=0)


def test_a_checkpoint_of_other_classes_says_how_many(tmp_path):
  """The message does not mention shapes; Orbax itself would restore without an error."""

  def state(classes):
    classifier = {'w': np.zeros((16, classes)), 'b': np.zeros(classes)}
    return _state(1)._replace(params={'net/linear': classifier})

  with Checkpoints(str(tmp_path)) as checkpoints:
    checkpoints.save(state(10))
    checkpoints.wait()
    with pytest.raises(CheckpointError, match='it has 10 classes, and the data have 12'):
      checkpoints.restore(state(12))
    checkpoints.restore(state(10))


def test_orbax_gets_arrays_that_it_does_not_copy():
  """It copies NumPy arrays before it writes them in the background, by `copy.deepcopy`."""
  state = _state(3)
  for ours, theirs in zip(
    jax.tree.leaves(copy.deepcopy(checkpoints_lib._arrays(state))),
    jax.tree.leaves(state._asdict()),
    strict=True,
  ):
    assert np.shares_memory(ours, theirs)


@pytest.mark.parametrize('name', ['n4 [try 2]', 'a*', 'what?', 'back\\slash', '[!a]', 'ü {b} $x'])
def test_any_path_works(tmp_path, name):
  """Also a path with glob characters, which would match other folders."""
  neighbour, own = str(tmp_path / 'ab' / 'run'), str(tmp_path / name / 'run')
  for step, workdir in ((1, neighbour), (2, own)):
    with Checkpoints(workdir, class_names=(name,)) as checkpoints:
      checkpoints.save(_state(step))
      checkpoints.save_if_best(lambda step=step: _state(step), 0.5)
  for step, workdir in ((1, neighbour), (2, own)):
    assert has_checkpoint(workdir)
    with Checkpoints(workdir, read_only=True) as checkpoints:
      assert (checkpoints.latest_step, checkpoints.best_step) == (step, step)
      _assert_equal(checkpoints.restore(_state(0)), _state(step))
      assert checkpoints.read_class_names() == (name,)
  assert not [path for path in pathlib.Path(own).rglob('*') if path.is_symlink()]


def test_no_checkpoint_where_there_is_none(tmp_path):
  assert not has_checkpoint(str(tmp_path / 'nowhere'))
  with Checkpoints(str(tmp_path)):
    pass
  assert not has_checkpoint(str(tmp_path))


def test_the_first_checkpoint_is_read_again(tmp_path, monkeypatch):
  """A difference is noticed at the first save, and checked at no other."""
  written = []
  restore = ocp.StandardCheckpointHandler.restore

  def damaged(self, folder, **arguments):
    written.append(int(folder.parent.name))
    state = restore(self, folder, **arguments)
    leaf = jax.tree.leaves(state['params'])[0]
    leaf[...] += 1
    return state

  with Checkpoints(str(tmp_path / 'good'), keep=2) as checkpoints:
    checkpoints.save(_state(1))
    checkpoints.save(_state(2))
  monkeypatch.setattr(ocp.StandardCheckpointHandler, 'restore', damaged)
  with Checkpoints(str(tmp_path / 'good'), keep=2) as checkpoints:
    checkpoints.save(_state(3))
  assert not written
  with (
    Checkpoints(str(tmp_path / 'bad'), keep=2) as checkpoints,
    pytest.raises(CheckpointError, match='does not read as it was written'),
  ):
    checkpoints.save(_state(1))
  assert written == [1]
