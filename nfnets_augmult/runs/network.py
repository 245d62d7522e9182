"""The network of a run: its functions, initial parameters and update."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from nfnets_augmult import models
from nfnets_augmult.data import sources
from nfnets_augmult.models import table
from nfnets_augmult.ops import addressed_random, dead_code, files
from nfnets_augmult.optim import freezing, sam, schedules
from nfnets_augmult.runs.images import Data
from nfnets_augmult.runs.settings import Settings
from nfnets_augmult.training import devices, hosts
from nfnets_augmult.training import state as state_lib
from nfnets_augmult.training import step as step_lib
from nfnets_augmult.training.checkpoints import CheckpointError, Checkpoints
from nfnets_augmult.training.feeding import TrainStep
from nfnets_augmult.training.plan import Plan
from nfnets_augmult.weights import param_files, pretrained


@dataclasses.dataclass(frozen=True)
class Network:
  """The pure functions of a run; none depends on its seed.

  Attributes:
    initial_state: from a PRNG key, see `parameters_key`, to the first state. Not to be jitted:
      eagerly, draws share small programs, see `models/initializers.py`, while jit compiles those
      of every block, which takes minutes for a deep network.
    classifier: see `step.make_classifier`.
    optimizer: see `sgd.sgd`.
    evaluation_step: of one device.
  """

  initial_state: Callable[..., state_lib.TrainState]
  classifier: step_lib.Classifier
  optimizer: optax.GradientTransformation
  evaluation_step: Callable[..., Any]

  @functools.cached_property
  def abstract_state(self) -> state_lib.TrainState:
    """The shapes and dtypes of a state."""
    return jax.eval_shape(self.initial_state, parameters_key(0))


class InitialParams(NamedTuple):
  """Parameters to start from, and whether their classes differ from those of the run."""

  params: Any
  has_other_classes: bool


def steps_key(seed: int) -> jax.Array:
  """Returns the PRNG key of the training steps of a run."""
  return _key(seed, 'steps')


def parameters_key(seed: int) -> jax.Array:
  """Returns the PRNG key of the initial parameters of a run."""
  return _key(seed, 'parameters')


def _key(seed: int, purpose: str) -> jax.Array:
  return jnp.asarray(np.concatenate(addressed_random.key_for(seed, purpose)))


def make_network(settings: Settings, data: Data) -> Network:
  """Returns model and optimiser for the image shape and the classes of `data`."""
  model = settings.make_model(len(data.train.class_names))
  classifier = step_lib.make_classifier(
    model.apply, normalization=data.normalization, compute_dtype=settings.compute_dtype
  )

  def initial_state(key: jax.Array) -> state_lib.TrainState:
    images = jnp.zeros((1, *data.image_shape), jnp.float32)
    params = dead_code.evaluate(functools.partial(model.init, is_training=True), key, images)
    return state_lib.initial_state(params, settings.optimizer)

  return Network(
    initial_state,
    classifier,
    settings.optimizer,
    step_lib.make_evaluation_step(classifier=classifier),
  )


def check_groups(settings: Settings, num_classes: int) -> None:
  """Raises ValueError unless the model has the groups of parameters that are to be frozen."""
  if settings.freeze:
    size = models.model_spec(settings.model_name).train_image_size
    params = table.abstract_params(settings.make_model(num_classes), size)
    freezing.frozen(params, settings.freeze)


def check_images_fit(network: Network, image_shape: Sequence[int], *, model_name: str) -> None:
  """Traces the network for one image, without computing anything.

  Raises:
    ValueError: the model does not take images of this size or number of channels.
  """
  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
  classify = functools.partial(network.classifier, is_training=False)
  try:
    jax.eval_shape(classify, network.abstract_state.params, None, images)
  except (TypeError, ValueError) as error:
    shape = ' x '.join(map(str, image_shape))
    raise ValueError(
      f'model.name={model_name!r} does not take images of {shape}: {str(error).splitlines()[0]}'
    ) from error


def make_train_step(
  settings: Settings, network: Network, plan: Plan, schedule: schedules.Schedule | None = None
) -> TrainStep:
  """Returns the update of one device.

  Args:
    settings: of the run.
    network: of the run.
    plan: of the run.
    schedule: overrides the run's; it may close over traced arrays.
  """
  return step_lib.make_train_step(
    classifier=network.classifier,
    optimizer=network.optimizer,
    schedule=schedule or settings.make_schedule(plan.total_steps),
    ema_decay=settings.ema_decay,
    label_smoothing=settings.label_smoothing,
    dropout_masks=settings.dropout_masks,
    is_frozen=_is_frozen(settings),
    sharpness=_sharpness(settings, plan),
  )


def _is_frozen(settings: Settings) -> Callable[[Any], Any] | None:
  """Returns which parameters need no gradient at any step; None for none."""
  if not settings.freeze or settings.freeze_steps:
    return None
  return functools.partial(freezing.frozen, names=settings.freeze)


def _sharpness(settings: Settings, plan: Plan) -> Callable[..., Any] | None:
  """Returns the SAM transformation of the gradient, or None."""
  if not settings.sam.rho:
    return None
  batch_size, fraction = plan.multiplicity.batch_size, settings.sam.ascent_fraction
  slots = sam.ascent_slots(batch_size=batch_size, ascent_fraction=fraction)
  if len(slots) < plan.device_count and not settings.sam.synchronize:
    raise ValueError(
      f'sam.ascent_fraction={fraction} of batch_size={batch_size} is {len(slots)} samples, too few '
      f'for {plan.device_count} devices that each climb the gradient of their own: raise it, or '
      'set sam.synchronize=True'
    )
  return functools.partial(
    sam.sharpness_aware,
    rho=settings.sam.rho,
    axis_name=devices.AXIS_NAME if settings.sam.synchronize else None,
    select_ascent=sam.take_slots(slots, batch_size=batch_size) if fraction < 1 else None,
  )


def read_initial_params(
  path: str, network: Network, class_names: Sequence[str], *, freeze: Sequence[str] = ()
) -> InitialParams | None:
  """Returns the parameters to start from, or None without a path; checks names and shapes.

  The first of several hosts reads them for all.

  Args:
    path: a parameter file or the work directory of a run; or ''.
    network: of the run.
    class_names: of the run. If those of the parameters are known and differ, in names or order, the
      classifier is not loaded.
    freeze: groups of parameters that stay as they are, so that they must be loaded.

  Raises:
    ValueError: they do not exist, cannot be read, are of another network, or lack what is to stay.
  """
  if not path:
    return None
  read = functools.cache(lambda: _read_initial_params(path, network, class_names, freeze))

  def describe() -> tuple[bool, list[str]]:
    return read().has_other_classes, list(param_files.flatten(read().params))

  has_other_classes, names = hosts.from_first_host(describe)
  arrays = hosts.arrays_from_first_host(lambda: list(param_files.flatten(read().params).values()))
  params = param_files.unflatten(dict(zip(names, arrays, strict=True)))
  return InitialParams(params, has_other_classes)


def _read_initial_params(
  path: str, network: Network, class_names: Sequence[str], freeze: Sequence[str]
) -> InitialParams:
  if not files.exists(path):
    raise ValueError(f'init_from={path!r} does not exist')
  try:
    if files.is_dir(path):
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
    params, report = _merge(network.abstract_state.params, initial)
    frozen = param_files.flatten(freezing.frozen(params, freeze))
    if random := [name for name in report.kept_fresh if frozen[name]]:
      raise ValueError(
        f'it has no {random[0]} for these classes, which freeze={",".join(freeze)!r} would keep at '
        'random values: leave its group out of freeze'
      )
  except (ValueError, CheckpointError, OSError) as error:
    raise ValueError(f'init_from={path!r}: {error}') from error
  return initial


def _merge(params: Any, initial: InitialParams) -> tuple[Any, pretrained.LoadReport]:
  return pretrained.load_pretrained(
    params, initial.params, fresh_classifier=initial.has_other_classes
  )


def first_state(
  network: Network, key: jax.Array, initial: InitialParams | None = None
) -> tuple[state_lib.TrainState, pretrained.LoadReport | None]:
  """Returns the state before the first step, NumPy arrays, and a report of what was loaded."""
  state = jax.device_get(network.initial_state(key))
  if initial is None:
    return state, None
  params, report = _merge(state.params, initial)
  return jax.device_get(state_lib.initial_state(params, network.optimizer)), report
