"""Files by path: local ones and those in a bucket behave alike."""

import pathlib
import subprocess
import sys

import pytest

from nfnets_augmult.ops import atomic_file, files
from tests import buckets


@pytest.fixture(scope='module', name='bucket')
def _bucket():
  with buckets.in_environment() as bucket:
    yield bucket


@pytest.fixture(params=['local', 'bucket'], name='folder')
def _folder(request, tmp_path):
  if request.param == 'local':
    return str(tmp_path)
  return request.getfixturevalue('bucket').url(request.node.originalname)


def test_what_is_written_is_there(folder):
  inner = f'{folder}/a/b'
  files.make_dirs(inner)
  files.write_whole(f'{inner}/x.txt', b'0123456789')
  files.write_whole(f'{folder}/y', lambda file: file.write(b'old'))
  files.write_whole(f'{folder}/y', lambda file: file.write(b'new'))
  assert files.read(f'{inner}/x.txt') == b'0123456789'
  assert files.read(f'{inner}/x.txt', 2, 5) == b'234'
  assert files.read(f'{inner}/x.txt', 8) == b'89'
  assert files.read(f'{folder}/y') == b'new'
  assert files.sizes(folder) == {'y': 3}
  assert sorted(files.list_dir(folder)) == sorted(files.list_dir(f'{folder}/')) == ['a', 'y']
  assert [files.exists(f'{folder}/{name}') for name in ('a', 'y', 'a/b/x.txt', 'z')] == [
    True,
    True,
    True,
    False,
  ]
  assert [files.is_dir(f'{folder}/{name}') for name in ('a', 'a/', 'y', 'z')] == [
    True,
    True,
    False,
    False,
  ]
  files.remove(f'{folder}/y')
  assert not files.exists(f'{folder}/y')


def test_walk_can_leave_folders_out(folder):
  for name in ('a/1', 'a/deep/2', 'b/3'):
    files.make_dirs(f'{folder}/{name}'.rpartition('/')[0])
    files.write_whole(f'{folder}/{name}', b'')
  found = {}
  for path, folders, names in files.walk(folder):
    found[path.removeprefix(folder)] = (sorted(folders), names)
    if path.endswith('/a'):
      folders.clear()
  assert found == {'': (['a', 'b'], []), '/a': (['deep'], ['1']), '/b': ([], ['3'])}


def test_what_another_process_has_written_is_found(folder):
  """Also after the folder was listed: nothing of it is kept."""
  files.make_dirs(folder)
  files.write_whole(f'{folder}/a', b'')
  assert files.list_dir(folder) == ['a'] and not files.exists(f'{folder}/b')
  code = 'import sys; from nfnets_augmult.ops import files; files.write_whole(sys.argv[1], b"")'
  subprocess.run([sys.executable, '-c', code, f'{folder}/b'], check=True)
  assert sorted(files.list_dir(folder)) == ['a', 'b'] and files.exists(f'{folder}/b')


def test_what_is_not_there_raises(folder):
  for use in (files.read, files.remove):
    with pytest.raises(FileNotFoundError, match='nothing'):
      use(f'{folder}/nothing')


def test_a_log_is_appended_to(folder, monkeypatch):
  """In a bucket it is uploaded when it is closed, and before that when 15 seconds are over."""
  for _ in range(2):
    with files.open_log(f'{folder}/log.txt') as log:
      print('first', file=log)
      if files.is_url(folder):
        before = len(files.list_dir(folder)) if files.is_dir(folder) else 0
        monkeypatch.setattr(files, 'SECONDS_BETWEEN_UPLOADS', 0.0)
        print('second', file=log)
        assert len(files.list_dir(folder)) >= max(before, 1)
        monkeypatch.undo()
      else:
        print('second', file=log)
  texts = [files.read(f'{folder}/{name}').decode() for name in files.list_dir(folder)]
  assert set(''.join(texts).split('\n')) == {'first', 'second', ''}


def test_a_request_that_is_refused_is_an_error_of_the_system(bucket):
  files.write_whole(bucket.url('refused'), b'old')
  with (
    bucket.refusing(lambda method, path: 403 * buckets.is_write(method)),
    pytest.raises(PermissionError, match=r'gs://test-bucket/refused'),
  ):
    files.write_whole(bucket.url('refused'), b'new')
  assert files.read(bucket.url('refused')) == b'old'


def test_there_is_no_such_bucket(bucket):
  del bucket
  with pytest.raises(FileNotFoundError, match=r'no such bucket.*gs://no-such-bucket/run'):
    files.write_whole('gs://no-such-bucket/run', b'')


def test_a_passing_failure_passes(bucket):
  answers = iter([503, 429, 0])
  with bucket.refusing(lambda method, path: next(answers, 0)):
    files.write_whole(bucket.url('later'), b'x')
  assert files.read(bucket.url('later')) == b'x'


def test_says_what_to_install():
  """One line, where gcsfs is not there."""
  code = (
    "import sys; sys.modules['gcsfs'] = None; from nfnets_augmult.ops import files\n"
    "try: files.exists('gs://bucket/run')\n"
    'except ImportError as error: print(error)'
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert done.stdout.startswith('gs://bucket/run: a library for gs:// is not installed: ')
  assert "pip install 'nfnets_augmult[gcs]'" in done.stdout


def test_a_new_folder_is_there_whole_or_not_at_all(tmp_path):
  """After an error nothing is left; others may read it as any folder."""
  target = tmp_path / 'made'
  with atomic_file.new_folder(target) as folder:
    assert not target.exists()
    pathlib.Path(folder, 'inside').mkdir()
    pathlib.Path(folder, 'inside', 'file').write_text('x')
  assert (target / 'inside' / 'file').read_text() == 'x'
  (tmp_path / 'plain').mkdir()
  assert target.stat().st_mode == (tmp_path / 'plain').stat().st_mode
  with pytest.raises(OSError, match='not empty'), atomic_file.new_folder(target):
    pass
  with pytest.raises(KeyError), atomic_file.new_folder(tmp_path / 'other') as folder:
    pathlib.Path(folder, 'file').write_text('x')
    raise KeyError
  assert sorted(path.name for path in tmp_path.iterdir()) == ['made', 'plain']
