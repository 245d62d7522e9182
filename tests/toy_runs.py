"""The quickstart made small, which many tests train in a few seconds, and what they do with it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from experiments import quickstart_digits
from nfnets_augmult.runs import training
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training.state import TrainState

TRAIN_IMAGES = 1437
TEST_IMAGES = 64


def toy_config(**changes: Any) -> ml_collections.ConfigDict:
  """Returns 12 steps of 16 samples, four copies of four digits, evaluated after 6 and 12.

  On eight devices each has two of the samples.

  Args:
    **changes: values by key, with `__` between the parts of a dotted one.
  """
  config = quickstart_digits.get_config()
  config.dataset.test_split = f'test[:{TEST_IMAGES}]'
  config.model.name = 'wrn_10_1'
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
