"""Compiled programs are found again by the next start, and only if they are whole and fit."""

import os
import subprocess
import sys
import zlib

import jax
import pytest

from nfnets_augmult.ops import compiled_programs

# Prints how many programs were read from the cache, and a result.
_PROGRAM = """
import sys
from nfnets_augmult.ops import compiled_programs
compiled_programs._LEAST_COMPILE_SECONDS = 0.0
compiled_programs.keep_in(sys.argv[1])
import jax
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event.endswith('cache_hits')))
print(float(jax.jit(lambda x: (x * 3 + 1).sum())(jax.numpy.arange(10.0))), sum(hits))
"""


@pytest.fixture(name='changed')
def _changed(monkeypatch):
  """What `keep_in` sets in JAX."""
  monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
  changed = {}
  monkeypatch.setattr(jax.config, 'update', changed.__setitem__)
  return changed


def _own(folder):
  return next(path for path in folder.iterdir() if path.is_dir())


def _run(folder):
  environment = {k: v for k, v in os.environ.items() if not k.startswith('JAX_')}
  done = subprocess.run(
    [sys.executable, '-W', 'error', '-c', _PROGRAM, str(folder)],
    env={**environment, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
    check=True,
  )
  result, hits = done.stdout.split()
  return float(result), int(hits)


def test_the_next_start_finds_the_programs_and_replaces_one_that_was_cut_off(tmp_path):
  assert _run(tmp_path) == (145.0, 0)
  result, hits = _run(tmp_path)
  assert result == 145.0 and hits > 0
  files = sorted(_own(tmp_path).glob('*-cache'))
  for path in files:
    path.write_bytes(path.read_bytes()[:-20])
  assert _run(tmp_path) == (145.0, 0)  # and no warning, which would be an error here
  assert _run(tmp_path) == (145.0, hits)
  assert sorted(_own(tmp_path).glob('*-cache')) == files


def test_only_new_files_are_looked_into(tmp_path, changed):
  """Those of before the last look are not read again."""
  compiled_programs.keep_in(str(tmp_path))
  own = _own(tmp_path)
  assert changed['jax_compilation_cache_dir'] == str(own)
  whole, cut = own / 'whole-cache', own / 'cut-cache'
  whole.write_bytes(zlib.compress(b'program' * 99))
  cut.write_bytes(whole.read_bytes()[:-3])
  old = own / 'old-cache'
  old.write_bytes(b'not looked into')
  os.utime(old, (1.0, 1.0))
  (own / 'empty-cache').touch()
  compiled_programs.keep_in(str(tmp_path))
  assert sorted(path.name for path in own.glob('*-cache')) == ['old-cache', 'whole-cache']


def test_the_oldest_go(tmp_path, changed, monkeypatch):
  del changed  # what is set does not matter here
  monkeypatch.setattr(compiled_programs, '_MOST_BYTES', 250)
  compiled_programs.keep_in(str(tmp_path))
  for age in range(4):
    path = _own(tmp_path) / f'{age}-cache'
    path.write_bytes(bytes(100))
    os.utime(path, (1000.0 - age, 1000.0 - age))
  compiled_programs.keep_in(str(tmp_path))
  assert sorted(path.name for path in _own(tmp_path).glob('*-cache')) == ['0-cache', '1-cache']


_PROCESSORS = {
  'a': 'processor\t: 0\nvendor_id\t: X\nmodel\t\t: 1\ncpu MHz\t\t: 2100.5\nflags\t\t: sse avx\n',
  'a at another speed': (
    'processor\t: 0\nvendor_id\t: X\nmodel\t\t: 1\ncpu MHz\t\t: 900.1\nflags\t\t: sse avx\n'
    'processor\t: 1\nvendor_id\t: X\nmodel\t\t: 1\ncpu MHz\t\t: 800.2\nflags\t\t: sse avx\n'
  ),
  'without avx': 'processor\t: 0\nvendor_id\t: X\nmodel\t\t: 1\nflags\t\t: sse\n',
  'another model': 'processor\t: 0\nvendor_id\t: X\nmodel\t\t: 2\nflags\t\t: sse avx\n',
  'arm': 'processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n',
  'arm with more': 'processor\t: 0\nFeatures\t: fp asimd sve\nCPU implementer\t: 0x41\n',
}


def test_every_kind_of_processor_has_its_own(tmp_path, changed, monkeypatch):
  """By model and instructions, not by speed or number; elsewhere than on Linux by what is known."""
  folders = {}
  for name, text in _PROCESSORS.items():
    facts = tmp_path / 'cpuinfo'
    facts.write_text(text)
    monkeypatch.setattr(compiled_programs, '_CPU_FACTS', facts)
    compiled_programs.keep_in(str(tmp_path / 'kept'))
    folders[name] = changed['jax_compilation_cache_dir']
  assert folders.pop('a at another speed') == folders['a']
  facts.unlink()
  for name in ('arm', 'i386'):
    monkeypatch.setattr(compiled_programs.platform, 'processor', lambda name=name: name)
    compiled_programs.keep_in(str(tmp_path / 'kept'))
    folders[f'not Linux, {name}'] = changed['jax_compilation_cache_dir']
  assert len(set(folders.values())) == len(folders) == 7


def test_what_the_user_says_and_places_that_cannot_be_written(tmp_path, changed, monkeypatch):
  (tmp_path / 'file').touch()
  compiled_programs.keep_in(str(tmp_path / 'file' / 'folder'))
  assert not changed
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'own'))
  compiled_programs.keep_in(str(tmp_path / 'ours'))
  assert not changed and not (tmp_path / 'ours').exists()
  monkeypatch.setenv('XDG_CACHE_HOME', '/caches')
  assert compiled_programs.user_folder() == '/caches/nfnets_augmult/compiled'
