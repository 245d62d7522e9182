"""Imports point one way, and TensorFlow stays out of what runs without it."""

import ast
import pathlib
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
  'analysis': {'ops', 'data', 'models', 'optim', 'training'},
}


@pytest.mark.parametrize('room', ALLOWED)
def test_imports_point_one_way(room):
  """Ops <- data, models, optim <- training <- analysis <- front doors."""
  for file in (PACKAGE / room).rglob('*.py'):
    for node in ast.walk(ast.parse(file.read_text())):
      names = []
      if isinstance(node, ast.ImportFrom) and node.module:
        names = [f'{node.module}.{alias.name}' for alias in node.names]
      elif isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      for name in names:
        if name.startswith('nfnets_augmult.'):
          assert name.split('.')[1] in {room, *ALLOWED[room]}, f'{file} imports {name}'


def _imported_by(statement):
  code = f'import sys; {statement}; print(*sys.modules)'
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  return set(done.stdout.split())


def test_the_package_imports_nothing_heavy():
  assert not {'jax', 'numpy', 'tensorflow', 'matplotlib'} & _imported_by('import nfnets_augmult')


def test_all_but_the_input_imports_without_tensorflow():
  """Models, optimiser, step, loop, checkpoints, benchmark and the front doors themselves."""
  modules = _imported_by(
    'import nfnets_augmult.models, nfnets_augmult.optim.sgd, nfnets_augmult.training.loop, '
    'nfnets_augmult.training.step, nfnets_augmult.training.checkpoints, '
    'nfnets_augmult.train, nfnets_augmult.evaluate, nfnets_augmult.benchmark'
  )
  assert not {'tensorflow', 'tensorflow_datasets', 'sklearn', 'matplotlib'} & modules
