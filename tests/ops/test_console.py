"""Interrupts and output, of real processes."""

import os
import signal
import subprocess
import sys

import pytest

_START = 'from nfnets_augmult.ops import console; console.prepare(); '


def _start(code, **options):
  pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **options}
  return subprocess.Popen([sys.executable, '-c', _START + code], text=True, **pipes)


def test_a_reader_that_goes_away_ends_nothing(tmp_path):
  """The rest of the output is dropped, also that of other libraries; the work is done."""
  code = (
    'import os\n'
    'for _ in range(20000): print("a line")\n'
    'os.write(1, b"from elsewhere")\n'
    f'open({str(tmp_path / "result")!r}, "w").close()'
  )
  process = _start(code)
  assert process.stdout.readline() == 'a line\n'
  process.stdout.close()
  assert process.stderr.read() == ''
  assert process.wait() == 0
  assert (tmp_path / 'result').exists()


def test_a_program_that_only_prints_ends_when_nobody_reads():
  process = _start('console.end_when_nobody_reads()\nwhile True: print("a line")')
  assert process.stdout.readline() == 'a line\n'
  process.stdout.close()
  assert process.stderr.read() == ''
  assert process.wait() == -signal.SIGPIPE


def test_a_full_disk_is_an_error():
  with open('/dev/full', 'w') as full:
    process = _start('print("a line", flush=True)', stdout=full)
    assert 'No space left on device' in process.communicate()[1]
  assert process.returncode == 1


@pytest.mark.parametrize(
  ('end', 'status', 'errors'),
  [
    ('os.abort()', -signal.SIGABRT, 'it was lost: "$0"\n'),
    ('os.kill(os.getpid(), signal.SIGKILL)', -signal.SIGKILL, 'it was lost: "$0"\n'),
    ('console.leave(3)', 3, ''),
    ('raise SystemExit(2)', 2, ''),
  ],
)
def test_an_abort_is_explained_in_the_last_line(end, status, errors):
  process = _start(f"""import os, signal; console.explain_abort('it was lost: "$0"'); {end}""")
  assert process.communicate()[1] == errors
  assert process.returncode == status


def test_characters_that_cannot_be_shown_are_escaped():
  environment = {**os.environ, 'PYTHONIOENCODING': 'ascii'}
  process = _start('import sys; print("été"); print("\\udcff", file=sys.stderr)', env=environment)
  assert process.communicate() == ('\\xe9t\\xe9\n', '\\udcff\n')


def test_closed_streams_are_silent():
  code = _START + 'import sys; print("a"); sys.stdout.flush(); print("b", file=sys.stderr)'
  assert os.system(f"{sys.executable} -c '{code}' >&- 2>&-") == 0


@pytest.mark.parametrize(
  'work',
  [
    'time.sleep(60)',
    # A library that computes and does not look at signals.
    'hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)',
  ],
)
def test_an_interrupt_ends_the_process_at_once_with_one_line(work):
  process = _start(f'import time, hashlib; print("ready", flush=True); {work}')
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(signal.SIGINT)
  assert process.communicate(timeout=20)[1] == 'interrupted\n'
  assert process.returncode == 128 + signal.SIGINT


def test_a_listener_is_told_while_a_library_computes():
  """As when training is to stop after the step that is being compiled."""
  code = (
    'import hashlib, os, signal\n'
    'console.on_signal(signal.SIGINT, lambda n: (os.write(1, b"told"), os._exit(7)))\n'
    'print("ready", flush=True)\n'
    'hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)\n'
  )
  process = _start(code)
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(signal.SIGINT)
  assert process.communicate(timeout=20)[0] == 'told'
  assert process.returncode == 7


def test_importing_the_programs_changes_nothing():
  """A notebook that imports them keeps its interrupts and its output."""
  code = (
    'import signal, sys; before = signal.getsignal(signal.SIGINT), sys.stdout\n'
    'import nfnets_augmult.command_line\n'
    'assert before == (signal.getsignal(signal.SIGINT), sys.stdout)'
  )
  subprocess.run([sys.executable, '-c', code], check=True)
