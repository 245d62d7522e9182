"""A run on images of a table: its keys, its errors, and what is said at its start."""

import logging

import pytest

from nfnets_augmult.data.array_files import array_source
from nfnets_augmult.runs import images, summary
from nfnets_augmult.runs.converting import convert
from nfnets_augmult.runs.run import Run
from tests import real_images
from tests.toy_runs import toy_config

_ROWS = ('a;cat;1', 'b;cat;1', 'c;dog;2', 'd;dog;2', 'e;dog;3', 'f;dog;3', 'g;cat;4', 'h;cow;5')


def _config(folder, **keys):
  for photo, name in zip(real_images.photos(len(_ROWS), 8, 8), 'abcdefgh', strict=True):
    real_images.save(photo, folder / 'photos' / f'{name}.png')
  folder.joinpath('animals.csv').write_text('\n'.join(['what;kind;farm', *_ROWS]))
  return toy_config(
    **{
      'dataset__name': 'csv',
      'dataset__data_dir': str(folder),
      'dataset__test_split': 'test',
      'dataset__image_size': 8,
      'unique_images_per_batch': 2,
      'dataset__csv__path_column': 'what',
      'dataset__csv__label_column': 'kind',
      'dataset__csv__image_dir': 'photos',
      **{f'dataset__csv__{key}': value for key, value in keys.items()},
    }
  )


def test_every_key_reaches_the_table(tmp_path, caplog):
  """Columns, folder, group and fraction; a class without a test image is named."""
  config = _config(tmp_path, group_column='farm', test_fraction=0.4)
  with caplog.at_level(logging.WARNING, logger='absl'):
    run = Run(config)
    assert run.data.train.class_names == ('cat', 'cow', 'dog')
  assert 'csv/test has no image of cow: how well the network knows it' in caplog.text
  farms = dict(row.split(';')[::2] for row in _ROWS)
  train, test = (
    {farms[path.decode()[0]] for path in source.paths} for source in (run.data.train, run.data.test)
  )
  assert test and not train & test
  assert 'cow' in summary.plan_text([run], '').split('classes')[1].splitlines()[0]
  described = images.describe_data(run.data)
  images.check_same_data(run.data, described)


def test_errors_name_keys(tmp_path):
  for keys, message in (
    ({'label_column': 'sort'}, r"^dataset.csv.label_column='sort': .* it has what, kind, farm"),
    ({'image_dir': ''}, r'There is such a file in .*: say dataset.csv.image_dir=photos'),
    ({'test_fraction': 1.5}, r'^dataset.csv.test_fraction=1.5 must be'),
  ):
    with pytest.raises(ValueError, match=message):
      _ = Run(_config(tmp_path, **keys)).data


def test_a_table_becomes_arrays(tmp_path):
  """With the same images and classes."""
  train, test = convert(_config(tmp_path), str(tmp_path / 'arrays'))
  for split, source in (('train', train), ('test', test)):
    read = array_source(split=split, data_dir=str(tmp_path / 'arrays'))
    assert read.class_names == source.class_names
    assert read.labels.tolist() == source.labels.tolist()
  assert train.num_images + test.num_images == 8
