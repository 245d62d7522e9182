"""The settings of a run: its config as checked plain values. Only this module reads config keys.

All that can be checked without data is checked here, before anything compiles.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from nfnets_augmult import configs, models
from nfnets_augmult.data import array_batches
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.class_balance import BALANCES
from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.data.evaluation_crop import EvaluationCrop, default_crop_padding
from nfnets_augmult.data.image_formats import DecodeRules
from nfnets_augmult.data.inception_crop import InceptionCrop
from nfnets_augmult.data.loading import ARRAY_SOURCES
from nfnets_augmult.data.mixing import Mixing
from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.data.randaugment import RandAugment
from nfnets_augmult.data.read_options import ReadOptions
from nfnets_augmult.data.table_source import TableOptions
from nfnets_augmult.ops import checks, paths
from nfnets_augmult.ops.argument_names import renamed
from nfnets_augmult.optim import freezing, schedules, sgd
from nfnets_augmult.training import plan as plan_lib
from nfnets_augmult.training import step as step_lib

# From the arguments that errors of library code name to the config keys of their values.
DATASET_KEYS = {
  **{key: f'dataset.{key}' for key in configs.default_config().dataset},
  **{key: f'dataset.csv.{key}' for key in configs.default_config().dataset.csv},
}
AUGMENTATION_KEYS = {
  'pad': 'augmentation.pad',
  'pad_mode': 'augmentation.pad_mode',
  'flip': 'augmentation.flip',
  'area': 'augmentation.inception.area',
  'aspect': 'augmentation.inception.aspect',
  'mixup': 'augmentation.mixup.share',
  'mixup_alpha': 'augmentation.mixup.alpha',
  'cutmix': 'augmentation.cutmix.share',
  'layers': 'augmentation.randaugment.layers',
  'magnitude': 'augmentation.randaugment.magnitude',
  'behaviour': 'augmentation.randaugment.behaviour',
}
_OPTIMIZER_KEYS = {
  **{key: f'optimizer.{key}' for key in configs.default_config().optimizer},
  'name': 'optimizer.schedule',
}
_EVALUATION_KEYS = {'kind': 'evaluation.crop', 'padding': 'evaluation.crop_padding'}

# Where training batches are made.
INPUTS = ('auto', 'tf.data', 'device')
# Where decoded training images are kept.
CACHES = ('none', 'host')

_LARGEST_SEED = 2**32 - 1
# Pixels of a side, far above the resolution of any network.
_LARGEST_IMAGE = 2**14
# The image indices of as many steps are stacked on the host.
_MOST_STEPS_PER_DISPATCH = 10_000
# A year.
_MOST_MINUTES = 366 * 24 * 60


@dataclasses.dataclass(frozen=True)
class Dataset:
  """The data set of a run, and how images are read.

  Attributes:
    name: see `loading.load_source`.
    data_dir: folder of the data, with `~` and variables expanded.
    allow_download: whether TensorFlow Datasets may download it.
    train_split: name of a split or of a part of one.
    test_split: likewise.
    table_options: of a table of images.
    balance: one of `class_balance.BALANCES`.
    train_options: how training images are read.
    test_options: how images are read for evaluation.
    evaluation_crop: the crop in evaluation.
    canvas: see `canvases.CanvasInput`.
    is_cached: whether the host keeps the images that it sends to the devices, decoded.
  """

  name: str
  data_dir: str
  allow_download: bool
  train_split: str
  test_split: str
  table_options: TableOptions
  balance: str
  train_options: ReadOptions
  test_options: ReadOptions
  evaluation_crop: EvaluationCrop
  canvas: tuple[int, int]
  is_cached: bool


@dataclasses.dataclass(frozen=True)
class Sam:
  """Sharpness-aware minimization; see `optim/sam.py`. No SAM where `rho` is 0."""

  rho: float
  ascent_fraction: float
  synchronize: bool


@dataclasses.dataclass(frozen=True)
class Settings:
  """The config as plain values; `configs.py` explains the keys.

  Attributes:
    batch_size: B.
    unique_images_per_batch: U.
    augmult: n; B = U x n.
    is_batch_size_fixed: whether the config states B, as in Section 3 of the paper, or U, as in
      Section 2.
    input: where training batches are made, one of `INPUTS`.
    make_model: from the number of classes to a transformed Haiku module.
    optimizer: without the learning rate.
    freeze: groups of parameters that stay as they are, see `freezing.frozen`.
    freeze_steps: for how many updates; 0 for all.
    unfreeze: see `freezing.hold`.
    evaluate_every_minutes: 0 for not by the clock.
    evaluated_train_images: how many un-augmented training images are evaluated; -1 for all.
  """

  seed: int
  batch_size: int
  unique_images_per_batch: int
  augmult: int
  placement: str
  is_batch_size_fixed: bool
  total_epochs: float
  total_steps: int
  dataset: Dataset
  augmentation: Augmentation
  input: str
  steps_per_dispatch: int
  model_name: str
  make_model: Callable[[int], Any]
  init_from: str
  compute_dtype: str
  dropout_masks: int
  label_smoothing: float
  ema_decay: float
  learning_rate: float
  schedule: str
  warmup_steps: int
  optimizer: optax.GradientTransformation
  freeze: tuple[str, ...]
  freeze_steps: int
  unfreeze: str
  sam: Sam
  evaluate_every_epochs: float
  evaluate_every_minutes: float
  evaluation_batch_size: int
  evaluated_train_images: int
  save_every_steps: int
  keep_checkpoints: int
  log_every_steps: int

  @property
  def is_device_input(self) -> bool:
    """Whether training batches are made on the devices; with `'auto'` on all but CPUs.

    Looks for devices, so hosts that train together must have joined before.
    """
    return self.input == 'device' or (self.input == 'auto' and jax.default_backend() != 'cpu')

  @property
  def needs_tensorflow(self) -> bool:
    """Whether the data set or the batches need TensorFlow."""
    if self.dataset.name not in ARRAY_SOURCES:
      return True
    if array_batches.can_make(self.augmentation):
      return False
    # RandAugment takes its sine from TensorFlow.
    return not self.is_device_input or self.augmentation.randaugment.layers > 0

  @property
  def relative_cost(self) -> float:
    """Augmented samples of the run, per training image if its length is in epochs.

    Compares runs of one sweep without loading the data.
    """
    return self.total_steps * self.batch_size or self.total_epochs * self.augmult

  def multiplicity(self, num_images: int, labels: np.ndarray | None = None) -> Multiplicity:
    """Returns the `Multiplicity` for `num_images` unique training images; `labels` see there."""
    return Multiplicity(
      num_images=num_images,
      unique_images_per_batch=self.unique_images_per_batch,
      augmult=self.augmult,
      seed=self.seed,
      placement=self.placement,
      labels=labels,
    )

  def make_plan(
    self,
    num_images: int,
    *,
    host_count: int,
    device_count: int,
    labels: np.ndarray | None = None,
  ) -> plan_lib.Plan:
    """Returns the arithmetic of the run; raises ValueError, see `plan.make_plan`."""
    return plan_lib.make_plan(
      self.multiplicity(num_images, labels),
      learning_rate=self.learning_rate,
      total_epochs=self.total_epochs,
      total_steps=self.total_steps,
      host_count=host_count,
      device_count=device_count,
      log_every_steps=self.log_every_steps,
      save_every_steps=self.save_every_steps,
      evaluate_every_epochs=self.evaluate_every_epochs,
    )

  @renamed(_OPTIMIZER_KEYS)
  def make_schedule(
    self, total_steps: int, *, peak: float | None = None, warmup_steps: int | None = None
  ) -> schedules.Schedule:
    """Returns the schedule; `peak` and `warmup_steps` override those of the config."""
    return schedules.make_schedule(
      self.schedule,
      self.learning_rate if peak is None else peak,
      total_steps=total_steps,
      warmup_steps=self.warmup_steps if warmup_steps is None else warmup_steps,
    )


def read(config: ml_collections.ConfigDict) -> Settings:
  """Returns the settings of `config`.

  Raises:
    ValueError: a value is not valid; the message names the key, what is wrong, and what to do.
  """
  configs.check_keys(config)
  checks.check_int('seed', config.seed, most=_LARGEST_SEED)
  plan_lib.check_length(total_epochs=config.total_epochs, total_steps=config.total_steps)
  batch_size, unique_images_per_batch, augmult = plan_lib.solve_batch(
    batch_size=config.batch_size,
    unique_images_per_batch=config.unique_images_per_batch,
    augmult=config.augmult,
    placement=config.placement,
  )
  with renamed(AUGMENTATION_KEYS):
    augmentation = _read_augmentation(config.augmentation)
    augmentation.mixing.check_unique_images(unique_images_per_batch)
  dataset = _read_dataset(config)
  _check_input(config)
  make_model = _read_model(config.model)
  freeze = tuple(filter(None, map(str.strip, config.freeze.split(','))))
  optimizer = _read_optimizer(config, freeze)
  _check_training(config)
  return Settings(
    seed=config.seed,
    batch_size=batch_size,
    unique_images_per_batch=unique_images_per_batch,
    augmult=augmult,
    placement=config.placement,
    is_batch_size_fixed=bool(config.batch_size),
    total_epochs=config.total_epochs,
    total_steps=config.total_steps,
    dataset=dataset,
    augmentation=augmentation,
    input=config.input,
    steps_per_dispatch=config.steps_per_dispatch,
    model_name=config.model.name,
    make_model=make_model,
    init_from=_read_path('init_from', config.init_from),
    compute_dtype=config.compute_dtype,
    dropout_masks=config.dropout_masks,
    label_smoothing=config.label_smoothing,
    ema_decay=config.ema_decay,
    learning_rate=config.optimizer.learning_rate,
    schedule=config.optimizer.schedule,
    warmup_steps=config.optimizer.warmup_steps,
    optimizer=optimizer,
    freeze=freeze,
    freeze_steps=config.freeze_steps,
    unfreeze=config.unfreeze,
    sam=Sam(**config.sam),
    evaluate_every_epochs=config.evaluation.every_epochs,
    evaluate_every_minutes=config.evaluation.every_minutes,
    evaluation_batch_size=config.evaluation.batch_size,
    evaluated_train_images=config.evaluation.train_images,
    save_every_steps=config.checkpoint.every_steps,
    keep_checkpoints=config.checkpoint.keep,
    log_every_steps=config.log_every_steps,
  )


def _read_dataset(config: ml_collections.ConfigDict) -> Dataset:
  keys = config.dataset
  if not keys.name:
    raise ValueError("dataset.name='' must be the name of a data set, such as 'folder'")
  checks.check_int('dataset.image_size', keys.image_size, most=_LARGEST_IMAGE)
  checks.check_int('dataset.test_image_size', keys.test_image_size, most=_LARGEST_IMAGE)
  checks.check_choice('dataset.balance', keys.balance, BALANCES)
  with renamed(DATASET_KEYS):
    image_dir = _read_path('image_dir', keys.csv.image_dir)
    table_options = TableOptions(**{**keys.csv, 'image_dir': image_dir})
    options = ReadOptions(
      image_size=keys.image_size,
      on_bad_image=keys.on_bad_image,
      jpeg_scaling=keys.jpeg_scaling,
      antialias=keys.antialias,
      rules=DecodeRules(keys.apply_orientation, keys.max_pixels),
    )
  test_image_size = keys.test_image_size or keys.image_size
  padding = config.evaluation.crop_padding
  if padding is None:
    padding = default_crop_padding(test_image_size, config.augmentation.crop)
  with renamed(_EVALUATION_KEYS):
    evaluation_crop = EvaluationCrop(config.evaluation.crop, padding)
  return Dataset(
    name=keys.name,
    data_dir=_read_path('dataset.data_dir', keys.data_dir),
    allow_download=keys.allow_download,
    train_split=keys.train_split,
    test_split=keys.test_split,
    table_options=table_options,
    balance=keys.balance,
    train_options=options,
    test_options=dataclasses.replace(options, image_size=test_image_size),
    evaluation_crop=evaluation_crop,
    canvas=_read_canvas(keys.canvas),
    is_cached=keys.cache == 'host',
  )


def _read_canvas(sides: Sequence[int]) -> tuple[int, int]:
  if len(sides) != 2:
    raise ValueError(
      f'dataset.canvas={tuple(sides)} must be two numbers, the pixels of the shorter and of the '
      'longer side'
    )
  for side in sides:
    checks.check_int('dataset.canvas', side, least=1, most=_LARGEST_IMAGE)
  return tuple(sorted(sides))


def _read_augmentation(keys: ml_collections.ConfigDict) -> Augmentation:
  crops = {
    'pad': CropFlip(pad=keys.pad, pad_mode=keys.pad_mode, flip=keys.flip),
    'inception': InceptionCrop(flip=keys.flip, **keys.inception),
  }
  checks.check_choice('augmentation.crop', keys.crop, crops)
  return Augmentation(
    crop=crops[keys.crop],
    mixing=Mixing(mixup=keys.mixup.share, cutmix=keys.cutmix.share, mixup_alpha=keys.mixup.alpha),
    randaugment=RandAugment(**keys.randaugment),
    mix_first=keys.mix_first,
  )


def _check_input(config: ml_collections.ConfigDict) -> None:
  """Checks where batches are made."""
  checks.check_choice('input', config.input, INPUTS)
  checks.check_choice('dataset.cache', config.dataset.cache, CACHES)
  if config.dataset.cache != 'none' and config.input == 'tf.data':
    raise ValueError(
      f"dataset.cache={config.dataset.cache!r} needs input='device': with 'tf.data' other parts of "
      'the images are decoded in every epoch'
    )
  checks.check_int(
    'steps_per_dispatch', config.steps_per_dispatch, least=1, most=_MOST_STEPS_PER_DISPATCH
  )
  if config.input != 'device' and config.steps_per_dispatch > 1:
    raise ValueError(
      f"steps_per_dispatch={config.steps_per_dispatch} needs input='device': its batches are "
      'made in the program of the step'
    )


def _read_model(keys: ml_collections.ConfigDict) -> Callable[[int], Any]:
  options = keys.to_dict()
  name = options.pop('name')

  def make_model(num_classes: int) -> Any:
    return models.make_model(name, num_classes=num_classes, **options)

  with renamed({key: f'model.{key}' for key in keys}):
    make_model(2)  # checks the options
  return make_model


@renamed(_OPTIMIZER_KEYS)
def _read_optimizer(
  config: ml_collections.ConfigDict, freeze: Sequence[str]
) -> optax.GradientTransformation:
  keys = config.optimizer
  freezing.check_release(config.freeze_steps, config.unfreeze)
  if freeze and not config.init_from:
    raise ValueError(
      f"freeze={config.freeze!r} with init_from='' would keep random values: set init_from to a "
      "file of parameters or the work directory of a run, or freeze=''"
    )
  if config.freeze_steps and not freeze:
    raise ValueError(
      f"freeze_steps={config.freeze_steps} needs freeze='GROUP,GROUP', what stays as it is so long"
    )
  checks.check_int('warmup_steps', keys.warmup_steps)
  schedules.make_schedule(keys.schedule, keys.learning_rate, total_steps=1)
  return sgd.sgd(
    momentum=keys.momentum,
    nesterov=keys.nesterov,
    weight_decay=keys.weight_decay,
    clipping=keys.clipping,
    clipping_eps=keys.clipping_eps,
    freeze=freeze,
    freeze_steps=config.freeze_steps,
    unfreeze=config.unfreeze,
  )


def _check_training(config: ml_collections.ConfigDict) -> None:
  """Checks the keys of the step, evaluation, checkpoints and records."""
  # Called for its checks of the arguments; it makes no network.
  step_lib.make_train_step(
    classifier=None,
    optimizer=None,
    schedule=None,
    ema_decay=config.ema_decay,
    label_smoothing=config.label_smoothing,
    dropout_masks=config.dropout_masks,
  )
  checks.check_choice('compute_dtype', config.compute_dtype, step_lib.COMPUTE_DTYPES)
  checks.check_number('evaluation.every_epochs', config.evaluation.every_epochs, above=0)
  checks.check_number(
    'evaluation.every_minutes', config.evaluation.every_minutes, least=0, most=_MOST_MINUTES
  )
  checks.check_int('evaluation.batch_size', config.evaluation.batch_size, least=1)
  checks.check_int('evaluation.train_images', config.evaluation.train_images, least=-1)
  checks.check_int('checkpoint.every_steps', config.checkpoint.every_steps, least=1)
  checks.check_int('checkpoint.keep', config.checkpoint.keep, least=1)
  checks.check_int('log_every_steps', config.log_every_steps, least=1)
  checks.check_number('sam.rho', config.sam.rho, least=0)
  checks.check_number('sam.ascent_fraction', config.sam.ascent_fraction, above=0, most=1)
  if config.dropout_masks > 1 and not config.model.dropout_rate:
    raise ValueError(
      f'dropout_masks={config.dropout_masks} needs dropout to average over, and model.dropout_rate='
      f'{config.model.dropout_rate} names none: set it as well, to 0.4 in the paper'
    )


def _read_path(key: str, path: str) -> str:
  """Returns the expanded path of a key; the config keeps the original."""
  try:
    return paths.expand(path)
  except ValueError as error:
    raise ValueError(f'{key}={path!r}: {error}') from error
