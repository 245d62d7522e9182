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
  # `configs`: what the keys of a recorded config are, and their defaults.
  'analysis': {'configs', 'ops', 'data', 'models', 'optim', 'training'},
  'report': {'configs', 'ops', 'data', 'training'},
  'variance': {'configs', 'ops', 'data', 'training'},
}
# The `__main__.py` of a room is a program: it may import everything, and nothing may import it.
PROGRAM = '__main__.py'
# Single modules that may import more than their room.
ALLOWED_MODULES = {'variance/measuring.py': {'assembly'}}


def _imports(file):
  """Yields the dotted names of all that a file imports."""
  for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
    if isinstance(node, ast.ImportFrom) and node.module:
      yield from (f'{node.module}.{alias.name}' for alias in node.names)
    elif isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)


@pytest.mark.parametrize('room', ALLOWED)
def test_imports_point_one_way(room):
  """Ops <- data, models, optim <- training <- analysis, report, variance <- programs."""
  for file in (PACKAGE / room).rglob('*.py'):
    if file.name == PROGRAM:
      continue
    allowed = {room, *ALLOWED[room], *ALLOWED_MODULES.get(str(file.relative_to(PACKAGE)), ())}
    for name in _imports(file):
      assert name != 'absl.flags', f'{file} is a library and reads flags'
      if name.startswith('nfnets_augmult.'):
        assert name.split('.')[1] in allowed, f'{file} imports {name}'


def test_one_file_knows_how_programs_get_to_devices():
  """So that another transformation than pmap is a change of one file."""
  knows = [file for file in PACKAGE.rglob('*.py') if 'jax.pmap' in file.read_text(encoding='utf-8')]
  assert [str(file.relative_to(PACKAGE)) for file in knows] == ['training/devices.py']


def test_nothing_imports_a_program_in_a_room():
  for file in PACKAGE.rglob('*.py'):
    assert not [name for name in _imports(file) if '__main__' in name.split('.')], file


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
