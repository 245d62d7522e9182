"""The config of a run: its keys and defaults, which experiments override.

A config holds the choices of the user. Its keys are read in `runs/settings.py`, and nowhere else.
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from nfnets_augmult.data.evaluation_crop import default_crop_padding
from nfnets_augmult.ops import checks


def default_config() -> ml_collections.ConfigDict:
  """Returns a complete, locked config: an unknown or misspelt key is an error."""
  config = ml_collections.ConfigDict()
  config.seed = 0  # of all randomness, in [0, 2**32)

  # Augmentation multiplicity. Set two of augmult, batch_size and unique_images_per_batch, and leave
  # the third at 0. batch_size and augmult: the fixed batch of Section 3; unique_images_per_batch
  # and augmult: the growing batch of Section 2.
  config.augmult = 1  # n, copies of each unique image
  config.batch_size = 0  # B, augmented samples per step, over all devices
  config.unique_images_per_batch = 0  # U
  # 'within': the n copies share a batch. 'neighbouring': n successive batches (Appendix C).
  config.placement = 'within'

  # Length of the run: one of the two, the other 0. An epoch is one pass over the unique images.
  config.total_epochs = 0.0
  config.total_steps = 0

  config.dataset = ml_collections.ConfigDict()
  # 'digits', 'folder', 'csv', 'arrays', or one of TensorFlow Datasets
  config.dataset.name = 'digits'
  config.dataset.data_dir = ''  # its folder; of 'csv' also the file
  config.dataset.train_split = 'train'  # or a part, as in 'train[:5000]', if held in memory
  config.dataset.test_split = 'test'
  # Of 'csv', a table that lists images. Columns: '' for one of a usual name, see docs/images.md.
  config.dataset.csv = ml_collections.ConfigDict()
  config.dataset.csv.path_column = ''
  config.dataset.csv.label_column = ''
  config.dataset.csv.split_column = ''  # 'none': hold out images, though there is such a column
  config.dataset.csv.group_column = ''  # images of one group stay together; 'none': they need not
  config.dataset.csv.image_dir = ''  # that paths are relative to, if not the folder of the table
  config.dataset.csv.test_fraction = 0.1  # of each class, held out if there is no split column
  # 'classes': every class is drawn equally often, so that images of small ones come several times
  # per epoch, each time augmented anew; see docs/images.md.
  config.dataset.balance = 'none'
  config.dataset.image_size = 0  # pixels; needed where images differ in size
  config.dataset.test_image_size = 0  # for evaluation; 0: as for training
  config.dataset.on_bad_image = 'fail'  # or 'skip': report, leave out of the loss, go on
  # Decode a JPEG at a half, a quarter or an eighth of its resolution where that leaves at least
  # twice the pixels that the network gets: much faster for large photographs.
  config.dataset.jpeg_scaling = True
  # Turn and mirror images as their EXIF orientation says. The published ImageNet pipeline does not.
  config.dataset.apply_orientation = True
  # Largest width x height of an image that is decoded; above it is a bad image. See docs/images.md.
  config.dataset.max_pixels = 64_000_000
  config.dataset.antialias = False  # widen the bicubic kernel where images shrink
  config.dataset.allow_download = False  # of data sets that are not prepared yet

  # Where batches are made. 'tf.data': on the host (mere crops of arrays without TensorFlow).
  # 'device': on the accelerator, which holds all training images if they are in memory and only
  # cropped, as in the CIFAR recipe, or else gets those of each step from the host; the same
  # batches, see docs/device_input.md. 'auto': 'tf.data' on CPUs, 'device' on accelerators.
  config.input = 'tf.data'
  # Pixels of the shorter and the longer side to which images are scaled down, if they are larger,
  # before they are sent to the accelerator.
  config.dataset.canvas = (384, 512)
  # 'host': keep these images in the memory of the host, decoded, so that each is decoded once.
  config.dataset.cache = 'none'
  config.steps_per_dispatch = 1  # how many the host asks for at once; above 1 if it sends no images

  config.augmentation = ml_collections.ConfigDict()
  # 'pad': pad, then crop the original size; images that differ in size are first cropped to the
  # centred square and resized. 'inception': a crop of random area and aspect ratio, resized.
  config.augmentation.crop = 'pad'
  config.augmentation.pad = 4  # pixels on each side before a random crop; 0: no crop
  config.augmentation.pad_mode = 'mirror'  # or 'constant', black
  config.augmentation.flip = True  # left to right; never for digits
  config.augmentation.inception = ml_collections.ConfigDict()
  config.augmentation.inception.area = (0.08, 1.0)  # least and largest share of the image
  config.augmentation.inception.aspect = (3 / 4, 4 / 3)  # least and largest width / height
  # Mixup and CutMix: the share of each batch, with labels mixed accordingly. Partners are always
  # different unique images.
  config.augmentation.mixup = ml_collections.ConfigDict()
  config.augmentation.mixup.share = 0.0
  config.augmentation.mixup.alpha = 0.2  # of Beta(alpha, alpha), the weight of the own image
  config.augmentation.cutmix = ml_collections.ConfigDict()
  config.augmentation.cutmix.share = 0.0
  config.augmentation.randaugment = ml_collections.ConfigDict()
  config.augmentation.randaugment.layers = 0  # operations per copy, one after another; 0: none
  config.augmentation.randaugment.magnitude = 10.0
  config.augmentation.randaugment.behaviour = 'reference'  # or 'pil', see data/randaugment.py
  config.augmentation.mix_first = True  # RandAugment gets the mixtures; False: mix its results

  config.model = ml_collections.ConfigDict()
  config.model.name = 'wrn_16_4'
  config.model.dropout_rate = ml_collections.config_dict.placeholder(float)  # None: the model's own
  # Number of dropout masks over which the loss of each sample is averaged (Appendix D). Batch size,
  # epochs and temperature stay the same; the masks share the augmentation and all layers below.
  config.dropout_masks = 1
  # Initial parameters: a .npz, a released NFNet file, one of timm's networks (.safetensors, or a
  # state dict saved by PyTorch; see docs/nfnets.md), or the work directory of another run. A
  # classifier for another number of classes is not loaded.
  config.init_from = ''
  # Groups of parameters that stay as they are: stem, stage_1 and so on, stages (all of them),
  # final_conv, classifier, with commas between them; all but the classifier trains that alone.
  config.freeze = ''
  config.freeze_steps = 0  # for how many updates, the rest trains all; 0: to the end
  # 'at_once': all groups train after that. 'gradually': one after another until then, that nearest
  # to the classifier first.
  config.unfreeze = 'at_once'
  config.compute_dtype = 'float32'  # or 'bfloat16'; parameters are float32

  config.label_smoothing = 0.0
  config.ema_decay = 0.999  # of the averaged parameters; min(this, (1 + t) / (10 + t))

  config.optimizer = ml_collections.ConfigDict()
  config.optimizer.learning_rate = 0.1  # peak
  config.optimizer.schedule = 'halving'  # or 'cosine', 'constant'
  config.optimizer.warmup_steps = 0  # from 0 up to the peak
  config.optimizer.momentum = 0.9
  config.optimizer.nesterov = False
  config.optimizer.weight_decay = 5e-4  # L2, on weights only

  # Adaptive gradient clipping: largest ratio of gradient to weight norm per unit; 0: none.
  config.optimizer.clipping = 0.0
  config.optimizer.clipping_eps = 1e-3  # least weight norm, so that zero weights can move

  # Sharpness-aware minimization: the gradient is taken after an ascent step of length rho; 0: none.
  config.sam = ml_collections.ConfigDict()
  config.sam.rho = 0.0
  config.sam.ascent_fraction = 1.0  # of the slots of a batch, evenly spaced; Brock et al. use 0.2
  # False: each device climbs the gradient of its own samples, as published. True: all devices climb
  # that of the global batch, and the number of devices does not matter.
  config.sam.synchronize = False

  config.evaluation = ml_collections.ConfigDict()
  config.evaluation.every_epochs = 1.0  # and after the last step
  # Also when so many minutes have passed since the last evaluation, or since the first step of this
  # start; 0: not by the clock.
  config.evaluation.every_minutes = 0.0
  config.evaluation.batch_size = 256  # over all devices; no effect on results
  # For images that differ in size. 'crop_then_resize': a centred square, smaller by a margin of
  # crop_padding pixels in total at the network's resolution. 'resize_then_crop': the whole image
  # resized to a square that is larger by crop_padding, and its central crop.
  config.evaluation.crop = 'crop_then_resize'
  # None: 0 with augmentation.crop='pad'; with 'inception' 32, as published, from 224 pixels on, and
  # a seventh of the resolution below.
  config.evaluation.crop_padding = ml_collections.config_dict.placeholder(int)
  # Number of un-augmented training images to evaluate: -1 for all, as in the paper's figures, 0 for
  # none.
  config.evaluation.train_images = -1

  config.checkpoint = ml_collections.ConfigDict()
  config.checkpoint.every_steps = 1000  # and before every evaluation
  config.checkpoint.keep = 2  # the latest, besides the best

  config.log_every_steps = 50
  config.lock()
  return config


# Names of the types of values, for errors.
KINDS = {
  bool: 'True or False',
  int: 'a whole number',
  float: 'a number',
  str: 'text',
  list: 'values with commas between them',
}


def check_keys(config: ml_collections.ConfigDict) -> None:
  """Checks that a config has the keys of `default_config`, with values of their types.

  `model` may have other keys, which the model checks itself.

  Raises:
    ValueError: a key is missing or unknown, or its value of another type.
  """
  if not isinstance(config, ml_collections.ConfigDict):
    raise ValueError(
      'get_config() must return a config as default_config() makes it, not a '
      f'{type(config).__name__}'
    )
  given, defaults = flatten(config), flatten(default_config())
  if missing := sorted(defaults.keys() - given.keys()):
    raise ValueError(
      f'{missing[0]} is missing from the config: start from default_config() of '
      'nfnets_augmult.configs'
    )
  if unknown := [key for key in given if key not in defaults and not key.startswith('model.')]:
    raise ValueError(f'{unknown[0]!r} is no key of a config: nothing reads it')
  for key, default in defaults.items():
    value = given[key]
    if default is None and value is None:
      continue
    kind = float if default is None else type(default)
    if isinstance(value, int) and not isinstance(value, bool) and kind is float:
      continue
    if type(value) is not kind:
      raise ValueError(f'{key}={checks.shown(value)} must be {KINDS[kind]}')
    if kind is str:
      checks.check_text(key, value)


# Keys of earlier versions, which described several runs in one config.
RETIRED = ('runs.seeds', 'runs.learning_rates')

# Keys that may change when a run is resumed, as they do not affect its results.
FREE_KEYS = (
  'dataset.data_dir',
  'dataset.csv.image_dir',
  'dataset.allow_download',
  'dataset.cache',
  'evaluation.every_minutes',
  'evaluation.batch_size',
  'checkpoint.every_steps',
  'checkpoint.keep',
  'log_every_steps',
)


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
  """Returns a text for each key, except `FREE_KEYS`, in which two flat configs differ.

  Keys newer than a config have their defaults.
  """
  ours, theirs = _comparable(ours), _comparable(theirs)
  return [
    f'{key} ({theirs.get(key, "absent")!r} there, {ours.get(key, "absent")!r} now)'
    for key in sorted({*ours, *theirs})
    if key not in FREE_KEYS and ours.get(key) != theirs.get(key)
  ]


def _comparable(flat: Mapping[str, Any]) -> dict[str, Any]:
  """With the padding that None means; earlier versions wrote 32, also where it has no effect."""
  full = with_defaults(flat)
  size = full['dataset.test_image_size'] or full['dataset.image_size']
  if not size:
    full['evaluation.crop_padding'] = None
  elif full['evaluation.crop_padding'] is None:
    full['evaluation.crop_padding'] = default_crop_padding(size, full['augmentation.crop'])
  return full


def with_defaults(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a flat config of an earlier version with the keys of this one.

  New keys have their defaults, or the value that reproduces the earlier version. Retired keys are
  left out if not set.
  """
  earlier = {}
  if flat.get('dataset.image_size'):
    earlier = {'dataset.apply_orientation': False, 'evaluation.crop_padding': 32}
  kept = {key: value for key, value in flat.items() if value or key not in RETIRED}
  return {**flatten(default_config()), **earlier, **kept}


def from_flat(flat: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """Returns the config with the values `flat` by dotted key, as in `config.json`.

  Missing keys are added by `with_defaults`.

  Raises:
    ValueError: `flat` is not such a mapping.
  """
  if not isinstance(flat, Mapping):
    raise ValueError(f'a config must have keys with values, and this is a {type(flat).__name__}')
  nested: dict[str, Any] = {}
  for dotted, value in with_defaults(flat).items():
    *groups, key = dotted.split('.')
    node = nested
    for group in groups:
      node = node.setdefault(group, {})
      if not isinstance(node, dict):
        raise ValueError(f'{dotted} and {group} cannot both be keys of a config')
    node[key] = tuple(value) if isinstance(value, list) else value
  return ml_collections.ConfigDict(nested).lock()


def flatten(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Returns the values of a config by dotted key, as JSON values."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      flat |= {f'{key}.{rest}': leaf for rest, leaf in flatten(value).items()}
    else:
      flat[key] = list(value) if isinstance(value, tuple) else value
  return flat
