"""Imports point one way, and TensorFlow stays out of what runs without it."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).parent.parent / 'nfnets_augmult'

# Room: the rooms it may import from, besides itself.
ALLOWED = {
  'ops': set(),
  'data': {'ops'},
  'models': {'ops'},
  'optim': {'ops'},
  'weights': {'ops'},
  'training': {'ops', 'data', 'models', 'optim'},
  # `configs`: what the keys of a recorded config are, and their defaults.
  'analysis': {'configs', 'ops', 'data', 'models', 'optim', 'training'},
}
# Programs that lie in a room for their name's sake: they may import everything, as the programs
# beside the rooms do, and nothing may import them.
PROGRAMS = {'analysis/variance.py'}


@pytest.mark.parametrize('room', ALLOWED)
def test_imports_point_one_way(room):
  """Ops <- data, models, optim <- training <- analysis <- programs."""
  for file in (PACKAGE / room).rglob('*.py'):
    if str(file.relative_to(PACKAGE)) in PROGRAMS:
      continue
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
      names = []
      if isinstance(node, ast.ImportFrom) and node.module:
        names = [f'{node.module}.{alias.name}' for alias in node.names]
      elif isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      for name in names:
        if name.startswith('nfnets_augmult.'):
          assert name.split('.')[1] in {room, *ALLOWED[room]}, f'{file} imports {name}'


def test_one_file_knows_how_programs_get_to_devices():
  """So that another transformation than pmap is a change of one file."""
  knows = [file for file in PACKAGE.rglob('*.py') if 'jax.pmap' in file.read_text(encoding='utf-8')]
  assert [str(file.relative_to(PACKAGE)) for file in knows] == ['training/devices.py']


def test_nothing_imports_a_program_in_a_room():
  """Neither as a module nor from its room."""
  for program in PROGRAMS:
    room, name = program.removesuffix('.py').split('/')
    pattern = rf'(nfnets_augmult\.{room}\.{name}\b|{room} import (.*\b)?{name}\b)'
    for file in PACKAGE.rglob('*.py'):
      imports = [
        line
        for line in file.read_text(encoding='utf-8').splitlines()
        if re.match(r'\s*(import|from)', line)
      ]
      assert not [line for line in imports if re.search(pattern, line)], file


def _imported_by(statement):
  code = f'import sys; {statement}; print(*sys.modules)'
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  return set(done.stdout.split())


def test_the_package_imports_nothing_heavy():
  assert not {'jax', 'numpy', 'tensorflow', 'matplotlib'} & _imported_by('import nfnets_augmult')


def test_all_but_the_input_imports_without_tensorflow():
  """Models, optimiser, step, loop, checkpoints, benchmark and the programs themselves."""
  modules = _imported_by(
    'import nfnets_augmult.models, nfnets_augmult.optim.sgd, nfnets_augmult.training.loop, '
    'nfnets_augmult.training.step, nfnets_augmult.training.checkpoints, '
    'nfnets_augmult.train, nfnets_augmult.evaluate, nfnets_augmult.benchmark'
  )
  assert not {'tensorflow', 'tensorflow_datasets', 'sklearn', 'matplotlib'} & modules
