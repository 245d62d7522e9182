"""Training of normalizer-free networks with augmentation multiplicity, in JAX and Haiku.

`__all__` has the public names; docs/library.md describes them and has a training loop with them.
"""

import importlib
import sys

__version__ = '0.1.0'

# `python -m nfnets_augmult.PROGRAM` imports this first. Until the program sets up its own handler,
# see `ops/console.py`, an interrupt ends the process without a traceback.
if sys.argv[:1] == ['-m']:
  import signal

  signal.signal(signal.SIGINT, signal.SIG_DFL)

# Where the public names are defined. Modules are imported when a name is first used, so that
# `import nfnets_augmult` does not import JAX, and only the last two names import TensorFlow.
_DEFINED_AS = {
  # Augmentation multiplicity: which image and copy fills each slot of a batch.
  'solve_batch': 'training.plan.solve_batch',
  'Multiplicity': 'data.multiplicity.Multiplicity',
  'Slots': 'data.multiplicity.Slots',
  # Crops and flips.
  'CropFlip': 'data.crop_flip.CropFlip',
  'draw_crop_flip': 'data.crop_flip.draw',
  'crop_and_flip': 'data.crop_flip.crop_and_flip',
  'crop_and_flip_on_device': 'data.device_input.crop_and_flip',
  'InceptionCrop': 'data.inception_crop.InceptionCrop',
  'draw_inception_crop': 'data.inception_crop.draw',
  'inception_boxes': 'data.inception_crop.boxes',
  'EvaluationCrop': 'data.evaluation_crop.EvaluationCrop',
  # RandAugment, Mixup and CutMix.
  'RandAugment': 'data.randaugment.RandAugment',
  'draw_randaugment': 'data.randaugment.draw',
  'Mixing': 'data.mixing.Mixing',
  'Mix': 'data.mixing.Mix',
  'mix_slots': 'data.mixing.mix_slots',
  # Networks and their parameters.
  'make_model': 'models.make_model',
  'model_spec': 'models.model_spec',
  'read_params': 'weights.param_files.read_params',
  'write_npz': 'weights.param_files.write_npz',
  'load_pretrained': 'weights.pretrained.load_pretrained',
  # Updates.
  'sgd': 'optim.sgd.sgd',
  'make_schedule': 'optim.schedules.make_schedule',
  'adaptive_gradient_clipping': 'optim.agc.adaptive_gradient_clipping',
  'clip_unitwise': 'optim.agc.clip_unitwise',
  'is_clipped': 'optim.agc.is_clipped',
  'param_groups': 'optim.freezing.param_groups',
  'sharpness_aware': 'optim.sam.sharpness_aware',
  'ascent_slots': 'optim.sam.ascent_slots',
  'take_slots': 'optim.sam.take_slots',
  'ema_decay_at': 'optim.ema.decay_at',
  'ema_update': 'optim.ema.update',
  # Predictions of a trained network.
  'load_predictor': 'runs.predicting.load_predictor',
  # Image operations in TensorFlow.
  'apply_randaugment': 'data.randaugment_ops.apply_layers',
  'mix_pair': 'data.mixing_ops.mix_pair',
}
__all__ = list(_DEFINED_AS)


def __getattr__(name: str) -> object:
  """Imports a public name when it is first used."""
  if name not in _DEFINED_AS:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  module, _, attribute = _DEFINED_AS[name].rpartition('.')
  value = getattr(importlib.import_module(f'{__name__}.{module}'), attribute)
  globals()[name] = value
  return value


def __dir__() -> list[str]:
  """Lists the public names, used or not yet."""
  return sorted({*globals(), *_DEFINED_AS})
