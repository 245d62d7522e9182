"""No recipe changes unnoticed: every experiment is what its file in `golden_configs` says."""

import pytest

from tests import recipe_texts

_TEXTS = dict(recipe_texts.texts())


@pytest.mark.parametrize('name', _TEXTS)
def test_a_recipe_is_what_was_reviewed(name):
  """If it was changed on purpose: `python -m tests.recipe_texts`, and review the difference."""
  golden = (recipe_texts.FOLDER / f'{name}.txt').read_text(encoding='utf-8')
  assert _TEXTS[name].splitlines() == golden.splitlines()


def test_no_file_is_left_over():
  assert {path.stem for path in recipe_texts.FOLDER.iterdir()} == set(_TEXTS)
