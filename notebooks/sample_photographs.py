"""Small folders of photographs for the notebook on fine-tuning: pieces of three photographs.

Two come with scikit-learn, one with Matplotlib; nothing is downloaded.
"""

import pathlib
from typing import NamedTuple

import numpy as np
from matplotlib import cbook
from PIL import Image
from sklearn import datasets

Box = tuple[int, int, int, int]
_SIDE = 72  # pixels of a piece


class _Class(NamedTuple):
  """The photograph that shows a class, and the boxes that pieces are cut from.

  Boxes are left, top, right and bottom in pixels; those of training and test do not overlap.
  """

  photograph: str
  train: Box
  test: Box


SETS: dict[str, dict[str, _Class]] = {
  'portrait': {
    'background': _Class('grace_hopper.jpg', (400, 0, 512, 170), (400, 180, 512, 330)),
    'face': _Class('grace_hopper.jpg', (190, 130, 285, 310), (285, 130, 375, 310)),
    'flag': _Class('grace_hopper.jpg', (0, 0, 140, 180), (0, 190, 130, 330)),
    'hat': _Class('grace_hopper.jpg', (150, 30, 260, 130), (262, 30, 370, 130)),
    'uniform': _Class('grace_hopper.jpg', (60, 390, 210, 600), (310, 390, 490, 600)),
  },
  'garden': {
    'leaves': _Class('flower.jpg', (0, 0, 160, 427), (450, 0, 640, 427)),
    'pagoda': _Class('china.jpg', (80, 120, 210, 340), (220, 120, 340, 330)),
    'petals': _Class('flower.jpg', (215, 130, 305, 310), (308, 130, 398, 310)),
    'sky': _Class('china.jpg', (350, 0, 640, 130), (0, 0, 95, 130)),
    'trees': _Class('china.jpg', (0, 350, 270, 427), (350, 335, 640, 427)),
  },
}


def write(folder: str, name: str, *, train_images: int, test_images: int, seed: int = 0) -> None:
  """Writes a folder of photographs, `train/CLASS/` and `test/CLASS/`, as PNG of 72 pixels a side.

  Args:
    folder: to write to.
    name: a name of `SETS`.
    train_images: of each class.
    test_images: of each class.
    seed: of the places that pieces are cut from.
  """
  random = np.random.default_rng(seed)
  for label, where in SETS[name].items():
    photograph = _read(where.photograph)
    for split, box, count in (
      ('train', where.train, train_images),
      ('test', where.test, test_images),
    ):
      target = pathlib.Path(folder, split, label)
      target.mkdir(parents=True, exist_ok=True)
      for number in range(count):
        left = int(random.integers(box[0], box[2] - _SIDE, endpoint=True))
        top = int(random.integers(box[1], box[3] - _SIDE, endpoint=True))
        piece = photograph.crop((left, top, left + _SIDE, top + _SIDE))
        piece.save(target / f'{number:03}.png')


def _read(name: str) -> Image.Image:
  if name == 'grace_hopper.jpg':
    with cbook.get_sample_data(name) as file:
      return Image.open(file).convert('RGB')
  return Image.fromarray(datasets.load_sample_image(name))
