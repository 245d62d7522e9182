"""What each of two hosts checks; `test_two_hosts.py` starts it.

    python -m tests.runs.on_each_host --workdir=DIR --multi_host ...

The folder of the second host does not exist.
"""

from nfnets_augmult import command_line

# isort: split
import os
import signal
import types
from typing import Any
from unittest import mock

import jax
import ml_dtypes
import numpy as np
import pytest
from absl import flags

from nfnets_augmult.runs.network import read_initial_params
from nfnets_augmult.training import hosts, records
from nfnets_augmult.training.checkpoints import Checkpoints
from nfnets_augmult.weights import param_files
from tests.training import toy


def _assert_same(ours: Any, theirs: Any) -> None:
  """Structure, shapes, types and bits."""
  assert jax.tree.structure(ours) == jax.tree.structure(theirs)
  for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
    b = np.asarray(b, b.dtype.newbyteorder('='))
    assert (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes()), (a, b)


def _arrays() -> list[np.ndarray]:
  """Values that arithmetic would change, all kinds of types and layouts, and sizes of parts."""
  bits = np.random.default_rng(0).integers(0, 2**32, 3000, np.uint32)  # also nan with a payload
  return [
    np.array([0.0, -0.0, np.nan, -np.inf, 1e-45], np.float32),
    bits,
    bits.view(np.float32).reshape(30, 100),
    bits.view(np.int8).reshape(3000, 4).T,
    bits.view(ml_dtypes.bfloat16)[::3],
    bits.astype('>f8'),
    np.array(7, np.int32),
    np.array([True, False, True]),
    np.zeros((0, 3), np.float16),
  ]


def _state(seed: int) -> Any:
  _, _, state = toy.make()
  bits = np.random.default_rng(seed)
  state = jax.tree.map(lambda x: bits.standard_normal(x.shape).astype(x.dtype), state)
  return state._replace(step=np.array(8, np.int32))


def _check_arrays(is_first: bool) -> None:
  for most_bytes in (hosts._MOST_BYTES, 4096):  # in one part, and in several
    with mock.patch.object(hosts, '_MOST_BYTES', most_bytes):
      _assert_same(hosts.arrays_from_first_host(_arrays if is_first else None), _arrays())
  assert hosts.arrays_from_first_host(list) == []


def _check_errors(is_first: bool) -> None:
  """The words of the host that has an error, and whether the run was taken over."""
  with pytest.raises(hosts.HostError, match=r'^on host 1: wrong$'), hosts.failing_together():
    if not is_first:
      raise ValueError('wrong')
  with pytest.raises(records.TakenOverError, match=r'^by another$') as caught:  # noqa: SIM117
    with hosts.failing_together():
      if is_first:
        raise records.TakenOverError('by another')
  assert isinstance(caught.value, hosts.SharedError)
  with pytest.raises(hosts.HostError, match=r'^full$'):
    hosts.arrays_from_first_host(mock.Mock(side_effect=OSError('full')))


def _check_votes(is_first: bool) -> None:
  """What host 0 alone asks for, both learn at the same call, and none before it asked."""
  asked = iter([False, True] + 8 * [False])
  votes = hosts.Votes(lambda: is_first and next(asked))
  learnt = [votes.is_agreed() for _ in range(8)]
  assert not learnt[0] and learnt[-1]
  assert hosts.from_first_host(lambda: learnt) == learnt


def _check_checkpoints(workdir: str, is_first: bool) -> None:
  """Only the first host writes and reads; of the states of the others the step alone counts."""
  with Checkpoints(workdir, class_names=('a', 'b')) as checkpoints:
    assert checkpoints.latest_step is None
    checkpoints.save(_state(1 if is_first else 2))
    assert checkpoints.has(8)
    assert checkpoints.save_if_best(lambda: _state(3 if is_first else 4), 0.5)
    assert not checkpoints.save_if_best(lambda: _state(5), 0.4)
  with Checkpoints(workdir) as checkpoints:
    assert checkpoints.latest_step == 8
    _assert_same(checkpoints.restore(_state(0)), _state(1))
    _assert_same(checkpoints.restore(_state(0), which='best'), _state(3))
    with pytest.raises(hosts.HostError, match=r'^no checkpoint 9 in .* it has 8$'):
      checkpoints.restore(_state(0), which=9)
  with Checkpoints(workdir, read_only=True) as checkpoints:  # each host by itself
    assert checkpoints.latest_step == (8 if is_first else None)


def _check_initial_params(workdir: str, is_first: bool) -> None:
  """From a file and from a run, with the same classes and with others."""
  network = types.SimpleNamespace(abstract_state=_state(0))
  file = os.path.join(workdir, 'params.npz')
  if is_first:
    param_files.write_npz(file, _state(6).params)
  for path, expected in ((file, _state(6).params), (workdir, _state(1).ema_params)):
    initial = read_initial_params(path, network, ('a', 'b'))
    _assert_same(initial.params, expected)
    assert not initial.has_other_classes
  assert read_initial_params(workdir, network, ('a', 'c')).has_other_classes
  with pytest.raises(hosts.HostError, match=r"^init_from='nowhere' does not exist$"):
    read_initial_params('nowhere', network, ('a', 'b'))


def main() -> None:
  """Runs the checks on this host."""
  command_line.join_hosts()
  workdir, is_first = flags.FLAGS.workdir, jax.process_index() == 0
  _check_arrays(is_first)
  _check_errors(is_first)
  _check_votes(is_first)
  _check_checkpoints(workdir, is_first)
  _check_initial_params(workdir, is_first)
  assert os.path.exists(workdir) == is_first
  hosts.any_host(True)
  if not is_first:
    os.kill(os.getpid(), signal.SIGTERM)  # which nothing catches before there is a state to save
  hosts.any_host(True)


if __name__ == '__main__':
  command_line.define_path('workdir', None, 'Directory of a run.')
  command_line.define_host_flags()
  command_line.run(main)
