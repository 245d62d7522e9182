"""Processes on this machine as the hosts of a run."""

import atexit
import socket
import subprocess
import sys
from collections.abc import Sequence

import ml_collections

from experiments import quickstart_digits
from nfnets_augmult import configs
from tests import session

_started: list[subprocess.Popen] = []


@atexit.register
def _end() -> None:
  """A test that fails leaves its hosts, which wait for one another."""
  for host in _started:
    if host.poll() is None:
      host.kill()


def overrides(config: ml_collections.ConfigDict, *, varied: Sequence[str] = ()) -> list[str]:
  """Returns the flags that make the quickstart `config`, but for the keys that are `varied`."""
  plain = configs.flatten(quickstart_digits.get_config())
  changed = {key: value for key, value in configs.flatten(config).items() if value != plain[key]}
  return [f'--config.{key}={value}' for key, value in changed.items() if key not in varied]


def start(
  program: str, flags: Sequence[str], *, flags_of_host_1: Sequence[str] = (), count: int = 2
) -> list[subprocess.Popen]:
  """Starts `count` hosts of one device each that run a program with the quickstart's config."""
  flags = ['--config=experiments/quickstart_digits.py', *flags]
  return start_module(f'nfnets_augmult.{program}', flags, flags_of_host_1, count=count)


def start_module(
  module: str, flags: Sequence[str], flags_of_host_1: Sequence[str] = (), *, count: int = 2
) -> list[subprocess.Popen]:
  """Starts `count` hosts of one device each that run a module which has the flags of hosts."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  hosts = [
    subprocess.Popen(
      [
        *(sys.executable, '-m', module, *flags, *(flags_of_host_1 if index == 1 else ())),
        *('--multi_host', f'--coordinator={address}', f'--num_hosts={count}'),
        *(f'--host_index={index}', '--heartbeat_timeout=10'),
      ],
      env=session.one_device(),
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for index in range(count)
  ]
  _started.extend(hosts)
  return hosts
