"""A few real photographs, cut from the two that scikit-learn brings along."""

import pathlib

import numpy as np
from PIL import Image
from sklearn import datasets


def photos(count: int, height: int, width: int) -> np.ndarray:
  """Returns uint8 `[count, height, width, 3]`, different pieces of two photographs."""
  china, flower = datasets.load_sample_images().images
  random = np.random.default_rng(0)
  pieces = []
  for number in range(count):
    photo = (china, flower)[number % 2]
    top = random.integers(photo.shape[0] - height + 1)
    left = random.integers(photo.shape[1] - width + 1)
    pieces.append(photo[top : top + height, left : left + width])
  return np.stack(pieces)


def save(image: np.ndarray, path: pathlib.Path) -> None:
  """Writes `image` in the format of the suffix, and the folders that it needs."""
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(image).save(path)
