"""The quickstart made small, which many tests train in a few seconds, and what they do with it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments import quickstart_digits
from nfnets_augmult.models import MODELS, ModelSpec
from nfnets_augmult.models.random_by_slot import dropout, whole_batch
from nfnets_augmult.models.wide_resnet import SkipInitBlock
from nfnets_augmult.ops.checks import check_number
from nfnets_augmult.runs import training
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training.state import TrainState

TRAIN_IMAGES = 1437
TEST_IMAGES = 64


class ToyNet(hk.Module):
  """One narrow block of a Wide-ResNet and its classifier, which are traced and compiled soon."""

  def __init__(self, *, num_classes: int, dropout_rate: float | None = None):
    """As `WideResNet`."""
    super().__init__()
    self._num_classes = num_classes
    self._dropout_rate = dropout_rate or 0.0
    check_number('dropout_rate', self._dropout_rate, least=0, below=1)

  def __call__(
    self, images: jax.Array, *, is_training: bool, slot: jax.Array | None = None
  ) -> jax.Array:
    """Returns logits `[B, K]` of normalized `images` `[B, H, W, C]`."""
    features = jnp.mean(jax.nn.relu(SkipInitBlock(8, stride=2)(images)), axis=(1, 2))
    if is_training and self._dropout_rate:
      features = dropout(features, self._dropout_rate, whole_batch(images, slot))
    return hk.Linear(self._num_classes, name='classifier')(features)


# Known to this process alone: programs that a test starts need a model of the package.
MODELS['toy'] = ModelSpec(ToyNet, {}, 8, 8)
PACKAGE_MODEL = 'wrn_10_1'


def toy_config(**changes: Any) -> ml_collections.ConfigDict:
  """Returns 12 steps of 16 samples, four copies of four digits, evaluated after 6 and 12.

  On eight devices each has two of the samples. What is tested is the training, not the network.

  Args:
    **changes: values by key, with `__` between the parts of a dotted one.
  """
  config = quickstart_digits.get_config()
  config.dataset.test_split = f'test[:{TEST_IMAGES}]'
  config.model.name = 'toy'
  config.unique_images_per_batch = 4
  config.total_epochs = 0.0
  config.total_steps = 12
  config.evaluation.every_epochs = 6 * 4 / TRAIN_IMAGES
  config.evaluation.batch_size = 64
  config.evaluation.train_images = 32
  config.checkpoint.every_steps = 4
  config.log_every_steps = 3
  config.update_from_flattened_dict({k.replace('__', '.'): v for k, v in changes.items()})
  return config


def device_config(**changes: Any) -> ml_collections.ConfigDict:
  """Returns the same with batches made on the devices."""
  return toy_config(
    **{
      'input': 'device',
      'augmentation__pad': 2,
      'evaluation__every_epochs': 8 * 4 / TRAIN_IMAGES,
      'checkpoint__every_steps': 5,
      **changes,
    }
  )


def train_run(
  config: ml_collections.ConfigDict, workdir: str, **options: Any
) -> tuple[TrainState, dict[str, Any]]:
  """Returns the last state and the result of a run, trained from wherever it stands."""
  trained = training.train([Run(config, workdir).prepare()], **options)
  return trained.state, trained.results[0]


def stop_after(calls: int) -> Callable[[], bool]:
  """Returns a stop request that comes when it is looked at for the `calls`-th time."""
  count = iter(range(10**9))
  return lambda: next(count) >= calls


def assert_same_records(
  records_a: Sequence[Mapping[str, float]], records_b: Sequence[Mapping[str, float]], *, rtol: float
) -> None:
  """Everything but the speed is the same; with `rtol` 0 bit for bit.

  Two programs round differently, and an image whose two best classes are as good as equal may then
  fall on either side: shares of images may differ by two of them.
  """
  assert len(records_a) == len(records_b)
  for a, b in zip(records_a, records_b, strict=True):
    assert a.keys() == b.keys()
    for key in a.keys() - {'images_per_second'}:
      group, _, name = key.rpartition('/')
      num_images = a.get(f'{group}/count', 48)  # else of three steps of 16
      atol = 1e-6 if rtol else 0
      if rtol and name in ('top_1', 'top_5', 'accuracy'):
        atol += 2 / num_images
      np.testing.assert_allclose(a[key], b[key], rtol=rtol, atol=atol, err_msg=key)
