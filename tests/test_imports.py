"""Imports point one way, and TensorFlow stays out of what runs without it."""

import ast
import pathlib
import re
import runpy
import subprocess
import sys

import pytest
import setuptools

from nfnets_augmult import configs

PACKAGE = pathlib.Path(__file__).parent.parent / 'nfnets_augmult'

# The rooms that a room may import from, besides itself.
ALLOWED = {
  'ops': set(),
  'data': {'ops'},
  'models': {'ops'},
  'optim': {'ops'},
  'pages': {'ops'},
  'weights': {'ops'},
  'assessment': {'ops', 'data'},
  'training': {'ops', 'data', 'models', 'optim'},
  'runs': {
    *('configs', 'ops', 'data', 'models', 'optim', 'weights', 'assessment', 'training', 'pages')
  },
  'report': {'configs', 'ops', 'data', 'training', 'pages'},
  'find_learning_rate': {'configs', 'ops', 'data', 'training', 'runs'},
  'sweep': {'configs', 'ops', 'data', 'training', 'runs'},
  'reproduce': {'models', 'training', 'sweep'},
  'variance': {'configs', 'ops', 'data', 'training', 'runs'},
}
# The `__main__.py` of a room is a program: it may import everything, and nothing may import it.
PROGRAM = '__main__.py'
# Beside the package, and not installed with it.
BENCHMARKS = PACKAGE.parent / 'benchmarks'


def _imports(file):
  """Yields the dotted names of all that a file imports."""
  for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
    if isinstance(node, ast.ImportFrom) and node.module:
      yield from (f'{node.module}.{alias.name}' for alias in node.names)
    elif isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)


@pytest.mark.parametrize('room', ALLOWED)
def test_imports_point_one_way(room):
  """Ops <- data, models, optim <- training <- runs <- sweep, variance <- reproduce <- programs."""
  for file in (PACKAGE / room).rglob('*.py'):
    if file.name == PROGRAM:
      continue
    allowed = {room, *ALLOWED[room]}
    for name in _imports(file):
      assert name != 'absl.flags', f'{file} is a library and reads flags'
      if name.startswith('nfnets_augmult.'):
        assert name.split('.')[1] in allowed, f'{file} imports {name}'


@pytest.mark.parametrize(
  ('name', 'users'),
  [
    ('jax.shard_map', ['training/devices.py']),
    # Sums that may be part of a jitted function; an exported program is compiled by who loads it.
    (
      'jax.jit',
      ['ops/compiling.py', 'variance/gradient_variance.py', 'weights/stablehlo.py'],
    ),
    ('jax.pmap', []),
  ],
)
def test_one_file_compiles(name, users):
  """So that what XLA compiles with, and how devices are used, is said in one place."""
  files = {
    file
    for file in PACKAGE.rglob('*.py')
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8')))
    if isinstance(node, ast.Attribute) and ast.unparse(node) == name
  }
  assert sorted(str(file.relative_to(PACKAGE)) for file in files) == users


def _module(name):
  """Returns the file of a dotted name, of a module or of a name that it defines."""
  path = PACKAGE.parent / name.replace('.', '/')
  for file in (path.with_suffix('.py'), path / '__init__.py', path.parent.with_suffix('.py')):
    if file.exists():
      return file
  return None


def test_there_are_no_import_cycles():
  """In the whole package, imports inside functions included."""
  imported = {
    file: {_module(name) for name in _imports(file) if name.startswith('nfnets_augmult.')}
    for file in PACKAGE.rglob('*.py')
  }
  while leaves := [file for file, names in imported.items() if not names & imported.keys()]:
    for file in leaves:
      del imported[file]
  assert not imported, f'a cycle is among {sorted(map(str, imported))}'


def test_one_file_reads_the_keys_of_configs():
  """Besides the files that define and change them, as the README says."""
  groups = {key.split('.')[0] for key in configs.flatten(configs.default_config())}
  readers = set()
  for file in [*PACKAGE.rglob('*.py'), *BENCHMARKS.rglob('*.py')]:
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
      is_key = isinstance(node, ast.Attribute) and node.attr in groups
      if is_key and ast.unparse(node.value).split('.')[-1] == 'config':
        readers.add(file)
  assert readers == {PACKAGE / name for name in ('configs.py', 'recipes.py', 'runs/settings.py')}


@pytest.mark.parametrize('room', ['ops', 'data', 'models', 'optim', 'weights', 'training'])
def test_what_does_not_read_configs_names_no_keys(room):
  """Its errors name arguments; what reads the config puts the keys in their place."""
  keys = [key for key in configs.flatten(configs.default_config()) if '.' in key]
  named = re.compile(rf'--config\.|(?<![\w.])({"|".join(map(re.escape, keys))})\b')
  for file in (PACKAGE / room).rglob('*.py'):
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
      if isinstance(node, ast.Constant) and isinstance(node.value, str):
        assert not named.search(node.value), f'{file}, line {node.lineno}: {node.value}'


def test_nothing_imports_a_program():
  """Of the package and what comes with it; a module beside the rooms that reads flags is one."""
  reads_flags = {file.stem for file in PACKAGE.glob('*.py') if 'absl.flags' in set(_imports(file))}
  programs = {f'nfnets_augmult.{name}' for name in reads_flags - {'command_line'}}
  assert programs == {
    f'nfnets_augmult.{name}'
    for name in ('train', 'evaluate', 'predict', 'export', 'convert', 'index')
  }
  for folder in (PACKAGE, BENCHMARKS, PACKAGE.parent / 'experiments', PACKAGE.parent / 'docs'):
    for file in folder.rglob('*.py'):
      names = set(_imports(file))
      assert not names & programs, file
      assert not [name for name in names if '__main__' in name.split('.')], file


def test_the_benchmarks_are_not_part_of_the_package(monkeypatch):
  """Nothing of it imports them, and they are not installed; their libraries read no flags."""
  for file in PACKAGE.rglob('*.py'):
    assert not [name for name in _imports(file) if name.split('.')[0] == 'benchmarks'], file
  installed = []
  monkeypatch.chdir(PACKAGE.parent)
  monkeypatch.setattr(setuptools, 'setup', lambda packages, **_: installed.extend(packages))
  runpy.run_path('setup.py')
  assert {name.split('.')[0] for name in installed} == {'nfnets_augmult'}
  programs = {file.name for file in BENCHMARKS.glob('*.py') if 'absl.flags' in _imports(file)}
  assert programs == {
    f'{name}.py'
    for name in (
      *('input', 'step', 'step_vs_timm', 'device_input', 'device_augmentation'),
      *('memory', 'pod', 'accelerator'),
    )
  }


def _imported_by(statement):
  code = f'import sys; {statement}; print(*sys.modules)'
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
  )
  return set(done.stdout.split())


def test_the_package_imports_nothing_heavy():
  assert not {'jax', 'numpy', 'tensorflow', 'matplotlib'} & _imported_by('import nfnets_augmult')


def test_all_but_the_input_imports_without_tensorflow():
  """Models, optimiser, step, loop, checkpoints, the programs and two of the benchmarks."""
  modules = _imported_by(
    'import nfnets_augmult.models, nfnets_augmult.optim.sgd, nfnets_augmult.training.loop, '
    'nfnets_augmult.training.step, nfnets_augmult.training.checkpoints, '
    'nfnets_augmult.runs.training, nfnets_augmult.sweep.running, '
    'nfnets_augmult.train, nfnets_augmult.evaluate, nfnets_augmult.export, '
    'nfnets_augmult.predict, '
    'benchmarks.step, benchmarks.device_input, benchmarks.accelerator, '
    'benchmarks.accelerator_parts, benchmarks.timm_comparison, benchmarks.step_vs_timm'
  )
  heavy = {'tensorflow', 'tensorflow_datasets', 'sklearn', 'matplotlib', 'bokeh', 'jinja2'}
  heavy |= {'scipy.optimize', 'scipy.special', 'scipy.stats'}
  assert not heavy & modules
