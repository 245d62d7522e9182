"""Measures the variance of the gradient of a run, at a checkpoint or at initialization."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from nfnets_augmult import configs
from nfnets_augmult.data.mixing import Mixing
from nfnets_augmult.data.multiplicity import MAX_AUGMULT, Multiplicity
from nfnets_augmult.data.sources import BadDataError
from nfnets_augmult.ops import addressed_random, checks
from nfnets_augmult.runs import network
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import records
from nfnets_augmult.variance import gradient_variance, report, screening

# Blocks of mini-batches; the intervals follow from how much the variances of the blocks differ.
_MINIBATCH_BLOCKS = 8
_SECONDS_BETWEEN_REPORTS = 5.0
# By default the outputs of all images are looked at in data sets up to this size; in larger ones
# those of so many for each image whose gradient is taken.
_ALL_IMAGES = 2048
_SCREENED_PER_DRAW = 16
_IMAGES_PER_BATCH = 64  # whose outputs are taken at once
# Equal copies of an image, whose outputs differ if the network is random.
_COPIES_TO_COMPARE = 32


def measure(
  run: Run,
  *,
  checkpoint: str = 'latest',
  blocks: int = 16,
  images_per_block: int = 16,
  screened_images: int = 0,
  copies: int = 4,
  augmults: Sequence[int] = (1, 2, 4, 8, 16),
  minibatches: int = 0,
) -> report.Raw:
  """Returns the raw numbers of `variance.json`: settings, and variances by block and layer.

  Args:
    run: its data set, augmentation, batch sizes, model and seed, and its checkpoints.
    checkpoint: `'latest'`, `'best'`, the number of a step, or `'initialization'`.
    blocks: R, number of independent estimates, at least 2.
    images_per_block: k, how many images are drawn for each block, at least 2.
    screened_images: S, images whose outputs are looked at for each block, from `images_per_block`
      to all; see `screening`. 0: all of up to 2,048 images, else 16 for each that is drawn.
    copies: augmented copies of each image, at least 2.
    augmults: values of n.
    minibatches: how many mini-batches the variance is measured between for each n and scheme, at
      least 16; 0 for none.

  Raises:
    ValueError: samples are mixtures, classes are balanced, or the data set is too small for the
      numbers, or these allow no estimate.
    CheckpointError: there is no such checkpoint, or it is of another model.
    BadDataError: an image does not decode.
  """
  _check_augmentation(run.settings.augmentation.mixing)
  _check_numbers(blocks, images_per_block, copies, augmults, minibatches)
  if run.settings.dataset.balance != 'none':
    raise ValueError(
      f'dataset.balance={run.settings.dataset.balance!r}: the variance is measured of images that '
      "are all drawn equally often; say dataset.balance='none'"
    )
  source = run.data.train
  if checkpoint != 'initialization' and run.recorded_data:
    run = run.with_images(source)
  num_images = source.num_images
  if 2 * images_per_block > num_images:
    raise ValueError(
      f'images_per_block={images_per_block} must be at most half of the {num_images} images of '
      f'{source.description}'
    )
  screened = screened_images or (
    num_images
    if num_images <= _ALL_IMAGES
    else min(_SCREENED_PER_DRAW * images_per_block, num_images)
  )
  checks.check_int('screened_images', screened, least=images_per_block, most=num_images)
  sizes = run.plan.multiplicity
  if minibatches:
    for n in augmults:  # a batch that cannot be drawn is an error before the first measurement
      Multiplicity(num_images, sizes.unique_images_per_batch, n, sizes.seed)
  params, step = _load_params(run, checkpoint)
  gradients = _Gradients(run, params)
  start = time.monotonic()
  seed = gradients.seed('gradient variance')
  unique_images = min(_IMAGES_PER_BATCH, num_images // 2)
  count = math.ceil(blocks * screened / unique_images)
  drawn = screening.blocks(
    gradients.score(seed),
    gradients.batches(seed, unique_images=unique_images, augmult=copies, count=count),
    count=blocks,
    screened=screened,
    draws=images_per_block,
    copies=copies,
    seed=seed,
  )
  image, augmentation, squared_norm = gradient_variance.image_and_augmentation_variance(
    gradients.gradient, gradients.params, drawn, key=jax.random.PRNGKey(seed)
  )
  raw = {
    'config': configs.flatten(run.config),
    'checkpoint': checkpoint,
    'step': step,
    'num_images': num_images,
    'unique_images_per_batch': sizes.unique_images_per_batch,
    'batch_size': sizes.batch_size,
    'augmults': list(augmults),
    'images_per_block': images_per_block,
    'screened_images': screened,
    'copies': copies,
    'network_draws': gradients.network_draws(),
    'layers': gradient_variance.layer_names(gradients.params),
    'layer_sizes': gradient_variance.layer_sizes(gradients.params).tolist(),
    'image': image.tolist(),
    'augmentation': augmentation.tolist(),
    'squared_gradient_norm': squared_norm,
    'minibatches': [],
    'versions': records.versions(),
  }
  if minibatches:
    raw['minibatches'] = _measure_minibatches(gradients, report.compared(raw), minibatches)
  return {**raw, 'seconds': time.monotonic() - start}


def _check_augmentation(mixing: Mixing) -> None:
  """Raises ValueError if samples are mixtures: they belong to no image alone."""
  if mixing.is_on:
    raise ValueError(
      f'augmentation.mixup.share={mixing.mixup:g} and augmentation.cutmix.share={mixing.cutmix:g}: '
      'a mixed sample depends on two images, so the variance does not split into that over images '
      'and that over augmentations; give a --config and set both keys to 0'
    )


def _check_numbers(
  blocks: int, images_per_block: int, copies: int, augmults: Sequence[int], minibatches: int
) -> None:
  """Raises ValueError for a number that allows no estimate."""
  checks.check_int('blocks', blocks, least=2)
  checks.check_int('images_per_block', images_per_block, least=2)
  checks.check_int('copies', copies, least=2, most=MAX_AUGMULT)
  if not augmults:
    raise ValueError('augmults=() must be whole numbers')
  for n in augmults:
    checks.check_int('augmults', n, least=1, most=MAX_AUGMULT)
  checks.check_int('minibatches', minibatches)
  if minibatches and minibatches < 2 * _MINIBATCH_BLOCKS:
    raise ValueError(
      f'minibatches={minibatches} must be 0, for none, or at least {2 * _MINIBATCH_BLOCKS}'
    )


def _load_params(run: Run, checkpoint: str) -> tuple[Any, int]:
  """The raw parameters of a checkpoint, and its step."""
  if checkpoint == 'initialization':
    return network.first_state(run.network, run.parameters_key, run.initial_params)[0].params, 0
  state = run.restore(checkpoint)
  return state.params, int(state.step)


@dataclasses.dataclass(frozen=True)
class _Gradients:
  """The gradients of a run at some parameters."""

  run: Run
  params: Any

  @functools.cached_property
  def gradient(self) -> gradient_variance.Gradient:
    """The function that takes it."""
    return gradient_variance.make_gradient(
      self.run.network.classifier,
      label_smoothing=self.run.settings.label_smoothing,
      dropout_masks=self.run.settings.dropout_masks,
    )

  def score(self, seed: int) -> Callable[[dict[str, np.ndarray], int], np.ndarray]:
    """The function that screens a batch, given with its number."""
    score = screening.make_score(
      self.run.network.classifier, label_smoothing=self.run.settings.label_smoothing
    )
    key = jax.random.PRNGKey(addressed_random.key_for(seed, 'network of the outputs')[0][0])
    return lambda batch, number: score(
      self.params, batch['image'], batch['label'], jax.random.fold_in(key, number)
    )

  def seed(self, purpose: str) -> int:
    """A seed for each purpose, so that images and copies differ from those the run began with."""
    return int(addressed_random.key_for(self.run.settings.seed, purpose)[0][0])

  def network_draws(self) -> bool:
    """Whether the network is random in training, by dropout or stochastic depth."""
    multiplicity = Multiplicity(self.run.data.train.num_images, 1, 1, self.run.settings.seed)
    (batch,) = self.run.train_batches(0, 1, multiplicity=multiplicity, hosts=(0, 1))
    images = np.repeat(batch['image'], _COPIES_TO_COMPARE, axis=0)
    first, second = (
      self.run.network.classifier(self.params, jax.random.PRNGKey(key), images, is_training=True)
      for key in (0, 1)
    )
    return bool((first != second).any())

  def batches(
    self, seed: int, *, unique_images: int, augmult: int, count: int
  ) -> Iterator[dict[str, np.ndarray]]:
    """Yields `count` training batches of one epoch, and logs the progress."""
    multiplicity = Multiplicity(self.run.data.train.num_images, unique_images, augmult, seed)
    reported = time.monotonic()
    batches = self.run.train_batches(0, count, multiplicity=multiplicity, hosts=(0, 1))
    for number, batch in enumerate(batches):
      if not batch['mask'].all():
        raise BadDataError('every image must decode here: repair or remove those that do not')
      yield batch
      if time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS or number + 1 == count:
        reported = time.monotonic()
        done = f'batch {number + 1} of {count}'
        logging.info('%d images x %d copies: %s', unique_images, augmult, done)


def _measure_minibatches(
  gradients: _Gradients, compared: Iterable[tuple[str, int, int]], count: int
) -> list[dict[str, Any]]:
  """The variance between `count` mini-batches of each (U, n), by block and layer."""
  measured = []
  # At n = 1 both schemes may have the same batch, which is measured once.
  for unique_images, n in dict.fromkeys((unique_images, n) for _, n, unique_images in compared):
    batch = {'unique_images': unique_images, 'augmult': n}
    seed = gradients.seed(f'mini-batches of {unique_images} images with {n} copies')
    by_block = gradient_variance.minibatch_gradient_variance(
      gradients.gradient,
      gradients.params,
      gradients.batches(seed, **batch, count=count),
      batches_per_block=count // _MINIBATCH_BLOCKS,
      key=jax.random.PRNGKey(seed),
    )
    measured.append({**batch, 'variance': by_block.tolist()})
  return measured
