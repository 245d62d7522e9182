"""From a config to the parts of a run: the one place where configs are read.

Everything is checked here, before anything compiles. All other code takes plain arguments.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from absl import logging

from nfnets_augmult import configs, models
from nfnets_augmult.data import array_batches, device_input, identity, loading, sources
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.crop_flip import CropFlip
from nfnets_augmult.data.evaluation_crop import EvaluationCrop
from nfnets_augmult.data.image_formats import DecodeRules
from nfnets_augmult.data.inception_crop import InceptionCrop
from nfnets_augmult.data.mixing import Mixing
from nfnets_augmult.data.multiplicity import Images, Multiplicity, solve_batch
from nfnets_augmult.data.randaugment import RandAugment
from nfnets_augmult.ops import addressed_random, checks, paths
from nfnets_augmult.ops.argument_names import renamed
from nfnets_augmult.optim import sam, schedules, sgd
from nfnets_augmult.training import bundle, devices, feeding, records
from nfnets_augmult.training import plan as plan_lib
from nfnets_augmult.training import state as state_lib
from nfnets_augmult.training import step as step_lib
from nfnets_augmult.training.checkpoints import CheckpointError, Checkpoints
from nfnets_augmult.training.loop import Cadence
from nfnets_augmult.weights import param_files, pretrained

Batches = Iterator[dict[str, np.ndarray]]

# Where training batches are made.
INPUTS = ('tf.data', 'device')

_LARGEST_SEED = 2**32 - 1
# Pixels of a side; more than any network is made for.
_LARGEST_IMAGE = 2**14
# What a step needs of each image is stacked for as many steps.
_MOST_STEPS_PER_DISPATCH = 10_000

# Per channel statistics of ImageNet, for data sets that are not held in memory.
_IMAGENET = step_lib.Normalization(
  mean=(0.485 * 255, 0.456 * 255, 0.406 * 255), std=(0.229 * 255, 0.224 * 255, 0.225 * 255)
)

# From the arguments that errors of other code name to the keys that their values come from.
DATASET_KEYS = {key: f'dataset.{key}' for key in configs.default_config().dataset}
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
OPTIMIZER_KEYS = {
  **{key: f'optimizer.{key}' for key in configs.default_config().optimizer},
  'name': 'optimizer.schedule',
}
EVALUATION_KEYS = {'kind': 'evaluation.crop', 'padding': 'evaluation.crop_padding'}


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


@renamed(DATASET_KEYS)
def load_split(config: ml_collections.ConfigDict, split: str) -> sources.Source:
  """Returns one split of the config's data set."""
  return loading.load_source(
    config.dataset.name,
    split=split,
    data_dir=_path(config, 'dataset.data_dir'),
    allow_download=config.dataset.allow_download,
    train_split=config.dataset.train_split,
    rules=_decode_rules(config),
  )


@renamed(DATASET_KEYS)
def load_data(config: ml_collections.ConfigDict) -> Data:
  """Returns the data of the run that `config` describes.

  Raises:
    ValueError: the message names the key, what is wrong, and what to do.
  """
  train = _load_split_of_key(config, 'train_split')
  test = _load_split_of_key(config, 'test_split')
  if changes := sources.describe_class_changes(test.class_names, train.class_names):
    raise ValueError(
      f'{test.description} has other classes than {train.description}: {changes} (here is '
      f'{test.description})'
    )
  for source in (train, test):
    log_notes(source)
  if isinstance(train, sources.ArraySource):
    if config.dataset.image_size not in (0, *train.images.shape[1:3]):
      raise ValueError(
        f'dataset.image_size={config.dataset.image_size}: the images of {train.description} all '
        f'have {train.images.shape[1]} pixels and are not scaled; leave it at 0'
      )
    normalization = step_lib.Normalization(*sources.channel_statistics(train.images))
    return Data(train, test, train.images.shape[1:], normalization)
  sources.check_image_size(train, config.dataset.image_size)
  if config.dataset.on_bad_image == 'skip':
    _check_some_images_decode(config, train, test)
  size = config.dataset.image_size
  return Data(train, test, (size, size, 3), _IMAGENET)


def log_notes(source: sources.Source) -> None:
  """Says what a user should know of the reading of a source, such as what was passed over."""
  for note in getattr(source, 'notes', ()):
    logging.warning('%s: %s', source.description, note)


def describe_data(data: Data) -> dict[str, Any]:
  """Returns what a run remembers of its data, as JSON values.

  The names of the classes in the order of their labels, what identifies the images of both splits,
  and what the network takes for granted of them.
  """
  return {
    'class_names': list(data.train.class_names),
    'image_shape': list(data.image_shape),
    'normalization': {key: list(values) for key, values in data.normalization._asdict().items()},
    'train': identity.describe_split(data.train),
    'test': identity.describe_split(data.test),
  }


def check_same_data(data: Data, then: dict[str, Any]) -> None:
  """Raises ValueError, with what differs, if `data` is not what `describe_data` once described."""
  now = describe_data(data)
  names = now['class_names']
  differ = sources.describe_class_changes(names, then['class_names'])
  if differ:
    differ = f'its classes differ: {differ}'
  else:
    changes = [
      identity.describe_split_changes(now[split], then[split], split=split, class_names=names)
      for split in ('train', 'test')
    ]
    differ = '; '.join(change for change in changes if change)
  if differ:
    raise ValueError(
      f'the data set ({data.train.description}) is not the one that this run was trained on so '
      f'far: {differ}. Put it back as it was, or start a new run in another --workdir; '
      '--config.init_from=WORKDIR lets that begin with the parameters of this one'
    )


def as_trained(source: sources.Source, then: dict[str, Any]) -> Data:
  """Returns `source`, as both splits, the way the network of a run takes images.

  Args:
    source: images to look at; they may lie elsewhere than those of the run, and need not come with
      training images.
    then: what `describe_data` said of the data of the run.

  Raises:
    ValueError: the images have another number of channels.
  """
  channels = source.images.shape[-1] if isinstance(source, sources.ArraySource) else 3
  image_shape = tuple(then['image_shape'])
  if channels != image_shape[-1]:
    raise ValueError(
      f'{source.description} has images of {channels} channel(s); the network was trained with '
      f'{image_shape[-1]}'
    )
  normalization = step_lib.Normalization(
    *(tuple(then['normalization'][key]) for key in ('mean', 'std'))
  )
  return Data(source, source, image_shape, normalization)


def match_classes(
  source: sources.Source, class_names: Sequence[str], *, map_by_name: bool | None = None
) -> sources.Source:
  """Returns `source` with labels that count in the classes of a run.

  Args:
    source: images to look at.
    class_names: of the run, in the order of its labels.
    map_by_name: whether classes in another order, or only some of them, are found by their names;
      None if that cannot be asked for.

  Raises:
    ValueError: the classes differ, and are not or cannot be mapped; the message says how.
  """
  differ = sources.describe_class_changes(source.class_names, class_names)
  if not differ:
    return source
  if map_by_name:
    return identity.map_classes(source, class_names)
  counts = f'{len(source.class_names):,} classes here, {len(class_names):,} in the run'
  can_map = set(source.class_names) <= set(class_names)
  raise ValueError(
    f'{source.description} does not have the classes that the network was trained for ({counts}): '
    f'{differ}. '
    + (
      'If equal names mean equal classes, --map_classes_by_name finds them by their names'
      if can_map and map_by_name is not None
      else 'Accuracies would compare different things; give the data that belong to the run'
    )
  )


def _check_some_images_decode(config: ml_collections.ConfigDict, *splits: sources.Source) -> None:
  """Checks that leaving out what does not decode does not leave out all of a split."""
  from nfnets_augmult.data import decoding

  for source in splits:
    decoding.check_some_image_decodes(source, read_options(config))


def _load_split_of_key(config: ml_collections.ConfigDict, key: str) -> sources.Source:
  """The split that a key of `dataset` names, which must hold images."""
  split = config.dataset[key]
  try:
    with renamed({'split': f'dataset.{key}'}):
      source = load_split(config, split)
  except ValueError as error:
    if 'dataset.' in str(error):
      raise
    raise ValueError(f'dataset.{key}={split!r}: {error}') from error
  if not source.num_images:
    raise ValueError(f'dataset.{key}={split!r}: {source.description} holds no images')
  return source


def needs_tensorflow(config: ml_collections.ConfigDict) -> bool:
  """Whether the data set or the batches of the run that `config` describes need TensorFlow."""
  return config.input != 'device' or config.dataset.name not in loading.OWN_SOURCES


def check_input(config: ml_collections.ConfigDict, data: Data) -> None:
  """Checks that the devices can hold the training images, if they are to.

  Raises:
    ValueError: they cannot; the message says what to do.
  """
  if config.input == 'device':
    limits = [(device.memory_stats() or {}).get('bytes_limit') for device in jax.local_devices()]
    known = [limit for limit in limits if limit is not None]
    device_input.check_source(data.train, device_bytes=min(known, default=None))


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


@renamed(AUGMENTATION_KEYS)
def make_augmentation(config: ml_collections.ConfigDict) -> Augmentation:
  """Returns what happens to each copy.

  Raises:
    ValueError: the message names the key.
  """
  keys = config.augmentation
  crops = {
    'pad': CropFlip(pad=keys.pad, pad_mode=keys.pad_mode, flip=keys.flip),
    'inception': InceptionCrop(flip=keys.flip, **keys.inception),
  }
  if keys.crop not in crops:
    raise ValueError(f'augmentation.crop={keys.crop!r} must be one of {", ".join(crops)}')
  return Augmentation(
    crop=crops[keys.crop],
    mixing=Mixing(mixup=keys.mixup.share, cutmix=keys.cutmix.share, mixup_alpha=keys.mixup.alpha),
    randaugment=RandAugment(**keys.randaugment),
    mix_first=keys.mix_first,
  )


def relative_cost(config: ml_collections.ConfigDict) -> float:
  """Returns the augmented samples of a run, per training image if its length is in epochs.

  Runs of one sweep compare by it without a look at the data.
  """
  batch_size, _, augmult = _solve_batch(config)
  return config.total_steps * batch_size or config.total_epochs * augmult


def make_cadence(config: ml_collections.ConfigDict, plan: plan_lib.Plan) -> Cadence:
  """Returns how often to log, save and evaluate, in steps."""
  every = config.evaluation.every_epochs * plan.multiplicity.steps_per_epoch
  # After the last step there is an evaluation anyhow.
  evaluate = max(1, round(min(every, plan.total_steps)))
  return Cadence(log=config.log_every_steps, save=config.checkpoint.every_steps, evaluate=evaluate)


def steps_per_dispatch(config: ml_collections.ConfigDict) -> int:
  """Returns how many steps one dispatch takes at most: one where more would be slower."""
  return 1 if feeding.loops_are_slow() else config.steps_per_dispatch


@dataclasses.dataclass(frozen=True)
class Network:
  """The functions of a run that JAX transforms.

  Attributes:
    initial_state: to the first state, from a key or, without one, from the config's seed. Call it
      as it is: then equal shapes share one small compiled draw, while jitted, every draw of every
      block is compiled anew, minutes for a deep network. `jax.eval_shape` gives its shapes.
    classifier: see `step.make_classifier`.
    optimizer: see `sgd.sgd`.
    evaluation_step: of one device.
  """

  initial_state: Callable[..., state_lib.TrainState]
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

  def initial_state(key: jax.Array | None = None) -> state_lib.TrainState:
    images = jnp.zeros((1, *data.image_shape), jnp.float32)
    key = parameters_key(config) if key is None else key
    params = model.init(key, images, is_training=True)
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


@renamed(OPTIMIZER_KEYS)
def make_schedule(
  config: ml_collections.ConfigDict, plan: plan_lib.Plan, *, peak: float | None = None
) -> schedules.Schedule:
  """Returns the learning rate by step; its peak is the config's, or `peak`."""
  return schedules.make_schedule(
    config.optimizer.schedule,
    config.optimizer.learning_rate if peak is None else peak,
    total_steps=plan.total_steps,
    warmup_steps=config.optimizer.warmup_steps,
  )


def make_train_step(
  config: ml_collections.ConfigDict,
  network: Network,
  plan: plan_lib.Plan,
  *,
  schedule: schedules.Schedule | None = None,
) -> tuple[Callable[..., Any], jax.Array]:
  """Returns the update of one device and the PRNG key of the steps.

  Args:
    config: of the run.
    network: of the run.
    plan: of the run.
    schedule: learning rate by step, instead of the config's; it may use arguments of the compiled
      program.
  """
  train_step = step_lib.make_train_step(
    classifier=network.classifier,
    optimizer=network.optimizer,
    schedule=schedule or make_schedule(config, plan),
    ema_decay=config.ema_decay,
    label_smoothing=config.label_smoothing,
    dropout_masks=config.dropout_masks,
    sharpness=_sharpness(config, plan),
  )
  return train_step, steps_key(config)


class InitialParams(NamedTuple):
  """Parameters to start from, and whether their classifier is for other classes than the run's."""

  params: Any
  has_other_classes: bool


def read_initial_params(
  config: ml_collections.ConfigDict, network: Network, class_names: Sequence[str]
) -> InitialParams | None:
  """Returns the parameters of `init_from`, or None; checks that they fit the network.

  Args:
    config: of the run.
    network: of the run.
    class_names: of the run. Where those of the parameters are known and differ, in their names or
      their order, the classifier is to start anew: its outputs mean something else.

  Raises:
    ValueError: there are none, they cannot be read, or they are of another network.
  """
  path = _path(config, 'init_from')
  if not path:
    return None
  if not os.path.exists(path):
    raise ValueError(f'init_from={path!r} does not exist')
  try:
    if os.path.isdir(path):
      with Checkpoints(path, read_only=True) as checkpoints:
        loaded = checkpoints.read_averaged_params()
        theirs = checkpoints.read_class_names()
    else:
      loaded = param_files.read_params(path)
      theirs = param_files.read_metadata(path).get('class_names')
    differ = sources.describe_class_changes(class_names, theirs) if theirs else ''
    if differ:
      logging.info('the classifier of %s is for other classes, and starts anew: %s', path, differ)
    initial = InitialParams(loaded, bool(differ))
    _merge(jax.eval_shape(network.initial_state).params, initial)
  except (ValueError, CheckpointError, OSError) as error:
    raise ValueError(f'init_from={path!r}: {error}') from error
  return initial


def _merge(params: Any, initial: InitialParams) -> tuple[Any, pretrained.LoadReport]:
  return pretrained.load_pretrained(
    params, initial.params, fresh_classifier=initial.has_other_classes
  )


def first_state(
  network: Network,
  initial: InitialParams | None,
  key: jax.Array | None = None,
) -> tuple[state_lib.TrainState, pretrained.LoadReport | None]:
  """Returns the state before the first step, of NumPy arrays, and what was loaded into it."""
  state = jax.device_get(network.initial_state(key))
  if initial is None:
    return state, None
  params, report = _merge(state.params, initial)
  return jax.device_get(state_lib.initial_state(params, network.optimizer)), report


def make_advance(
  config: ml_collections.ConfigDict,
  data: Data,
  plan: plan_lib.Plan,
  train_step: feeding.TrainStep,
  key: Any,
  *,
  start_step: int,
) -> feeding.Advance:
  """Returns what trains from `start_step` on, with batches made where the config says."""
  restart = make_restartable(config, data, plan, train_step)
  return restart(key, multiplicity=plan.multiplicity, start_step=start_step)


def make_restartable(
  config: ml_collections.ConfigDict,
  data: Data,
  plan: plan_lib.Plan,
  train_step: feeding.TrainStep,
) -> Callable[..., feeding.Advance]:
  """Returns a function that makes any number of `Advance`s, which share one compiled program.

  It takes the last argument of `train_step`, a key or another tree of arrays, and by keyword the
  `multiplicity`, which may differ from that of `plan` in its seed, and the `start_step`.
  """
  if config.input != 'device':

    def restart_host(key: Any, *, multiplicity: Multiplicity, start_step: int) -> feeding.Advance:
      batches = train_batches(
        config, data.train, multiplicity, start_step=start_step, stop_step=plan.total_steps
      )
      return feeding.make_host_advance(train_step, key=key, batches=batches)

    return restart_host

  one_step = feeding.with_batch_made(train_step, make_device_batch(config, plan.multiplicity))

  def restart_device(key: Any, *, multiplicity: Multiplicity, start_step: int) -> feeding.Advance:
    del start_step  # images are looked up by the step that is asked for
    return feeding.make_device_advance(
      one_step,
      constants=(place_on_devices(data.train, multiplicity), devices.replicate(key)),
      images=multiplicity.images,
      most_steps=steps_per_dispatch(config),
    )

  return restart_device


def make_bundle_advance(
  configs_of_runs: Sequence[ml_collections.ConfigDict],
  data: Data,
  network: Network,
  plans: Sequence[plan_lib.Plan],
) -> feeding.Advance:
  """Returns what trains runs together that differ in nothing but seed and learning rate."""
  config, plan = configs_of_runs[0], plans[0]
  make_batch = make_device_batch(config, plan.multiplicity)

  def one_run(
    state: state_lib.TrainState,
    images: Images,
    data: device_input.DeviceData,
    key: jax.Array,
    learning_rate: jax.Array,
  ) -> tuple[state_lib.TrainState, step_lib.Metrics]:
    schedule = make_schedule(config, plan, peak=1.0)
    train_step, _ = make_train_step(
      config, network, plan, schedule=lambda step: learning_rate * schedule(step)
    )
    return train_step(state, make_batch(data, images), key)

  keys = np.stack([steps_key(of_run) for of_run in configs_of_runs])
  learning_rates = np.array([p.learning_rate for p in plans], np.float32)
  # Runs that share a seed share their batches.
  by_seed = {p.multiplicity.seed: p.multiplicity for p in plans}

  def images(step: int) -> Images:
    of_seed = {seed: multiplicity.images(step) for seed, multiplicity in by_seed.items()}
    return feeding.stack_images([of_seed[p.multiplicity.seed] for p in plans])

  return feeding.make_device_advance(
    bundle.make_bundle_step(one_run),
    constants=(
      place_on_devices(data.train, plan.multiplicity),
      *devices.replicate((keys, learning_rates)),
    ),
    images=images,
    most_steps=steps_per_dispatch(config),
  )


def make_device_batch(
  config: ml_collections.ConfigDict, multiplicity: Multiplicity
) -> Callable[[device_input.DeviceData, Images], dict[str, jax.Array]]:
  """Returns what makes a batch on a device, see `device_input.make_batch`."""
  return functools.partial(
    device_input.make_batch,
    copies_per_batch=multiplicity.copies_per_batch,
    augmentation=_device_crop(config),
  )


def place_on_devices(
  source: sources.ArraySource, multiplicity: Multiplicity
) -> device_input.DeviceData:
  """Returns the training images, a copy on each of the local devices, and the slots of each."""
  slot = device_input.device_slots(
    multiplicity,
    device_count=jax.local_device_count(),
    host_index=jax.process_index(),
    host_count=jax.process_count(),
  )
  return device_input.DeviceData(
    *devices.replicate((source.images, source.labels)), devices.place(slot)
  )


@renamed(DATASET_KEYS | AUGMENTATION_KEYS)
def train_batches(
  config: ml_collections.ConfigDict,
  source: sources.Source,
  multiplicity: Multiplicity,
  *,
  start_step: int,
  stop_step: int,
  augmentation: Augmentation | None = None,
  hosts: tuple[int, int] | None = None,
) -> Batches:
  """Returns this host's batches, made on the host.

  Args:
    config: of the run.
    source: training images.
    multiplicity: which image and copy fills each slot.
    start_step: first step.
    stop_step: one past the last step.
    augmentation: instead of the config's.
    hosts: index and number of hosts, instead of this process's.
  """
  host_index, host_count = hosts or (jax.process_index(), jax.process_count())
  augmentation = augmentation or make_augmentation(config)
  options = {
    'start_step': start_step,
    'stop_step': stop_step,
    'host_index': host_index,
    'host_count': host_count,
  }
  if config.input == 'device':
    return array_batches.train_batches(
      source, multiplicity, augmentation=augmentation.crop, **options
    )
  from nfnets_augmult.data import pipeline

  return _with_keys_in_errors(
    pipeline.train_batches(
      source,
      multiplicity,
      augmentation=augmentation,
      read_options=read_options(config),
      **options,
    )
  )


def _with_keys_in_errors(batches: Batches) -> Batches:
  with renamed(DATASET_KEYS):
    yield from batches


@renamed(DATASET_KEYS)
def evaluation_batches(
  config: ml_collections.ConfigDict, source: sources.Source, num_images: int | None = None
) -> Batches:
  """Returns this host's batches of `source`, un-augmented, of its first images or all."""
  batch_size_per_device = -(-config.evaluation.batch_size // jax.device_count())
  options = {
    'batch_size': batch_size_per_device * jax.local_device_count(),
    'num_images': num_images,
    'host_index': jax.process_index(),
    'host_count': jax.process_count(),
  }
  if config.input == 'device' and isinstance(source, sources.ArraySource):
    return array_batches.evaluation_batches(source, **options)
  from nfnets_augmult.data import pipeline

  return _with_keys_in_errors(
    pipeline.evaluation_batches(
      source,
      crop=make_evaluation_crop(config),
      read_options=read_options(config, is_training=False),
      **options,
    )
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


def are_runs_together(config: ml_collections.ConfigDict) -> bool:
  """Whether `config` describes several runs that train in one program."""
  return bool(config.runs.seeds or config.runs.learning_rates)


def split_runs(config: ml_collections.ConfigDict) -> dict[str, ml_collections.ConfigDict]:
  """Returns the configs of the single runs of `config`, by a name for each.

  They are what one would write to train them one by one: `runs` is empty and `seed` and
  `optimizer.learning_rate` are set.
  """
  split = {}
  for seed in config.runs.seeds or (config.seed,):
    for learning_rate in config.runs.learning_rates or (config.optimizer.learning_rate,):
      single = config.copy_and_resolve_references()
      single.runs.seeds = single.runs.learning_rates = ()
      single.seed, single.optimizer.learning_rate = int(seed), float(learning_rate)
      short = f'{single.optimizer.learning_rate:g}'
      if float(short) != single.optimizer.learning_rate:
        short = repr(single.optimizer.learning_rate)
      split[f'run_{single.seed}_{short}'] = single
  return split


def check(config: ml_collections.ConfigDict) -> None:
  """Checks all that can be checked at once, before any data is read.

  Raises:
    ValueError: the message names the key, what is wrong, and what to do.
  """
  configs.check_keys(config)
  checks.check_int('seed', config.seed, most=_LARGEST_SEED)
  plan_lib.check_length(total_epochs=config.total_epochs, total_steps=config.total_steps)
  _, unique_images_per_batch, _ = _solve_batch(config)
  with renamed(AUGMENTATION_KEYS):
    make_augmentation(config).mixing.check_unique_images(unique_images_per_batch)
  make_evaluation_crop(config)
  _check_input_keys(config)
  _check_runs(config)
  _decode_rules(config)
  _make_model(config, num_classes=2)
  _make_optimizer(config)
  optimizer, evaluation, checkpoint = config.optimizer, config.evaluation, config.checkpoint
  checks.check_int('optimizer.warmup_steps', optimizer.warmup_steps)
  with renamed(OPTIMIZER_KEYS):
    schedules.make_schedule(optimizer.schedule, optimizer.learning_rate, total_steps=1)
  # Makes no network yet; it checks its arguments.
  step_lib.make_train_step(
    classifier=None,
    optimizer=None,
    schedule=None,
    ema_decay=config.ema_decay,
    label_smoothing=config.label_smoothing,
    dropout_masks=config.dropout_masks,
  )
  checks.check_choice('compute_dtype', config.compute_dtype, step_lib.COMPUTE_DTYPES)
  checks.check_number('evaluation.every_epochs', evaluation.every_epochs, above=0)
  checks.check_int('evaluation.batch_size', evaluation.batch_size, least=1)
  checks.check_int('evaluation.train_images', evaluation.train_images, least=-1)
  checks.check_int('checkpoint.every_steps', checkpoint.every_steps, least=1)
  checks.check_int('checkpoint.keep', checkpoint.keep, least=1)
  checks.check_int('log_every_steps', config.log_every_steps, least=1)
  checks.check_number('sam.rho', config.sam.rho, least=0)
  checks.check_number('sam.ascent_fraction', config.sam.ascent_fraction, above=0, most=1)
  if config.dropout_masks > 1 and not config.model.dropout_rate:
    raise ValueError(
      f'dropout_masks={config.dropout_masks} needs dropout to average over, and model.dropout_rate='
      f'{config.model.dropout_rate} names none: set it as well, to 0.4 in the paper'
    )
  _path(config, 'init_from')


def _check_input_keys(config: ml_collections.ConfigDict) -> None:
  """Checks where images come from, how they are read, and where batches are made."""
  dataset = config.dataset
  if not dataset.name:
    raise ValueError("dataset.name='' must be the name of a data set, such as 'folder'")
  _path(config, 'dataset.data_dir')
  checks.check_int('dataset.image_size', dataset.image_size, most=_LARGEST_IMAGE)
  checks.check_int('dataset.test_image_size', dataset.test_image_size, most=_LARGEST_IMAGE)
  checks.check_choice('dataset.on_bad_image', dataset.on_bad_image, sources.BAD_IMAGE_POLICIES)
  checks.check_choice('input', config.input, INPUTS)
  checks.check_int(
    'steps_per_dispatch', config.steps_per_dispatch, least=1, most=_MOST_STEPS_PER_DISPATCH
  )
  if config.input == 'device':
    _device_crop(config)
  elif config.steps_per_dispatch > 1:
    raise ValueError(
      f"steps_per_dispatch={config.steps_per_dispatch} needs input='device': its batches are "
      'made in the program of the step'
    )


def _path(config: ml_collections.ConfigDict, key: str) -> str:
  """The path that a key holds, see `paths.expand`; as written it stays in the config."""
  path = configs.flatten(config)[key]
  try:
    return paths.expand(path)
  except ValueError as error:
    raise ValueError(f'{key}={path!r}: {error}') from error


def check_memory(
  config: ml_collections.ConfigDict, data: Data, plan: plan_lib.Plan, network: Network
) -> None:
  """Checks that this machine can hold a batch and the parameters at all.

  Raises:
    ValueError: it cannot; the message names the key.
  """
  memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  height, width, channels = data.image_shape
  test_size = config.dataset.test_image_size
  test_pixels = test_size**2 if test_size else height * width
  state = jax.eval_shape(network.initial_state)
  needed = {
    f'batch_size={plan.multiplicity.batch_size}': (
      plan.batch_size_per_host * height * width * channels
    ),
    f'evaluation.batch_size={config.evaluation.batch_size}': (
      config.evaluation.batch_size // jax.process_count() * test_pixels * channels
    ),
    f'model.name={config.model.name!r}': sum(
      leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)
    ),
  }
  for key, size in needed.items():
    if size > memory:
      raise ValueError(
        f'{key} takes {size / 2**30:,.0f} GiB on this machine, which has {memory / 2**30:,.0f} GiB '
        'of memory'
      )


def read_config(workdir: str) -> ml_collections.ConfigDict | None:
  """Returns the config of the run in `workdir`; None if there is no run.

  Raises:
    ValueError: its `config.json` is damaged or of another version, or of several runs.
  """
  path = os.path.join(workdir, 'config.json')
  flat = records.read_object(path)
  if flat is None:
    return None
  try:
    config = configs.from_flat(flat)
    configs.check_keys(config)
  except ValueError as error:
    raise ValueError(
      f'{path} cannot be used: {error}. Is it damaged, or of another version of this package?'
    ) from error
  check_single(config, workdir)
  return config


def check_single(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Raises ValueError if `workdir` is of runs that trained together, and says where these are."""
  if are_runs_together(config):
    first, *_ = split_runs(config)
    raise ValueError(
      f'workdir={workdir!r} is of runs that trained together; give the folder of one of them, such '
      f'as {os.path.join(workdir, first)}'
    )


def _check_runs(config: ml_collections.ConfigDict) -> None:
  """Checks the runs that are to train together, if there are any."""
  asked = {'runs.seeds': config.runs.seeds, 'runs.learning_rates': config.runs.learning_rates}
  for key, values in asked.items():
    try:
      for value in values:
        if key == 'runs.seeds':
          checks.check_int('seed', value, most=_LARGEST_SEED)
        else:
          checks.check_number('optimizer.learning_rate', value, above=0)
    except ValueError as error:
      raise ValueError(f'{key}={checks.shown(values)}: {error}') from error
    if len(set(values)) < len(values):
      raise ValueError(f'{key}={values} names a value twice')
  if not are_runs_together(config):
    return
  if config.input != 'device':
    raise ValueError(
      f'runs.seeds={config.runs.seeds} and runs.learning_rates={config.runs.learning_rates} train '
      "together only with input='device', whose batches are made in the program of the step"
    )
  for single in split_runs(config).values():
    check(single)


def steps_key(config: ml_collections.ConfigDict) -> jax.Array:
  """Returns the PRNG key of the training steps."""
  return _key(config, 'steps')


def parameters_key(config: ml_collections.ConfigDict) -> jax.Array:
  """Returns the key of the initial parameters."""
  return _key(config, 'parameters')


def _key(config: ml_collections.ConfigDict, purpose: str) -> jax.Array:
  """The PRNG key that serves `purpose`."""
  return jnp.asarray(np.concatenate(addressed_random.key_for(config.seed, purpose)))


def read_options(config: ml_collections.ConfigDict, *, is_training: bool = True) -> Any:
  """Returns the `decoding.ReadOptions` for training or for evaluation."""
  from nfnets_augmult.data.decoding import ReadOptions

  test_image_size = config.dataset.test_image_size or config.dataset.image_size
  return ReadOptions(
    image_size=config.dataset.image_size if is_training else test_image_size,
    on_bad_image=config.dataset.on_bad_image,
    jpeg_scaling=config.dataset.jpeg_scaling,
    antialias=config.dataset.antialias,
    rules=_decode_rules(config),
  )


@renamed(DATASET_KEYS)
def _decode_rules(config: ml_collections.ConfigDict) -> DecodeRules:
  return DecodeRules(config.dataset.apply_orientation, config.dataset.max_pixels)


@renamed(EVALUATION_KEYS)
def make_evaluation_crop(config: ml_collections.ConfigDict) -> EvaluationCrop:
  """Returns what of an image the network sees in evaluation.

  Raises:
    ValueError: the message names the key.
  """
  return EvaluationCrop(config.evaluation.crop, config.evaluation.crop_padding)


def _solve_batch(config: ml_collections.ConfigDict) -> tuple[int, int, int]:
  return solve_batch(
    batch_size=config.batch_size,
    unique_images_per_batch=config.unique_images_per_batch,
    augmult=config.augmult,
    placement=config.placement,
  )


def _device_crop(config: ml_collections.ConfigDict) -> CropFlip:
  """The only augmentation that is made on the device."""
  augmentation = make_augmentation(config)
  if (
    augmentation.mixing.is_on
    or augmentation.randaugment.layers
    or config.augmentation.crop != 'pad'
  ):
    raise ValueError(
      "input='device' makes pad, crop and flip only: set augmentation.crop='pad', "
      'augmentation.randaugment.layers=0, augmentation.mixup.share=0 and '
      "augmentation.cutmix.share=0, or input='tf.data'"
    )
  return augmentation.crop


def _make_model(config: ml_collections.ConfigDict, *, num_classes: int) -> Any:
  options = config.model.to_dict()
  with renamed({key: f'model.{key}' for key in options}):
    return models.make_model(options.pop('name'), num_classes=num_classes, **options)


@renamed(OPTIMIZER_KEYS)
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
    axis_name=devices.AXIS_NAME if config.sam.synchronize else None,
    select_ascent=sam.first_slots(slots),
  )
