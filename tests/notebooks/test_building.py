"""Notebooks equal their sources, and the same source gives the same notebook."""

import ast
import importlib
import importlib.util
import re

import nbclient
import nbformat
import pytest

from notebooks import building

SOURCES = building.sources()
MOST_BYTES = 1_000_000
_SOURCE = """# %% [markdown]
# # A title

# %%
import sys

import numpy as np
from matplotlib.figure import Figure

# %matplotlib inline
print('one')
sys.stdout.flush()
print('two')
print('a warning', file=sys.stderr)

# %%
figure = Figure(figsize=(2, 2))
figure.subplots().plot(np.random.default_rng(0).normal(size=9))
figure

# %%
from PIL import Image

Image.new('RGB', (2, 2))
"""


@pytest.mark.parametrize('source', SOURCES, ids=lambda source: source.stem)
def test_the_notebook_is_its_source_executed(source):
  """Cell by cell: the same text and ids; all code was executed in order, and nothing went wrong."""
  path = source.with_suffix('.ipynb')
  assert path.stat().st_size < MOST_BYTES
  written, expected = nbformat.read(path, as_version=4), building.read(source)
  nbformat.validate(written)
  assert [(c.id, c.cell_type, c.source) for c in written.cells] == [
    (c.id, c.cell_type, c.source) for c in expected.cells
  ]
  assert written.metadata == expected.metadata
  assert all(not cell.metadata for cell in written.cells)
  code = [cell for cell in written.cells if cell.cell_type == 'code']
  assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
  outputs = [output for cell in code for output in cell.outputs]
  assert any('image/png' in output.get('data', {}) for output in outputs)
  assert {output.output_type for output in outputs} <= {'stream', 'display_data', 'execute_result'}
  assert not [output for output in outputs if output.get('name') == 'stderr']


def test_the_first_cells_are_the_same():
  """They install what is missing; only the folder of the runs is that of the notebook."""
  first = {
    re.sub(r"RUNS = 'runs/notebooks/\d'", '', building.read(source).cells[1].source)
    for source in SOURCES
  }
  assert len(first) == 1


@pytest.mark.parametrize('source', SOURCES, ids=lambda source: source.stem)
def test_the_links_lead_somewhere(source):
  for cell in building.read(source).cells:
    for target in (
      re.findall(r'\]\(([^)#]+)\)', cell.source) if cell.cell_type == 'markdown' else ()
    ):
      assert '://' in target or (building.FOLDER / target).exists(), target


def test_the_same_source_gives_the_same_bytes(tmp_path, capsys):
  """What is printed is one output; warnings go to the terminal instead."""
  source = tmp_path / 'source.py'
  source.write_text(_SOURCE, encoding='utf-8')
  first, second = (
    nbformat.writes(building.cleaned(building.execute(building.read(source), tmp_path)))
    for _ in range(2)
  )
  assert first == second
  assert capsys.readouterr().err.count('a warning') == 2
  _, printed, *drawn = nbformat.reads(first, as_version=4).cells
  assert [output.text for output in printed.outputs] == ['one\ntwo\n']
  assert [set(o.data) for cell in drawn for o in cell.outputs] == [{'text/plain', 'image/png'}] * 2


def test_a_new_folder_is_made_and_names_must_fit(tmp_path, monkeypatch, capsys):
  """Before anything is executed, which takes minutes."""
  monkeypatch.setattr(building, 'execute', lambda notebook, folder: notebook)
  building.main([f'--output={tmp_path}/a/b', '3_'])
  assert [path.name for path in (tmp_path / 'a' / 'b').iterdir()] == ['3_gradient_variance.ipynb']
  with pytest.raises(SystemExit):
    building.main([f'--output={tmp_path}/c', '3_', 'variances'])
  assert "no notebook has 'variances' in its name" in capsys.readouterr().err
  assert not (tmp_path / 'c').exists()


def test_an_error_in_a_cell_is_raised(tmp_path):
  source = tmp_path / 'source.py'
  source.write_text('# %%\n1 / 0\n', encoding='utf-8')
  with pytest.raises(nbclient.exceptions.CellExecutionError, match='ZeroDivisionError'):
    building.execute(building.read(source), tmp_path)


def test_pages_and_sources_have_the_address_of_the_repository():
  """As `launch/notebooks.sh` writes it, from the one place that holds it."""
  address = building.repository()
  for page in building.PAGES:
    text = (building.ROOT / page).read_text(encoding='utf-8')
    assert building.with_list(text, page, address) == text
    assert all(source.with_suffix('.ipynb').name in text for source in SOURCES)
  for source in SOURCES:
    text = source.read_text(encoding='utf-8')
    assert building.with_address(text, address) == text


def test_an_address_makes_badges_and_fills_the_first_cells():
  address = 'https://github.com/somebody/something'
  text = building.with_list(
    'a\n<!-- notebooks -->\n<!-- /notebooks -->\nb', 'docs/README.md', address
  )
  name = SOURCES[0].with_suffix('.ipynb').name
  assert f'](../notebooks/{name}): ' in text
  assert f'/github/somebody/something/blob/main/notebooks/{name})' in text
  assert text.startswith('a\n') and text.endswith('\nb')
  assert building.with_list(text, 'docs/README.md', '').count('colab') == 0
  filled = building.with_address(SOURCES[0].read_text(encoding='utf-8'), address)
  assert f"\nREPOSITORY = '{address}'\n" in filled


@pytest.mark.parametrize('source', SOURCES, ids=lambda source: source.stem)
def test_what_a_notebook_imports_is_there(source):
  """Modules and names of this repository."""
  for node in ast.walk(ast.parse(source.read_text(encoding='utf-8'))):
    if isinstance(node, ast.ImportFrom) and node.module.split('.')[0] in (
      *('nfnets_augmult', 'experiments', 'notebooks'),
    ):
      module = importlib.import_module(node.module)
      for alias in node.names:
        is_module = importlib.util.find_spec(node.module).submodule_search_locations and (
          importlib.util.find_spec(f'{node.module}.{alias.name}')
        )
        assert hasattr(module, alias.name) or is_module, f'{node.module} has no {alias.name}'
