"""The smallest training of digits, as flags of the train program."""

from experiments import quickstart_digits
from nfnets_augmult import configs
from tests.toy_runs import PACKAGE_MODEL, device_config

CONFIG = '--config=experiments/quickstart_digits.py'
STEPS = 160
# Long enough to be interrupted after the first of its checkpoints.
CHANGES = {
  'model__name': PACKAGE_MODEL,
  'total_steps': STEPS,
  'evaluation__every_epochs': 100.0,
  'evaluation__train_images': 0,
  'checkpoint__every_steps': 8,
  'log_every_steps': 8,
}


def toy_flags() -> list[str]:
  """Returns `--config` and its overrides."""
  plain = configs.flatten(quickstart_digits.get_config())
  changed = configs.flatten(device_config(**CHANGES))
  return [CONFIG, *(f'--config.{k}={v}' for k, v in changed.items() if v != plain[k])]
