"""Predicting the classes of images with a network, however it is given."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from nfnets_augmult.data import quiet_tensorflow
from nfnets_augmult.data.image_formats import DecodeError
from nfnets_augmult.data.multiplicity import MAX_AUGMULT
from nfnets_augmult.ops import addressed_random
from nfnets_augmult.ops.checks import check_int
from nfnets_augmult.runs.preprocessing import ImageLike, Preprocessing
from nfnets_augmult.training import devices
from nfnets_augmult.weights import param_files


class Predictions(NamedTuple):
  """Of N images the probabilities of K classes.

  Attributes:
    class_names: K names, in the order of the probabilities.
    probabilities: float32 `[N, K]`; nan for an image that cannot be read.
    errors: N texts: why an image cannot be read; '' for the others.
  """

  class_names: tuple[str, ...]
  probabilities: np.ndarray
  errors: tuple[str, ...]

  def top(self, k: int = 1) -> list[list[tuple[str, float]]]:
    """Returns the k most probable classes of each image, as (name, probability).

    The list of an image that cannot be read is empty. Of equal ones the first label comes first.
    """
    order = np.argsort(-self.probabilities, axis=-1, kind='stable')[:, :k]
    return [
      [] if error else [(self.class_names[label], float(row[label])) for label in labels]
      for row, labels, error in zip(self.probabilities, order, self.errors, strict=True)
    ]


class Predictor:
  """Predicts the classes of images; made by `load_predictor`.

  An image is decoded, cropped, scaled and normalized as in the evaluation of the run. Where that
  had arrays of one size, as `digits` and CIFAR, an image of another size is cut to the largest
  centred part of their shape and scaled by Pillow's bicubic filter, and is made grey if they are.

  Attributes:
    class_names: in the order of the probabilities.
    image_shape: height, width and channels that the network gets.
    batch_size: images per batch; the last one is filled up, so that one program is compiled.
    description: of the parameters, for people.
  """

  def __init__(
    self,
    network: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    *,
    class_names: Sequence[str],
    preprocessing: Preprocessing,
    facts: Mapping[str, Any],
    description: str,
    batch_size: int,
  ):
    """See `load_predictor`.

    Args:
      network: from parameters and images uint8 `[B, H, W, C]` to probabilities float32 `[B, K]`.
      params: of the network.
      class_names: K names.
      preprocessing: of the images.
      facts: what predictions follow from besides parameters, preprocessing and classes, as JSON
        values.
      description: of the parameters.
      batch_size: images per batch, rounded up to a multiple of the local devices.
    """
    check_int('batch_size', batch_size, least=1)
    self.class_names = tuple(class_names)
    self.description = description
    self.image_shape = preprocessing.image_shape
    num_devices = jax.local_device_count()
    self.batch_size = -(-batch_size // num_devices) * num_devices
    self._preprocessing = preprocessing
    self._facts = {
      'parameters': _digest(params),
      **facts,
      'image_shape': list(preprocessing.image_shape),
      'test_options': dataclasses.asdict(preprocessing.options),
      'evaluation_crop': dataclasses.asdict(preprocessing.crop),
      'class_names': list(class_names),
    }
    self._params = devices.replicate(params)
    self._network = devices.on_each_device(network)
    if preprocessing.needs_tensorflow:
      quiet_tensorflow.import_quietly()

  def __call__(
    self, images: Sequence[ImageLike] | np.ndarray, *, copies: int = 0, seed: int = 0
  ) -> Predictions:
    """Returns the predictions for some images.

    Args:
      images: paths, images of Pillow, and arrays uint8 `[H, W, 3]`, or one array `[N, H, W, 3]`; of
        grey images also without the last axis or with 1.
      copies: n; 0 predicts the centre of each image, as the evaluation does. Above 0, the
        probabilities are the mean over n copies, augmented as in training but for Mixup and CutMix.
      seed: of the augmentation, which depends on it, on the content of the image and on the number
        of the copy, and on nothing else.

    Raises:
      ValueError: an array is no image, a number is out of range, or the augmentation that copies
        need is not known.
    """
    batches = list(self.stream(images, copies=copies, seed=seed))
    return Predictions(
      self.class_names,
      np.concatenate(
        [np.zeros((0, len(self.class_names)), np.float32)] + [b.probabilities for b in batches]
      ),
      tuple(error for batch in batches for error in batch.errors),
    )

  def stream(
    self, images: Sequence[ImageLike] | np.ndarray, *, copies: int = 0, seed: int = 0
  ) -> Iterator[Predictions]:
    """Yields the predictions of one batch after the other, while the next ones are read.

    The arguments are those of `__call__`.
    """
    self._check_copies(copies)
    images = _as_sequence(images)
    if copies and self._preprocessing.copies_need_tensorflow:
      quiet_tensorflow.import_quietly()
    key = addressed_random.key_for(seed, 'copies to predict')
    starts = iter(range(0, len(images), self.batch_size))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
      reading = collections.deque()

      def read_next() -> None:
        for start in starts:
          batch = images[start : start + self.batch_size]
          reading.append([pool.submit(self._read, image, copies, key) for image in batch])
          return

      try:
        read_next()
        read_next()
        while reading:
          shown, errors = zip(*(image.result() for image in reading.popleft()), strict=True)
          read_next()
          yield self._predict(shown, errors)
      finally:
        pool.shutdown(cancel_futures=True)

  def shown(self, image: ImageLike) -> np.ndarray:
    """Returns what the network gets of an image, uint8 `[H, W, C]`.

    Raises:
      DecodeError: it cannot be read.
    """
    return self._preprocessing.centre(self._preprocessing.content(image))

  def facts(self, *, copies: int, seed: int) -> dict[str, Any]:
    """Returns what predictions follow from besides the images, as JSON values.

    Raises:
      ValueError: see `__call__`.
    """
    self._check_copies(copies)
    facts = {**self._facts, 'copies': copies}
    if copies:
      augmentation = dataclasses.asdict(self._preprocessing.augmentation)
      facts |= {'seed': seed, 'augmentation': augmentation}
      facts['train_shape'] = list(self._preprocessing.train_shape)
    return facts

  def _check_copies(self, copies: int) -> None:
    check_int('copies', copies, most=MAX_AUGMULT)
    if copies and self._preprocessing.augmentation is None:
      raise ValueError(
        f'copies={copies}: {self.description} has neither the augmentation of the training nor the '
        'network at the size of its images: predict with the run, or with a .npz exported from it'
      )

  def _read(
    self, image: ImageLike, copies: int, key: tuple[np.ndarray, ...]
  ) -> tuple[np.ndarray | None, str]:
    """What the network gets of an image, uint8 `[n, H, W, C]`, or None; and why not, or ''."""
    try:
      content = self._preprocessing.content(image)
      if not copies:
        return self._preprocessing.centre(content)[np.newaxis], ''
      return self._preprocessing.copies(content, _seeds_of_copies(key, content, copies)), ''
    except DecodeError as error:
      return None, str(error)

  def _predict(self, shown: Sequence[np.ndarray | None], errors: tuple[str, ...]) -> Predictions:
    """The predictions of a batch, from the copies of its images."""
    is_good = np.array([copies is not None for copies in shown])
    probabilities = np.full((len(shown), len(self.class_names)), np.nan, np.float32)
    if is_good.any():
      good = np.stack([copies for copies in shown if copies is not None], axis=1)
      padded = np.zeros((len(good), self.batch_size, *good.shape[2:]), np.uint8)
      padded[:, : good.shape[1]] = good
      num_devices = jax.local_device_count()
      total = 0.0
      for images in padded.reshape(len(good), num_devices, -1, *good.shape[2:]):
        result = self._network(self._params, devices.place(images))
        total = total + np.asarray(result, np.float64)
      mean = (total / len(good)).reshape(self.batch_size, -1)
      probabilities[is_good] = mean[: good.shape[1]]
    return Predictions(self.class_names, probabilities, errors)


def _as_sequence(images: Any) -> Sequence[ImageLike]:
  """The images that are given as one array, or a single one, as a sequence."""
  if isinstance(images, np.ndarray):
    is_one = images.ndim == 2 or (images.ndim == 3 and images.shape[-1] in (1, 3))
    return images[np.newaxis] if is_one else images
  return [images] if isinstance(images, str | bytes | os.PathLike | Image.Image) else images


def _digest(params: Any) -> str:
  digest = hashlib.sha256()
  for name, array in sorted(param_files.flatten(params).items()):
    digest.update(f'{name} {array.shape} {array.dtype}\0'.encode())
    digest.update(np.ascontiguousarray(array))
  return digest.hexdigest()[:16]


def _seeds_of_copies(
  key: tuple[np.ndarray, ...], image: bytes | np.ndarray, copies: int
) -> np.ndarray:
  """Seeds uint32 `[copies, 2]`: of the key, the content of the image, and the copy."""
  content = image if isinstance(image, bytes) else f'{image.shape}'.encode() + image.tobytes()
  words = np.frombuffer(hashlib.sha256(content).digest()[:8], '<u4').astype(np.uint32)
  of_image = addressed_random.threefry2x32(key, (words[:1], words[1:]))
  number = np.arange(copies, dtype=np.uint32)
  return np.stack(addressed_random.threefry2x32(of_image, (number * 0, number)), axis=-1)
