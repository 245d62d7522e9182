"""From a config to the parts of a run: the one place where configs are read.

Everything is checked here, before anything compiles. All other code takes plain arguments.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from nfnets_augmult import models
from nfnets_augmult.data import sources
from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.data.multiplicity import Multiplicity, solve_batch
from nfnets_augmult.ops import addressed_random
from nfnets_augmult.optim import sam, schedules, sgd
from nfnets_augmult.training import plan as plan_lib
from nfnets_augmult.training import state as state_lib
from nfnets_augmult.training import step as step_lib
from nfnets_augmult.training.checkpoints import CheckpointError, Checkpoints
from nfnets_augmult.training.loop import Cadence
from nfnets_augmult.weights import param_files, pretrained

Batches = Iterator[dict[str, np.ndarray]]

# Per channel statistics of ImageNet, for data sets that are not held in memory.
_IMAGENET = step_lib.Normalization(
  mean=(0.485 * 255, 0.456 * 255, 0.406 * 255), std=(0.229 * 255, 0.224 * 255, 0.225 * 255)
)


@dataclasses.dataclass(frozen=True)
class Data:
  """The images of a run.

  Attributes:
    train: training images.
    test: test images.
    image_shape: (height, width, channels) that the network gets.
    normalization: of the channels.
  """

  train: sources.Source
  test: sources.Source
  image_shape: tuple[int, int, int]
  normalization: step_lib.Normalization


def load_split(config: ml_collections.ConfigDict, split: str) -> sources.Source:
  """Returns one split of the config's data set."""
  return sources.load_source(
    config.dataset.name,
    split=split,
    data_dir=config.dataset.data_dir,
    allow_download=config.dataset.allow_download,
  )


def load_data(config: ml_collections.ConfigDict) -> Data:
  """Returns the data of the run that `config` describes.

  Raises:
    ValueError: the message names the key, what is wrong, and what to do.
  """
  train = load_split(config, config.dataset.train_split)
  test = load_split(config, config.dataset.test_split)
  if test.class_names != train.class_names:
    raise ValueError(f'{test.description} and {train.description} have different classes')
  if isinstance(train, sources.ArraySource):
    if config.dataset.image_size not in (0, *train.images.shape[1:3]):
      raise ValueError(
        f'dataset.image_size={config.dataset.image_size}: the images of {train.description} all '
        f'have {train.images.shape[1]} pixels and are not scaled; leave it at 0'
      )
    normalization = step_lib.Normalization(*sources.channel_statistics(train.images))
    return Data(train, test, train.images.shape[1:], normalization)
  sources.check_image_size(train, config.dataset.image_size)
  size = config.dataset.image_size
  return Data(train, test, (size, size, 3), _IMAGENET)


def make_plan(config: ml_collections.ConfigDict, num_images: int) -> plan_lib.Plan:
  """Returns the arithmetic of the run on the devices of this process and its companions."""
  _, unique_images_per_batch, augmult = _solve_batch(config)
  multiplicity = Multiplicity(
    num_images=num_images,
    unique_images_per_batch=unique_images_per_batch,
    augmult=augmult,
    seed=config.seed,
    placement=config.placement,
  )
  return plan_lib.make_plan(
    multiplicity,
    learning_rate=config.optimizer.learning_rate,
    total_epochs=config.total_epochs,
    total_steps=config.total_steps,
    host_count=jax.process_count(),
    device_count=jax.device_count(),
  )


def make_cadence(config: ml_collections.ConfigDict, plan: plan_lib.Plan) -> Cadence:
  """Returns how often to log, save and evaluate, in steps."""
  every = config.evaluation.every_epochs * plan.multiplicity.steps_per_epoch
  return Cadence(
    log=config.log_every_steps, save=config.checkpoint.every_steps, evaluate=max(1, round(every))
  )


@dataclasses.dataclass(frozen=True)
class Network:
  """The functions of a run that JAX transforms.

  Attributes:
    initial_state: function without arguments to the first state. Call it as it is: then equal
      shapes share one small compiled draw, while jitted, every draw of every block is compiled
      anew, minutes for a deep network. `jax.eval_shape` gives its shapes.
    classifier: see `step.make_classifier`.
    optimizer: see `sgd.sgd`.
    evaluation_step: of one device.
  """

  initial_state: Callable[[], state_lib.TrainState]
  classifier: step_lib.Classifier
  optimizer: optax.GradientTransformation
  evaluation_step: Callable[..., Any]


def make_network(config: ml_collections.ConfigDict, data: Data) -> Network:
  """Returns model and optimiser for images and classes like those of `data`."""
  model = _make_model(config, num_classes=len(data.train.class_names))
  classifier = step_lib.make_classifier(
    model.apply, normalization=data.normalization, compute_dtype=config.compute_dtype
  )
  optimizer = _make_optimizer(config)

  def initial_state() -> state_lib.TrainState:
    images = jnp.zeros((1, *data.image_shape), jnp.float32)
    params = model.init(_key(config, 'parameters'), images, is_training=True)
    return state_lib.initial_state(params, optimizer)

  return Network(
    initial_state, classifier, optimizer, step_lib.make_evaluation_step(classifier=classifier)
  )


def check_images_fit(config: ml_collections.ConfigDict, data: Data, network: Network) -> None:
  """Traces the network for one image, computing nothing.

  Raises:
    ValueError: the model does not take images of this size or number of channels.
  """
  images = jax.ShapeDtypeStruct((1, *data.image_shape), jnp.uint8)
  classify = functools.partial(network.classifier, is_training=False)
  try:
    jax.eval_shape(classify, jax.eval_shape(network.initial_state).params, None, images)
  except (TypeError, ValueError) as error:
    shape = ' x '.join(map(str, data.image_shape))
    raise ValueError(
      f'model.name={config.model.name!r} does not take images of {shape}: '
      f'{str(error).splitlines()[0]}'
    ) from error


def make_train_step(
  config: ml_collections.ConfigDict, network: Network, plan: plan_lib.Plan
) -> tuple[Callable[..., Any], jax.Array]:
  """Returns the update of one device and the key of everything random in it."""
  warmup_epochs = config.optimizer.warmup_epochs
  schedule = schedules.make_schedule(
    config.optimizer.schedule,
    config.optimizer.learning_rate,
    total_steps=plan.total_steps,
    warmup_steps=round(warmup_epochs * plan.multiplicity.steps_per_epoch),
  )
  train_step = step_lib.make_train_step(
    classifier=network.classifier,
    optimizer=network.optimizer,
    schedule=schedule,
    ema_decay=config.ema_decay,
    label_smoothing=config.label_smoothing,
    sharpness=_sharpness(config, plan),
  )
  return train_step, _key(config, 'steps')


def read_initial_params(config: ml_collections.ConfigDict, network: Network) -> Any | None:
  """Returns the parameters of `init_from`, or None; checks that they fit the network.

  Raises:
    ValueError: there are none, they cannot be read, or they are of another network.
  """
  path = config.init_from
  if not path:
    return None
  if not os.path.exists(path):
    raise ValueError(f'init_from={path!r} does not exist')
  try:
    if os.path.isdir(path):
      with Checkpoints(path, read_only=True) as checkpoints:
        loaded = checkpoints.read_averaged_params()
    else:
      loaded = param_files.read_params(path)
    pretrained.load_pretrained(jax.eval_shape(network.initial_state).params, loaded)
  except (ValueError, CheckpointError) as error:
    raise ValueError(f'init_from={path!r}: {error}') from error
  return loaded


def first_state(
  network: Network, loaded_params: Any | None
) -> tuple[state_lib.TrainState, pretrained.LoadReport | None]:
  """Returns the state before the first step, of NumPy arrays, and what was loaded into it."""
  state = jax.device_get(network.initial_state())
  if loaded_params is None:
    return state, None
  params, report = pretrained.load_pretrained(state.params, loaded_params)
  return jax.device_get(state_lib.initial_state(params, network.optimizer)), report


def train_batches(
  config: ml_collections.ConfigDict,
  source: sources.Source,
  multiplicity: Multiplicity,
  *,
  start_step: int,
  stop_step: int,
  augmentation: CropFlip | None = None,
  hosts: tuple[int, int] | None = None,
) -> Batches:
  """Returns this host's batches.

  Args:
    config: of the run.
    source: training images.
    multiplicity: which image and copy fills each slot.
    start_step: first step.
    stop_step: one past the last step.
    augmentation: instead of the config's.
    hosts: index and number of hosts, instead of this process's.
  """
  from nfnets_augmult.data import pipeline

  host_index, host_count = hosts or (jax.process_index(), jax.process_count())
  return pipeline.train_batches(
    source,
    multiplicity,
    augmentation=augmentation or CropFlip(**config.augmentation),
    start_step=start_step,
    stop_step=stop_step,
    image_size=config.dataset.image_size,
    on_bad_image=config.dataset.on_bad_image,
    host_index=host_index,
    host_count=host_count,
  )


def evaluation_batches(
  config: ml_collections.ConfigDict, source: sources.Source, num_images: int | None = None
) -> Batches:
  """Returns this host's batches of `source`, un-augmented, of its first images or all."""
  from nfnets_augmult.data import pipeline

  batch_size_per_device = -(-config.evaluation.batch_size // jax.device_count())
  return pipeline.evaluation_batches(
    source,
    batch_size=batch_size_per_device * jax.local_device_count(),
    image_size=config.dataset.test_image_size or config.dataset.image_size,
    on_bad_image=config.dataset.on_bad_image,
    num_images=num_images,
    host_index=jax.process_index(),
    host_count=jax.process_count(),
  )


def evaluated_splits(
  config: ml_collections.ConfigDict, data: Data
) -> dict[str, Callable[[], Batches]]:
  """Returns what the run evaluates, by the name under which it is recorded."""
  splits = {'test': functools.partial(evaluation_batches, config, data.test)}
  if num_images := config.evaluation.train_images:
    splits['train_raw'] = functools.partial(
      evaluation_batches, config, data.train, None if num_images < 0 else num_images
    )
  return splits


def check(config: ml_collections.ConfigDict) -> None:
  """Checks all that can be checked at once, before any data is read.

  Raises:
    ValueError: the message names the key, what is wrong, and what to do.
  """
  if not 0 <= config.seed < 2**32:
    raise ValueError(f'seed={config.seed} must be in [0, 2**32)')
  _solve_batch(config)
  CropFlip(**config.augmentation)
  sources.check_bad_image_policy(config.dataset.on_bad_image)
  _make_model(config, num_classes=2)
  _make_optimizer(config)
  optimizer = config.optimizer
  schedules.make_schedule(optimizer.schedule, optimizer.learning_rate, total_steps=1)
  for group, key in (
    ('evaluation', 'batch_size'),
    ('evaluation', 'every_epochs'),
    ('checkpoint', 'every_steps'),
    ('checkpoint', 'keep'),
  ):
    if not config[group][key] > 0:
      raise ValueError(f'{group}.{key}={config[group][key]} must be above 0')
  if config.sam.rho < 0 or not 0 < config.sam.ascent_fraction <= 1:
    raise ValueError(
      f'sam.rho={config.sam.rho} must not be negative, and sam.ascent_fraction='
      f'{config.sam.ascent_fraction} must be in (0, 1]'
    )
  if config.log_every_steps < 1:
    raise ValueError(f'log_every_steps={config.log_every_steps} must be at least 1')


def _key(config: ml_collections.ConfigDict, purpose: str) -> jax.Array:
  """The JAX key of everything random that serves `purpose`."""
  return jnp.asarray(np.concatenate(addressed_random.key_for(config.seed, purpose)))


def _solve_batch(config: ml_collections.ConfigDict) -> tuple[int, int, int]:
  return solve_batch(
    batch_size=config.batch_size,
    unique_images_per_batch=config.unique_images_per_batch,
    augmult=config.augmult,
    placement=config.placement,
  )


def _make_model(config: ml_collections.ConfigDict, *, num_classes: int) -> Any:
  options = config.model.to_dict()
  return models.make_model(options.pop('name'), num_classes=num_classes, **options)


def _make_optimizer(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
  return sgd.sgd(
    momentum=config.optimizer.momentum,
    nesterov=config.optimizer.nesterov,
    weight_decay=config.optimizer.weight_decay,
    clipping=config.optimizer.clipping,
    clipping_eps=config.optimizer.clipping_eps,
  )


def _sharpness(config: ml_collections.ConfigDict, plan: plan_lib.Plan) -> Callable[..., Any] | None:
  """What makes a gradient sharpness-aware, or None."""
  if not config.sam.rho:
    return None
  slots = sam.ascent_slots_per_device(
    unique_images_per_batch=plan.multiplicity.unique_images_per_batch,
    augmult=plan.multiplicity.copies_per_batch,
    device_count=plan.device_count,
    ascent_fraction=config.sam.ascent_fraction,
  )
  return functools.partial(
    sam.sharpness_aware,
    rho=config.sam.rho,
    axis_name=step_lib.AXIS_NAME if config.sam.synchronize else None,
    select_ascent=sam.first_slots(slots),
  )
