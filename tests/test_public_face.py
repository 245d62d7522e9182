"""The names that the package offers to other code: they work as documented, and cost no more."""

import doctest
import pathlib
import re
import subprocess
import sys

import pytest

import nfnets_augmult

PAGE = pathlib.Path(__file__).parent.parent / 'docs' / 'library.md'
WITH_TENSORFLOW = {'apply_randaugment', 'mix_pair'}


@pytest.mark.parametrize('name', nfnets_augmult.__all__)
def test_the_example_of_each_name(name):
  public = getattr(nfnets_augmult, name)
  found = doctest.DocTestFinder(recurse=False).find(public, name, globs={})
  assert sum(len(test.examples) for test in found)
  runner = doctest.DocTestRunner()
  output = []
  for test in found:
    assert name in ''.join(example.source for example in test.examples)
    runner.run(test, out=output.append)
  assert not runner.failures, ''.join(output)


def test_the_names_are_listed_before_they_are_used():
  assert set(nfnets_augmult.__all__) <= set(dir(nfnets_augmult))
  assert {'__version__', '__doc__'} <= set(dir(nfnets_augmult))


def test_another_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match=r"'nfnets_augmult' has no attribute 'sdg'"):
    nfnets_augmult.sdg  # noqa: B018


def test_the_page_has_a_row_for_every_name_and_no_other():
  rows = re.findall(r'^\| (`.*?) \|', PAGE.read_text(encoding='utf-8'), re.MULTILINE)
  names = [name for row in rows for name in re.findall(r'`(\w+)`', row)]
  assert sorted(names) == sorted(nfnets_augmult.__all__)


def _printed_by(code):
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  return done.stdout.split()


def test_all_but_two_names_do_without_tensorflow():
  """Also: importing the package imports nothing that these names need."""
  modules = _printed_by(
    'import sys, nfnets_augmult as face\n'
    "assert not {'jax', 'numpy', 'tensorflow'} & set(sys.modules)\n"
    f'for name in set(face.__all__) - {WITH_TENSORFLOW}: getattr(face, name)\n'
    'print(*sys.modules)'
  )
  assert 'jax' in modules
  assert not {'tensorflow', 'tensorflow_datasets', 'sklearn', 'matplotlib'} & set(modules)


def test_the_batch_arithmetic_does_without_jax():
  """So that input pipelines can use the slots and the random draws without JAX."""
  modules = _printed_by(
    'import sys, nfnets_augmult as face\n'
    'face.Multiplicity(num_images=4, unique_images_per_batch=2, augmult=2, seed=0).slots(0)\n'
    'face.crop_and_flip, face.inception_boxes, face.draw_randaugment, face.mix_slots\n'
    'print(*sys.modules)'
  )
  assert 'jax' not in modules
