"""Damaged and hostile files: a short message, soon, in little memory; or finite arrays.

The files are read in one process of bounded memory, `bounded_reader`.
"""

import io
import os
import pickle
import re

import numpy as np
import pytest

from tests.weights.bounded_reader import read_all
from tests.weights.hostile_files import hostile_archives, hostile_pickles, hostile_timm_files


def _assert_short(message, path):
  """One message of a few lines, however large the file is."""
  assert message.startswith(f'{path}: '), message
  said = message.removeprefix(f'{path}: ')
  assert len(said) <= 500, message
  assert len(said.splitlines()) <= 3, message
  assert said.isprintable(), message


@pytest.mark.parametrize('files', [hostile_pickles, hostile_archives, hostile_timm_files])
def test_hostile_files_are_refused(tmp_path, files):
  patterns = {}
  for index, (name, data, pattern) in enumerate(files()):
    file_name = f'{index:03}_{re.sub("[^a-z_0-9.]", "-", name)}'
    patterns[file_name] = pattern
    (tmp_path / file_name).write_bytes(data)
  outcomes = read_all(tmp_path)
  assert outcomes.keys() == patterns.keys()
  unlike = {}
  for name, outcome in outcomes.items():
    if 'message' in outcome:
      _assert_short(outcome['message'], tmp_path / name)
    # Where the damage is not in what is read, the arrays may be read.
    if patterns[name] != '.*' and not re.search(patterns[name], outcome.get('message', '')):
      unlike[name] = patterns[name], outcome
  assert not unlike, unlike


def test_what_is_no_ordinary_file_is_refused(tmp_path):
  (tmp_path / 'empty.npz').write_bytes(b'')
  (tmp_path / 'folder.npz').mkdir()
  (tmp_path / 'zeros.npz').symlink_to('/dev/zero')
  (tmp_path / 'loop.npz').symlink_to(tmp_path / 'loop.npz')
  (tmp_path / 'nowhere.npz').symlink_to(tmp_path / 'gone')
  os.mkfifo(tmp_path / 'pipe.npz')
  (tmp_path / 'closed.npz').write_bytes(pickle.dumps({'net': {'w': np.ones(2)}}))
  (tmp_path / 'closed.npz').chmod(0)
  patterns = {
    'empty': 'the file is empty',
    'folder': 'it is a directory',
    'zeros': 'a pipe, a socket or a device',
    'loop': 'Too many levels',
    'nowhere': 'No such file',
    'pipe': 'a pipe, a socket or a device',
  }
  if os.geteuid():  # to whom permissions do not apply
    patterns['closed'] = 'Permission denied'
  outcomes = read_all(tmp_path)
  for name, pattern in patterns.items():
    message = outcomes[f'{name}.npz']['message']
    _assert_short(message, tmp_path / f'{name}.npz')
    assert re.search(pattern, message), message


def _whole_files():
  rng = np.random.default_rng(0)
  params = {
    'NFNet/~/stem_conv0': {
      'w': rng.standard_normal((3, 3, 3, 4)).astype(np.float32),
      'gain': np.asfortranarray(rng.standard_normal((8, 40))),
    },
    'NFNet/~/nf_block': {'skip_gain': np.float32(0.5), 'b': np.arange(3, dtype='>f4')},
  }
  flat = {f'{m}/{n}': leaf for m, values in params.items() for n, leaf in values.items()}
  files = [pickle.dumps(params, protocol) for protocol in (2, 3, 4, 5)]
  for save in (np.savez, np.savez_compressed):
    buffer = io.BytesIO()
    save(buffer, **flat, __metadata__=np.asarray('{"class_names": ["a", "b"]}'))
    files.append(buffer.getvalue())
  return files


def _mutated(files, case):
  """Case `case` of the damage: a file with a few bytes changed, cut, left out, or of another."""
  rng = np.random.default_rng((17, case))
  data = bytearray(files[case % len(files)])
  for _ in range(rng.integers(1, 4)):
    at = int(rng.integers(len(data)))
    kind = rng.integers(6)
    if kind == 0:
      data[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
      data[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, *b'(}])R.0ubtq\x94\x85\x8a\x8d\x8e']))
    elif kind == 2:
      data[at : at + 4] = int(rng.choice([0, 2**27, 2**31 - 1, 2**32 - 1])).to_bytes(4, 'little')
    elif kind == 3:
      del data[at : at + int(rng.integers(1, 40))]
    elif kind == 4:
      other = files[int(rng.integers(len(files)))]
      start = int(rng.integers(len(other)))
      data[at:at] = other[start : start + int(rng.integers(1, 200))]
    else:
      data = data[: max(at, 4)]
  return bytes(data)


def test_mutated_files(tmp_path):
  files = _whole_files()
  for case in range(len(files)):
    (tmp_path / f'{case:04}_whole').write_bytes(files[case])
  for case in range(600):
    (tmp_path / f'{case:04}').write_bytes(_mutated(files, case))
  outcomes = read_all(tmp_path)
  assert len(outcomes) == 600 + len(files)
  for name, outcome in outcomes.items():
    if name.endswith('_whole'):
      assert outcome['arrays'] == 4
    elif 'message' in outcome:
      _assert_short(outcome['message'], tmp_path / name)
  refused = sum('message' in outcome for outcome in outcomes.values())
  # Damage to a number of a pickle shows in nothing but that number.
  assert 300 < refused < 600
