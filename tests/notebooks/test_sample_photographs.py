"""The folders of photographs for the notebook on fine-tuning."""

import numpy as np
import pytest
from PIL import Image

from notebooks import sample_photographs


@pytest.mark.parametrize('name', sample_photographs.SETS)
def test_pieces_of_training_and_test_do_not_overlap(name, tmp_path):
  sample_photographs.write(str(tmp_path), name, train_images=2, test_images=3)
  for label, where in sample_photographs.SETS[name].items():
    (a, b, c, d), (e, f, g, h) = where.train, where.test
    assert min(c, g) <= max(a, e) or min(d, h) <= max(b, f), label
    for split, count in (('train', 2), ('test', 3)):
      paths = sorted((tmp_path / split / label).iterdir())
      assert len(paths) == count
      assert {Image.open(path).size for path in paths} == {(72, 72)}


def test_pieces_follow_from_the_seed(tmp_path):
  def pixels(folder, seed):
    sample_photographs.write(
      str(tmp_path / folder), 'garden', train_images=1, test_images=1, seed=seed
    )
    return np.asarray(Image.open(tmp_path / folder / 'train' / 'pagoda' / '000.png'))

  first = pixels('a', 0)
  np.testing.assert_array_equal(first, pixels('b', 0))
  assert (first != pixels('c', 1)).any()
