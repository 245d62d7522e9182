"""The notebooks run from top to bottom, in fresh kernels."""

import pytest

from notebooks import building


@pytest.mark.long
@pytest.mark.extended
@pytest.mark.parametrize('source', building.sources(), ids=lambda source: source.stem)
def test_notebook_runs(source, monkeypatch):
  """An error in a cell is raised here. With one device, and programs compiled as for users."""
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  executed = building.execute(building.read(source), building.FOLDER)
  codes = [cell for cell in executed.cells if cell.cell_type == 'code']
  assert [cell.execution_count for cell in codes] == list(range(1, len(codes) + 1))
