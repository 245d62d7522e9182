"""Predicting the classes of images with the network of a run, or with a parameter file."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from absl import logging
from PIL import Image, ImageOps

from nfnets_augmult import configs
from nfnets_augmult.data import pillow_images, quiet_tensorflow
from nfnets_augmult.data.image_formats import DecodeError
from nfnets_augmult.data.multiplicity import MAX_AUGMULT
from nfnets_augmult.ops import addressed_random
from nfnets_augmult.ops.checks import check_choice, check_int
from nfnets_augmult.runs import images as images_lib
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import devices
from nfnets_augmult.weights import param_files, pretrained

PARAMETERS = ('averaged', 'last')

# A file, an image that Pillow has opened, or pixels uint8 [H, W, 3]; of grey ones also [H, W].
ImageLike = str | bytes | os.PathLike | Image.Image | np.ndarray


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

  def __init__(self, run: Run, params: Any, description: str, batch_size: int):
    """See `load_predictor`.

    Args:
      run: with data of no images.
      params: of its network.
      description: of the parameters.
      batch_size: images per batch, rounded up to a multiple of the local devices.
    """
    check_int('batch_size', batch_size, least=1)
    data, dataset = run.data, run.settings.dataset
    self.class_names = data.train.class_names
    self.description = description
    self._is_of_arrays = images_lib.is_of_arrays(data.normalization)
    size = dataset.test_options.image_size
    self.image_shape = data.image_shape if self._is_of_arrays else (size, size, 3)
    num_devices = jax.local_device_count()
    self.batch_size = -(-batch_size // num_devices) * num_devices
    self._augmentation, self._dataset = run.settings.augmentation, dataset
    self._train_shape = data.image_shape
    self._digest = _digest(params)
    self._facts = {
      'compute_dtype': run.settings.compute_dtype,
      'normalization': [list(values) for values in data.normalization],
      'image_shape': list(self.image_shape),
      'test_options': dataclasses.asdict(dataset.test_options),
      'evaluation_crop': dataclasses.asdict(dataset.evaluation_crop),
      'class_names': list(self.class_names),
    }
    # Whether the copies of an image are made without TensorFlow.
    self._is_cut_with_numpy = (
      self._is_of_arrays
      and self._augmentation.crop.cut is not None
      and not self._augmentation.randaugment.layers
    )
    self._params = devices.replicate(params)
    self._has_said_scaled = False

    def probabilities(params: Any, images: jax.Array) -> jax.Array:
      return jax.nn.softmax(run.network.classifier(params, None, images, is_training=False))

    self._probabilities = devices.on_each_device(probabilities)
    if not self._is_of_arrays:
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
      ValueError: an array is no image, or a number is out of range.
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
    check_int('copies', copies, most=MAX_AUGMULT)
    images = _as_sequence(images)
    if copies and not self._is_cut_with_numpy:
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
    return self._copies(image, 0, ())[0]

  def facts(self, *, copies: int, seed: int) -> dict[str, Any]:
    """Returns what predictions follow from besides the images, as JSON values."""
    facts = {'parameters': self._digest, **self._facts, 'copies': copies}
    if copies:
      facts |= {'seed': seed, 'augmentation': dataclasses.asdict(self._augmentation)}
      facts['train_shape'] = list(self._train_shape)
    return facts

  def _read(
    self, image: ImageLike, copies: int, key: tuple[np.ndarray, ...]
  ) -> tuple[np.ndarray | None, str]:
    """What the network gets of an image, uint8 `[n, H, W, C]`, or None; and why not, or ''."""
    try:
      return self._copies(image, copies, key), ''
    except DecodeError as error:
      return None, str(error)

  def _copies(self, image: ImageLike, copies: int, key: tuple[np.ndarray, ...]) -> np.ndarray:
    options, shape = self._dataset.test_options, self._train_shape
    encoded_or_pixels = self._content(image)
    if copies:
      seeds = _seeds_of_copies(key, encoded_or_pixels, copies)
    if self._is_of_arrays:
      pixels = self._fitted(encoded_or_pixels)
      if not copies:
        return pixels[np.newaxis]
      if self._is_cut_with_numpy:
        crop = self._augmentation.crop
        return crop.cut(pixels[np.newaxis], np.zeros(copies, np.int64), crop.draw(seeds))
      encoded_or_pixels = pixels
    from nfnets_augmult.data import single_images

    if not copies:
      centre = single_images.centre(encoded_or_pixels, self._dataset.evaluation_crop, options)
      return centre[np.newaxis]
    return single_images.augmented_copies(
      encoded_or_pixels, seeds, self._augmentation, size=shape[0], options=options
    )

  @property
  def _mode(self) -> str:
    """Pillow's name for the kind of images that the network gets."""
    return 'L' if self.image_shape[-1] == 1 else 'RGB'

  def _content(self, image: ImageLike) -> bytes | np.ndarray:
    """The contents of a file, or pixels uint8 `[H, W, C]`."""
    if isinstance(image, Image.Image):
      return pillow_images.to_array(image, self._dataset.test_options.rules, mode=self._mode)
    if isinstance(image, np.ndarray):
      return self._checked(image)
    try:
      with open(image, 'rb') as file:
        return file.read()
    except OSError as error:
      raise DecodeError(f'it cannot be read: {error.strerror}') from error

  def _checked(self, image: np.ndarray) -> np.ndarray:
    """An array that is an image, with as many channels as the network gets."""
    pixels = image if image.ndim == 3 else image[..., np.newaxis]
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or pixels.shape[-1] not in (1, 3):
      raise ValueError(
        f'an array of the type {image.dtype} and the shape {image.shape} is no image: give uint8 '
        '[height, width, 3], or [height, width] if it is grey'
      )
    if not pixels.size:
      raise DecodeError('it has no pixels')
    if pixels.shape[-1] == self.image_shape[-1]:
      return pixels
    plain = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return np.asarray(plain.convert(self._mode)).reshape(*pixels.shape[:2], -1)

  def _fitted(self, image: bytes | np.ndarray) -> np.ndarray:
    """An image in the shape of the arrays that the network was trained with."""
    if isinstance(image, bytes):
      image = pillow_images.decode(image, self._dataset.test_options.rules, mode=self._mode)
    height, width, channels = self.image_shape
    if image.shape[:2] == (height, width):
      return np.ascontiguousarray(image)
    if not self._has_said_scaled:
      self._has_said_scaled = True
      logging.warning(
        'the network is for images of %d x %d pixels; of those of another size, as of %d x %d, the '
        'largest centred part of that shape is scaled to it',
        *(width, height, *image.shape[1::-1]),
      )
    plain = Image.fromarray(np.ascontiguousarray(image[..., 0] if channels == 1 else image))
    fitted = ImageOps.fit(plain, (width, height), Image.Resampling.BICUBIC)
    return np.asarray(fitted).reshape(self.image_shape)

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
        result = self._probabilities(self._params, devices.place(images))
        total = total + np.asarray(result, np.float64)
      mean = (total / len(good)).reshape(self.batch_size, -1)
      probabilities[is_good] = mean[: good.shape[1]]
    return Predictions(self.class_names, probabilities, errors)


def load_predictor(
  workdir: str = '',
  *,
  params: str = '',
  checkpoint: str = 'latest',
  parameters: str = 'averaged',
  config: ml_collections.ConfigDict | None = None,
  class_names: Sequence[str] = (),
  batch_size: int = 32,
) -> Predictor:
  """Returns what predicts the classes of images, from a run or from a parameter file.

  Args:
    workdir: of a run, finished or still training; or
    params: path of a parameter file. One that `export` has written says all that is needed.
    checkpoint: of the run: `'latest'`, `'best'`, or the number of a step.
    parameters: of the run: `'averaged'`, as `export` writes them, or `'last'`.
    config: of the run that a parameter file is of, if the file does not say it.
    class_names: in the order of the labels, if the file does not say them.
    batch_size: images per batch; predictions do not depend on it. A smaller number of images is
      filled up to it.

  Raises:
    ValueError: not exactly one of `workdir` and `params`, no run there, or a file that cannot be
      read, does not say what is needed or is of another network.
    CheckpointError: no such checkpoint.

  Example:
    >>> from nfnets_augmult import load_predictor
    >>> predictor = load_predictor('runs/photos')  # doctest: +SKIP
    >>> predictor(['a.jpg', 'b.png'], copies=16).top(2)  # doctest: +SKIP
    [[('cat', 0.98), ('dog', 0.01)], [('dog', 0.73), ('cat', 0.25)]]
  """
  check_choice('parameters', parameters, PARAMETERS)
  if bool(workdir) == bool(params):
    raise ValueError('say what predicts: workdir=DIR of a run, or params=FILE')
  if params:
    if (checkpoint, parameters) != ('latest', 'averaged'):
      raise ValueError(
        f'checkpoint={checkpoint!r} and parameters={parameters!r} are of a run, and params='
        f'{params!r} is a file, which holds one set of parameters'
      )
    return _from_file(params, config, class_names, batch_size)
  if config is not None or class_names:
    raise ValueError('config= and class_names= go with params=FILE: a run has its own')
  run = Run.open(workdir).without_images()
  state = run.restore(checkpoint)
  values = state.params if parameters == 'last' else state.ema_params
  description = f'{workdir}, step {int(state.step):,}, {parameters} parameters'
  return Predictor(run, values, description, batch_size)


def _from_file(
  path: str,
  config: ml_collections.ConfigDict | None,
  class_names: Sequence[str],
  batch_size: int,
) -> Predictor:
  loaded, said = param_files.read_params(path), param_files.read_metadata(path)
  if config is None:
    if 'config' not in said:
      raise ValueError(
        f'{path} does not say which network it is of and how images are read: give '
        'config=CONFIG, that of its training'
      )
    try:
      config = configs.from_flat(said['config'])
      configs.check_keys(config)
    except ValueError as error:
      raise ValueError(f'{path} holds a config that cannot be used: {error}') from error
  class_names = class_names or said.get('class_names', ())
  if not class_names:
    raise ValueError(
      f'{path} does not say the names of its classes: give class_names=NAMES in the order of the '
      'labels (on the command line, a file with one per line)'
    )
  run = Run(config)
  if 'normalization' not in said:
    if not run.settings.dataset.train_options.image_size:
      raise ValueError(
        f'{path} does not say the size and the statistics of the images that it was trained with: '
        'export it again from its run, or predict with workdir=DIR'
      )
    said |= images_lib.recorded_of_encoded(run.settings.dataset.train_options.image_size)
  run.data = images_lib.data_without_images(class_names, said)
  shapes = jax.eval_shape(run.network.initial_state).params
  try:
    values, report = pretrained.load_pretrained(shapes, loaded)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  if report.kept_fresh:
    raise ValueError(
      f'{path} is not of a network for {len(class_names):,} classes: the names of its classes '
      'are needed, all of them'
    )
  return Predictor(run, values, path, batch_size)


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
