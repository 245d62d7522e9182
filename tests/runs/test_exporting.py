"""Exporting: what is written, what is refused in one line, and that no part of a file is left."""

import os
import pathlib
import pickle

import numpy as np
import pytest
import safetensors.numpy

from nfnets_augmult.runs.exporting import export
from nfnets_augmult.training.checkpoints import CheckpointError, Checkpoints
from nfnets_augmult.training.state import TrainState
from nfnets_augmult.weights.network_layout import network_shapes
from nfnets_augmult.weights.param_files import flatten, read_metadata, unflatten
from nfnets_augmult.weights.param_files import write_npz as write
from nfnets_augmult.weights.timm_export import timm_state_dict

_SMALL = {'net/~/linear': {'w': np.arange(6.0, dtype=np.float32).reshape(2, 3)}}


def _save_run(workdir, params):
  state = TrainState(*[np.zeros(()) for _ in TrainState._fields])
  state = state._replace(step=np.asarray(1), params=params, ema_params=params)
  with Checkpoints(str(workdir)) as checkpoints:
    checkpoints.save(state)


@pytest.mark.parametrize('dtype', ['<f4', '>f4', '<f2', '>f8', '|b1', '>i4'])
def test_a_released_file_becomes_a_plain_one(tmp_path, dtype):
  released, output = str(tmp_path / 'F0_haiku.npz'), str(tmp_path / 'o.npz')
  want = np.asfortranarray(np.arange(6).reshape(2, 3)).astype(dtype)
  with open(released, 'wb') as file:
    pickle.dump({'net': {'w': want, 'gain': want[0, 0]}}, file, protocol=3)
  assert export(output, params=released) == 7
  with np.load(output, allow_pickle=False) as plain:
    np.testing.assert_array_equal(plain['net/w'], want)
    assert plain['net/w'].dtype == want.dtype.newbyteorder('=')
    assert plain['net/gain'].shape == ()


def test_a_released_nfnet_becomes_a_file_for_timm(tmp_path):
  released, output = str(tmp_path / 'F0_haiku.npz'), str(tmp_path / 'o.safetensors')
  shapes = network_shapes('nfnet_f0', num_classes=3)
  # Powers of two, of which every type holds the same; one byte a number makes a small file.
  params = unflatten(
    {name: np.full(shape, 2 ** (i % 7), '>i1') for i, (name, shape) in enumerate(shapes.items())}
  )
  with open(released, 'wb') as file:
    pickle.dump(params, file)
  export(output, params=released)
  assert read_metadata(output) == {
    'timm_model': 'dm_nfnet_f0',
    'num_classes': 3,
    'filter_scale': 2.0**5,
  }
  want = timm_state_dict(params)
  got = safetensors.numpy.load_file(output)
  assert got.keys() == want.keys()
  for name, array in want.items():
    np.testing.assert_array_equal(got[name], array)
    assert (got[name].dtype, got[name].shape) == (np.float32, array.shape)
  assert got['stages.1.0.skipinit_gain'] == flatten(params)['NFNet/~/nf_block_1/skip_gain']


def test_metadata_of_a_file_are_kept(tmp_path):
  source, output = str(tmp_path / 'a.npz'), str(tmp_path / 'b.npz')
  write(source, _SMALL, {'class_names': ['cat', 'dog']})
  export(output, params=source)
  assert read_metadata(output) == {'class_names': ['cat', 'dog']}


def test_errors_are_one_line_and_leave_no_file(tmp_path):
  source = str(tmp_path / 'a.npz')
  write(source, _SMALL)
  before = pathlib.Path(source).read_bytes()
  (tmp_path / 'folder.npz').mkdir()
  (tmp_path / 'closed').mkdir(mode=0o500)
  os.link(source, tmp_path / 'same.npz')
  (tmp_path / 'dangling.npz').symlink_to(tmp_path / 'nowhere')
  left = sorted(os.listdir(tmp_path))
  cases = [
    ({'output': tmp_path / 'a.pt', 'params': source}, 'must end in'),
    ({'output': tmp_path / 'none' / 'a.npz', 'params': source}, 'there is no folder'),
    ({'output': tmp_path / 'folder.npz', 'params': source}, 'is a folder'),
    ({'output': source, 'params': source}, 'is the file of --params itself'),
    ({'output': 'gs://b/a.npz', 'params': 'gs://b/a.npz'}, 'is the file of --params itself'),
    ({'output': tmp_path / 'same.npz', 'params': source}, 'is the file of --params itself'),
    ({'output': tmp_path / f'{"n" * 252}.npz', 'params': source}, 'cannot be written: File name'),
    ({'output': tmp_path / 'b.npz', 'params': tmp_path / 'none.npz'}, 'none.npz: No such file'),
    ({'output': tmp_path / 'b.npz', 'params': tmp_path}, 'it is a directory'),
    ({'output': tmp_path / 'b.safetensors', 'params': source}, 'no parameters of an NFNet'),
    ({'output': tmp_path / 'b.npz'}, 'say what to export'),
    ({'output': tmp_path / 'b.npz', 'workdir': tmp_path / 'none'}, 'is not a directory'),
  ]
  if os.geteuid():  # to whom permissions do not apply
    cases.append(
      ({'output': tmp_path / 'closed' / 'b.npz', 'params': source}, 'may not be written')
    )
  for arguments, message in cases:
    with pytest.raises(ValueError, match=message) as caught:
      export(**{key: str(value) for key, value in arguments.items()})
    assert len(str(caught.value).splitlines()) == 1, arguments
  assert sorted(os.listdir(tmp_path)) == left
  assert pathlib.Path(source).read_bytes() == before


def test_a_run_whose_parameters_are_not_finite_is_not_exported(tmp_path):
  _save_run(tmp_path / 'run', {'net': {'b': np.asarray([1, np.nan, np.inf], np.float32)}})
  with pytest.raises(ValueError, match=r"run.*'net/b': 2 of 3 values are nan or infinite"):
    export(str(tmp_path / 'o.npz'), workdir=str(tmp_path / 'run'))
  assert os.listdir(tmp_path) == ['run']


def test_a_folder_without_a_checkpoint(tmp_path):
  (tmp_path / 'run').mkdir()
  with pytest.raises(CheckpointError, match='no checkpoint in'):
    export(str(tmp_path / 'o.npz'), workdir=str(tmp_path / 'run'))
  assert os.listdir(tmp_path / 'run') == []
