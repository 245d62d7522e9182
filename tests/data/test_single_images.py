"""Single images are cropped, scaled and augmented as in batches of them, bit for bit."""

import numpy as np
import pytest
from PIL import Image

from nfnets_augmult.data import pipeline, single_images
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.data.evaluation_crop import EvaluationCrop
from nfnets_augmult.data.folder_source import folder_source
from nfnets_augmult.data.inception_crop import InceptionCrop
from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.data.randaugment import RandAugment
from nfnets_augmult.data.read_options import ReadOptions
from tests import real_images


@pytest.fixture(scope='module', name='source')
def _source(tmp_path_factory):
  """Six photographs of other shapes than squares, one of them rotated, in several formats."""
  folder = tmp_path_factory.mktemp('photos')
  for number, suffix in enumerate(['jpg', 'png', 'webp', 'bmp', 'jpg', 'tif']):
    photo = real_images.photos(2, 90 + 20 * number, 170 - 20 * number)[number % 2]
    path = folder / 'train' / 'ab'[number % 2] / f'{number}.{suffix}'
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo).save(path, **({'exif': exif} if number == 4 else {}))
  return folder_source(split='train', data_dir=str(folder))


@pytest.mark.parametrize(
  ('crop', 'antialias'),
  [(EvaluationCrop('crop_then_resize', 8), False), (EvaluationCrop('resize_then_crop', 5), True)],
)
def test_the_centre_is_that_of_the_evaluation(source, crop, antialias):
  options = ReadOptions(image_size=24, antialias=antialias)
  (batch,) = pipeline.evaluation_batches(source, batch_size=6, crop=crop, read_options=options)
  for index in range(6):
    centre = single_images.centre(source.read(index)[0], crop, options)
    np.testing.assert_array_equal(centre, batch['image'][index])


@pytest.mark.parametrize(('crop', 'layers'), [(CropFlip(pad=3), 0), (InceptionCrop(), 1)])
def test_copies_are_those_of_the_training(source, crop, layers):
  options = ReadOptions(image_size=24)
  augmentation = Augmentation(crop=crop, randaugment=RandAugment(layers=layers))
  multiplicity = Multiplicity(6, 3, 4, 0)
  (batch,) = pipeline.train_batches(
    source,
    multiplicity,
    augmentation=augmentation,
    start_step=0,
    stop_step=1,
    read_options=options,
  )
  for start in (0, 4, 8):
    copies = single_images.augmented_copies(
      source.read(int(batch['image_index'][start]))[0],
      batch['seed'][start : start + 4],
      augmentation,
      size=24,
      options=options,
    )
    np.testing.assert_array_equal(copies, batch['image'][start : start + 4])
