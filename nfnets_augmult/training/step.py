"""The training and evaluation steps, as ordinary functions of one device; see `devices`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jmp
import optax

from nfnets_augmult.ops import checks, collectives
from nfnets_augmult.optim import ema, sam
from nfnets_augmult.optim.schedules import Schedule
from nfnets_augmult.training import losses
from nfnets_augmult.training.devices import AXIS_NAME
from nfnets_augmult.training.state import TrainState

COMPUTE_DTYPES = ('float32', 'bfloat16')
# All masks of a batch are in memory at once; the paper uses up to 16.
_MOST_DROPOUT_MASKS = 4096

Metrics = dict[str, jax.Array]
# From (params, key, images, *, is_training, slot) to logits: uint8 [B, H, W, C] to float32 [B, K].
Classifier = Callable[..., jax.Array]


class Normalization(NamedTuple):
  """Mean and standard deviation per channel of uint8 images, in [0, 255]."""

  mean: tuple[float, ...]
  std: tuple[float, ...]


def make_classifier(
  apply_fn: Callable[..., jax.Array], *, normalization: Normalization, compute_dtype: str
) -> Classifier:
  """Returns `apply_fn` with normalization of its inputs and in mixed precision.

  Images are transferred as uint8, a quarter of the bytes.

  Args:
    apply_fn: `(params, key, images, *, is_training, slot)` to logits, see `models.make_model`.
    normalization: subtracted from and divided into each channel.
    compute_dtype: `'float32'` or `'bfloat16'`; parameters and results are always float32.

  Raises:
    ValueError: another dtype.
  """
  checks.check_choice('compute_dtype', compute_dtype, COMPUTE_DTYPES)
  policy = jmp.get_policy(f'params=float32,compute={compute_dtype},output=float32')

  def classifier(
    params: Any,
    key: jax.Array,
    images: jax.Array,
    *,
    is_training: bool,
    slot: jax.Array | None = None,
  ) -> jax.Array:
    mean, std = (jnp.asarray(values, jnp.float32) for values in normalization)
    inputs = (images.astype(jnp.float32) - mean) / std
    params, inputs = policy.cast_to_compute((params, inputs))
    return policy.cast_to_output(apply_fn(params, key, inputs, is_training=is_training, slot=slot))

  return classifier


def make_update(
  *, optimizer: optax.GradientTransformation, schedule: Schedule, ema_decay: float
) -> Callable[[TrainState, Any], TrainState]:
  """Returns the part of an update that follows the gradient: optimiser, descent and average.

  The function maps the state and the gradient of the global batch to the next state. The arguments
  are those of `make_train_step`.

  Raises:
    ValueError: `ema_decay` is out of range.
  """
  checks.check_number('ema_decay', ema_decay, least=0, below=1)

  def descend(
    params: Any, opt_state: Any, gradient: Any, learning_rate: jax.Array
  ) -> tuple[Any, Any]:
    direction, opt_state = optimizer.update(gradient, opt_state, params)
    return jax.tree.map(lambda p, d: p - learning_rate * d, params, direction), opt_state

  def update(state: TrainState, gradient: Any) -> TrainState:
    unfused = _without_cpu_fusion(descend, state.step)
    params, opt_state = unfused(state.params, state.opt_state, gradient, schedule(state.step))
    ema_params = ema.update(state.ema_params, params, decay=ema.decay_at(state.step, ema_decay))
    return TrainState(state.step + 1, params, opt_state, ema_params)

  return update


def _without_cpu_fusion(
  descend: Callable[..., tuple[Any, Any]], step: jax.Array
) -> Callable[..., tuple[Any, Any]]:
  """Returns `descend`, on CPU without fusion with the moving average that follows it.

  Fused, XLA on CPU computes the new parameters twice and must copy the old parameters and momenta
  instead of overwriting them: the update took 1.5 times as long. XLA removes
  `jax.lax.optimization_barrier` before fusion, but keeps a conditional, here one that is always
  true. Not measured on other backends, which call `descend` as it is.
  """
  if jax.default_backend() != 'cpu':
    return descend

  def stay(params: Any, opt_state: Any, *unused: Any) -> tuple[Any, Any]:
    return params, opt_state

  return lambda *arguments: jax.lax.cond(step >= 0, descend, stay, *arguments)


def make_train_step(
  *,
  classifier: Classifier,
  optimizer: optax.GradientTransformation,
  schedule: Schedule,
  ema_decay: float,
  label_smoothing: float = 0.0,
  dropout_masks: int = 1,
  is_frozen: Callable[[Any], Any] | None = None,
  sharpness: Callable[[sam.ValueAndGrad], sam.ValueAndGrad] | None = None,
  axis_name: str = AXIS_NAME,
) -> Callable[[TrainState, dict[str, jax.Array], jax.Array], tuple[TrainState, Metrics]]:
  """Returns the update of one device, see `devices.on_each_device`.

  The function takes the state, a batch with `image` uint8 `[B, H, W, C]`, `label` int32 `[B]` and
  `mask` float32 `[B]` (mixed images: also `partner_label` and `mix_weight`, see
  `losses.mixed_labels`), and the PRNG key of the run; it returns the next state, equal on all
  devices, and float32 scalars: the `loss` and the `accuracy` over all copies of the global batch,
  both before the update, the `gradient_norm` and the `learning_rate`. The accuracy of a mixed image
  is by its label of larger weight.

  The batches of all devices one after another are the whole batch; the place of a sample in it is
  its slot. Dropout and stochastic depth are a function of (key, step, slot), so that the number of
  devices changes results by rounding alone.

  Args:
    classifier: see `make_classifier`.
    optimizer: from the gradient to a direction, without the learning rate.
    schedule: learning rate.
    ema_decay: of the average of the parameters, in `[0, 1)`.
    label_smoothing: see `losses.cross_entropy`.
    dropout_masks: number of dropout masks over which the loss of each sample is averaged; 1 is
      ordinary dropout. See `losses.mean_over_masks`.
    is_frozen: from the parameters to a tree of booleans; the gradient of true ones is zero, and
      what only they need is not computed. None for none.
    sharpness: makes the gradient sharpness-aware, see `sam.sharpness_aware`; loss and accuracy are
      then those at the perturbed parameters. None for the plain gradient.
    axis_name: of the devices.

  Raises:
    ValueError: `ema_decay`, `label_smoothing` or `dropout_masks` is out of range.
  """
  checks.check_number('label_smoothing', label_smoothing, least=0, below=1)
  checks.check_int('dropout_masks', dropout_masks, least=1, most=_MOST_DROPOUT_MASKS)
  update = make_update(optimizer=optimizer, schedule=schedule, ema_decay=ema_decay)

  def loss_fn(
    params: Any, batch: dict[str, jax.Array], key: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    if is_frozen is not None:
      params = jax.tree.map(
        lambda param, stays: jax.lax.stop_gradient(param) if stays else param,
        params,
        is_frozen(params),
      )

    def losses_and_hits(key: jax.Array) -> tuple[jax.Array, jax.Array]:
      logits = classifier(params, key, batch['image'], is_training=True, slot=batch['slot'])
      labels = losses.mixed_labels(batch, logits.shape[-1])
      loss_per_copy = losses.cross_entropy(logits, labels, label_smoothing=label_smoothing)
      return loss_per_copy, losses.in_top_k(logits, losses.main_label(batch), 1).astype(jnp.float32)

    loss_per_copy, hits = losses.mean_over_masks(losses_and_hits, key, num_masks=dropout_masks)
    return losses.masked_mean(loss_per_copy, batch['mask'], axis_name=axis_name), hits

  value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
  if sharpness is not None:
    value_and_grad = sharpness(value_and_grad)

  def train_step(
    state: TrainState, batch: dict[str, jax.Array], key: jax.Array
  ) -> tuple[TrainState, Metrics]:
    held = len(batch['mask'])
    batch = dict(batch, slot=jax.lax.axis_index(axis_name) * held + jnp.arange(held))
    key_per_step = jax.random.fold_in(key, state.step)
    (loss, hits), gradient = value_and_grad(state.params, batch, key_per_step)
    accuracy = losses.masked_mean(hits, batch['mask'], axis_name=axis_name)
    gradient, loss, accuracy = collectives.mean((gradient, loss, accuracy), axis_name)
    metrics = {
      'loss': loss,
      'accuracy': accuracy,
      'gradient_norm': optax.global_norm(gradient),
      'learning_rate': schedule(state.step),
    }
    return update(state, gradient), metrics

  return train_step


def make_evaluation_step(
  *, classifier: Classifier, axis_name: str = AXIS_NAME
) -> Callable[[Any, dict[str, jax.Array]], Metrics]:
  """Returns the evaluation of one batch on one device, see `devices.on_each_device`.

  The function takes params and a batch, see `make_train_step`, and returns sums over the samples of
  all devices with mask 1: `count`, `cross_entropy`, `top_1` and `top_5`.
  """

  def evaluation_step(params: Any, batch: dict[str, jax.Array]) -> Metrics:
    logits = classifier(params, None, batch['image'], is_training=False)
    sums = {
      'count': jnp.ones(logits.shape[0]),
      'cross_entropy': losses.cross_entropy(logits, batch['label']),
      'top_1': losses.in_top_k(logits, batch['label'], 1),
      'top_5': losses.in_top_k(logits, batch['label'], 5),
    }
    return jax.lax.psum(
      jax.tree.map(lambda x: jnp.sum(jnp.where(batch['mask'] > 0, x, 0.0)), sums), axis_name
    )

  return evaluation_step
