"""A stand-in for gcloud: queued resources of TPUs, whose workers are processes of this machine.

It is a program; `FakeCloud` makes the folder with its state, and takes machines away. Each worker
has a home directory of its own, and finds the others as a task of SLURM does. Each look at a queued
resource moves it on by one state. Like that of gcloud, ssh goes on without nodes that are not
there, and calls that a success.
"""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import stat
import subprocess
import sys

import psutil

FAKE_CLOUD = 'FAKE_CLOUD'
_WAY = ['WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE']

# The Python of the image is too old, and can only install uv.
_OLD_PYTHON = """#!/bin/bash
[ "$*" = '-m pip install --quiet --user uv' ] || exit 1
mkdir -p ~/.local/bin && ln -s "$FAKE_CLOUD/uv" ~/.local/bin/uv
"""
_UV = """#!/bin/bash
case "$*" in
  'python install --quiet 3.12') touch ~/python_is_installed ;;
  'python find 3.12') [ -e ~/python_is_installed ] && echo "$FAKE_CLOUD/python3.12" ;;
  *) exit 1 ;;
esac
"""
_NEW_PYTHON = """#!/bin/bash
case "$*" in
  '-m venv --clear .venv') mkdir -p .venv/bin && ln -s "$FAKE_CLOUD/venv_python" .venv/bin/python ;;
  *) exec {python} "$@" ;;
esac
"""
_VENV_PYTHON = """#!/bin/bash
case "$*" in
  '-m pip --version') ;;
  '-m pip install '*) echo "$*" >> "$FAKE_CLOUD/pip.log" ;;
  '-m nfnets_augmult.train '*)
    [ -z "$FAKE_TRAIN" ] || exec bash -c "$FAKE_TRAIN" "${{@:2}}"
    exec {python} "$@" ;;
  *) exec {python} "$@" ;;
esac
"""


class FakeCloud:
  """The folder of a fake cloud, in which the program keeps its state."""

  def __init__(self, folder: pathlib.Path):
    """Makes the folder, or opens it.

    Args:
      folder: with `bin/gcloud`, which belongs on the PATH.
    """
    self.folder = folder

  def make(self) -> 'FakeCloud':
    """Writes the programs that gcloud and the workers have."""
    (self.folder / 'bin').mkdir(parents=True)
    (self.folder / 'worker_bin').mkdir()
    for name, text in (
      ('bin/gcloud', f'#!/bin/bash\nexec {sys.executable} {__file__} "$@"\n'),
      ('worker_bin/python3', _OLD_PYTHON),
      ('uv', _UV),
      ('python3.12', _NEW_PYTHON.format(python=sys.executable)),
      ('venv_python', _VENV_PYTHON.format(python=sys.executable)),
    ):
      path = self.folder / name
      path.write_text(text)
      path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return self

  def commands(self) -> list[list[str]]:
    """Returns the arguments of all calls so far."""
    path = self.folder / 'commands.jsonl'
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

  def count(self, *words: str) -> int:
    """Returns the number of calls with all of these words somewhere in their arguments."""
    return sum(all(word in ' '.join(command) for word in words) for command in self.commands())

  def read(self, name: str) -> dict | None:
    """Returns the queued resource of that name, or None."""
    path = self.folder / f'{name}.json'
    return json.loads(path.read_text()) if path.exists() else None

  def write(self, name: str, queue: dict) -> None:
    """Stores a queued resource."""
    path = self.folder / f'{name}.json'
    path.with_suffix('.new').write_text(json.dumps(queue))
    path.with_suffix('.new').rename(path)

  def homes(self, name: str) -> list[pathlib.Path]:
    """Returns the home directories of all workers, in order."""
    return sorted((self.folder / 'homes' / name).glob('*'))

  def kill(self, name: str, workers: str = '*') -> None:
    """Kills all processes of the workers of a queued resource, or of those that match."""
    homes = {str(home) for home in (self.folder / 'homes' / name).glob(workers)}
    for process in psutil.process_iter():
      with contextlib.suppress(psutil.Error):
        if process.environ().get('HOME') in homes:
          process.kill()

  def preempt(self, name: str, state: str = 'SUSPENDED', node_state: str = 'PREEMPTED') -> None:
    """Takes the machines away without notice.

    Args:
      name: of the queued resource.
      state: of the queued resource afterwards.
      node_state: of the TPU VMs afterwards; '' for none.
    """
    self.kill(name)
    shutil.rmtree(self.folder / 'homes' / name, ignore_errors=True)
    self.write(name, {**self.read(name), 'state': state, 'node_state': node_state})


def _workers(accelerator: str) -> int:
  """One for four chips; the number after v4 counts cores."""
  kind, _, number = accelerator.partition('-')
  return max(1, int(number) // (8 if kind == 'v4' else 4))


def _fail(message: str) -> None:
  print(f'ERROR: (gcloud) {message}', file=sys.stderr)
  raise SystemExit(1)


def _free_port() -> int:
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    return free.getsockname()[1]


def _move_on(cloud: FakeCloud, name: str, queue: dict) -> dict:
  if queue['state'] in _WAY[:-1]:
    queue['state'] = _WAY[_WAY.index(queue['state']) + 1]
    if (cloud.folder / 'cannot_provide').exists():
      queue['state'] = 'FAILED'
  if queue['state'] == 'ACTIVE' and not queue['node_state']:
    queue['node_state'] = 'READY'
    queue['port'] = _free_port()
    for worker in range(queue['workers']):
      (cloud.folder / 'homes' / name / f'{worker:03}').mkdir(parents=True)
  cloud.write(name, queue)
  return queue


def _start(cloud: FakeCloud, name: str, queue: dict, command: str) -> list[subprocess.Popen]:
  homes = cloud.homes(name)
  return [
    subprocess.Popen(
      ['bash', '-c', command],
      cwd=home,
      env={
        **os.environ,
        'HOME': str(home),
        'PATH': f'{cloud.folder}/worker_bin:/usr/bin:/bin',
        'SLURM_JOB_ID': '1',
        'SLURM_STEP_NODELIST': '127.0.0.1',
        'SLURM_NTASKS': str(len(homes)),
        'SLURM_PROCID': str(index),
        'SLURM_LOCALID': '0',
        'JAX_COORDINATOR_PORT': str(queue['port']),
      },
    )
    for index, home in enumerate(homes)
  ]


def main(arguments: list[str]) -> None:
  """Runs one command of gcloud."""
  cloud = FakeCloud(pathlib.Path(os.environ[FAKE_CLOUD]))
  with (cloud.folder / 'commands.jsonl').open('a') as log:
    log.write(json.dumps(arguments) + '\n')
  flags = dict(word[2:].partition('=')[::2] for word in arguments if word.startswith('--'))
  words = [word for word in arguments if not word.startswith('--')]
  assert words[:2] == ['compute', 'tpus'] and flags['zone'] and flags['project']
  action = words[3]
  if words[2:4] == ['tpu-vm', 'list']:
    for path in cloud.folder.glob('*.json'):
      queue = json.loads(path.read_text())
      if queue['node_state']:
        print('\n'.join([queue['node_state']] * queue['slices']))
    return
  assert words[2] == 'queued-resources'
  name = words[-1].split(':')[0]
  queue = cloud.read(name)
  if action == 'create':
    if queue:
      _fail(f'ALREADY_EXISTS: {name}')
    if (cloud.folder / 'refuse').exists():
      _fail("Quota 'TPUV4sPerProjectPerZoneForTPUAPI' exhausted. Limit 8 in zone us-central2-b")
    slices = int(flags.get('node-count', 1))
    workers = slices * _workers(flags['accelerator-type'])
    queue = {'state': _WAY[0], 'node_state': '', 'workers': workers, 'slices': slices}
    cloud.write(name, queue)
    return
  if not queue:
    _fail(f'NOT_FOUND: Resource {name} was not found')
  if action == 'describe':
    print(_move_on(cloud, name, queue)['state'])
  elif action == 'delete':
    if queue['node_state'] and 'force' not in flags:
      _fail('FAILED_PRECONDITION: it has nodes')
    cloud.preempt(name, state='DELETING')
    (cloud.folder / f'{name}.json').unlink()
  elif action in ('ssh', 'scp'):
    if queue['state'] != 'ACTIVE':
      _fail(f'{name} is {queue["state"]}')
    if queue['node_state'] != 'READY':
      print('WARNING: Could not prepare all 1 nodes, attempting to ssh into the rest.')
      return
    assert flags['node'] == flags['worker'] == 'all'
    unstable = cloud.folder / 'unstable'  # the connections to fail first
    if unstable.exists():
      left = int(unstable.read_text()) - 1
      unstable.write_text(str(left)) if left else unstable.unlink()
      _fail('[/usr/bin/ssh] exited with return code [255].')
    if action == 'scp':
      for home in cloud.homes(name):
        shutil.copy(words[4], home / words[5].partition(':')[2])
      return
    statuses = [process.wait() for process in _start(cloud, name, queue, flags['command'])]
    raise SystemExit(next((status for status in statuses if status), 0))
  else:
    _fail(f'Invalid choice: {action}')


if __name__ == '__main__':
  main(sys.argv[1:])
