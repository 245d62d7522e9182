"""Paths as people write them: `~` and variables, and folders that cannot be written to."""

import os
import pwd

import pytest

from nfnets_augmult.ops import paths


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
  monkeypatch.setenv('HOME', '/home/ann')
  monkeypatch.setenv('DATA', '/data')
  monkeypatch.setenv('EMPTY', '')
  monkeypatch.delenv('NOWHERE', raising=False)


@pytest.mark.parametrize(
  ('path', 'expanded'),
  [
    ('', ''),
    ('runs/x', 'runs/x'),
    ('~', '/home/ann'),
    ('~/runs/x', '/home/ann/runs/x'),
    ('$HOME/runs', '/home/ann/runs'),
    ('${DATA}/a', '/data/a'),
    ('a/$DATA', 'a//data'),
    ('~root/x', pwd.getpwnam('root').pw_dir + '/x'),
    # What stands for nothing stays: no name follows, or it is not at the start.
    ('a$', 'a$'),
    ('cost$5', 'cost$5'),
    ('a~b/~', 'a~b/~'),
    ('gs://bucket/~ann', 'gs://bucket/~ann'),
  ],
)
def test_expands(path, expanded):
  assert paths.expand(path) == expanded


@pytest.mark.parametrize(
  ('path', 'words'),
  [
    ('$NOWHERE/x', "variable 'NOWHERE' is not set"),
    ('a/${NOWHERE}', "variable 'NOWHERE' is not set"),
    ('${}/a', 'is not set'),
    ('$EMPTY/x', "variable 'EMPTY' is empty"),
    ('~no_such_user/x', "no user 'no_such_user'; .* say ./~no_such_user"),
  ],
)
def test_what_stands_for_nothing_is_an_error(path, words):
  with pytest.raises(ValueError, match=words):
    paths.expand(path)


def test_writable_folders(tmp_path):
  """Also those that are still to be made; nothing is made to find out."""
  paths.check_writable('workdir', str(tmp_path / 'a' / 'b'))
  assert not list(tmp_path.iterdir())
  (tmp_path / 'file').touch()
  (tmp_path / 'loop').symlink_to(tmp_path / 'loop')
  for name, words in (('file/x', 'is a file'), ('file', 'is a file'), ('loop/x', 'leads nowhere')):
    with pytest.raises(ValueError, match=f"^workdir='.*{name}': .* {words}"):
      paths.check_writable('workdir', str(tmp_path / name))


def test_a_folder_that_may_not_be_written_to(tmp_path, monkeypatch):
  monkeypatch.setattr(os, 'access', lambda path, mode: False)  # root may everything
  with pytest.raises(ValueError, match=f'no files can be made in {tmp_path}'):
    paths.check_writable('workdir', str(tmp_path / 'a'))
