"""Records of runs that were never trained, for tests of statistics, tables and figures."""

from typing import Any

from nfnets_augmult import configs
from nfnets_augmult.recipes import tiny_digits_recipe
from nfnets_augmult.report.recorded_runs import TRAINING_LOSS, RecordedRun

METRIC = 'test/raw/top_1'


def make_run(
  accuracy: float | None = None, *, status: str = 'finished', loss: float = 1.0, **keys: Any
) -> RecordedRun:
  """Returns a run of 8 epochs with batches of 64; 100 updates are an epoch of n = 1.

  Args:
    accuracy: of a finished run, as `METRIC`.
    status: as in `RecordedRun`.
    loss: training loss of a finished run.
    **keys: config values by key, with `__` between the parts of a dotted one.
  """
  config = tiny_digits_recipe()
  config.batch_size = 64
  config.total_epochs = 8.0
  flat = {**configs.flatten(config), **{key.replace('__', '.'): v for key, v in keys.items()}}
  result = {}
  if status == 'finished':
    steps = round(100 * flat['total_epochs'] * flat['augmult'])
    result = {METRIC: accuracy, TRAINING_LOSS: loss, 'step': steps, 'epoch': steps / 100}
  return RecordedRun('a folder', status, '', flat, result)
