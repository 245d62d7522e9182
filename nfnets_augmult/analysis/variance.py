"""How much of the gradient's variance comes from sampling images, and how much from augmentation.

    python -m nfnets_augmult.analysis.variance --workdir=runs/quickstart_digits
        [--config=FILE.py --config.KEY=VALUE ...] [--checkpoint=latest] [--data_dir=DIR]
        [--blocks=16] [--images_per_block=16] [--copies=4] [--augmults=1,2,4,8,16]
        [--minibatches=0] [--draw_only]

The parameters are those of a checkpoint of the run in the work directory, or, with
`--checkpoint=initialization`, those before the first step. Data set, augmentation, batch sizes and
model are those of the run, or of `--config` where one is given. Prints a table over n and what
follows from it, and leaves `variance.json` and `variance.png` in the work directory; with
`--minibatches=M` it also measures the variance between M mini-batches for every n, the paper's
Figure 9, and leaves `fig9.png`. `--draw_only` makes tables and pictures anew from `variance.json`.

A program, though it lies in this room: it may import everything, and nothing may import it.
"""

import dataclasses
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
import jax
import ml_collections
import numpy as np
from absl import flags, logging

from nfnets_augmult import assembly, configs
from nfnets_augmult.analysis import gradient_variance, variance_report
from nfnets_augmult.data.multiplicity import MAX_AUGMULT, Multiplicity
from nfnets_augmult.data.sources import BadDataError, Source
from nfnets_augmult.ops import addressed_random, checks
from nfnets_augmult.training import records
from nfnets_augmult.training.checkpoints import CheckpointError, Checkpoints

# Blocks of mini-batches; from how much their variances differ follow the intervals.
_MINIBATCH_BLOCKS = 8
_SECONDS_BETWEEN_REPORTS = 5.0
# Of one image, to see whether the network draws at random.
_COPIES_TO_COMPARE = 32


def measure(
  config: ml_collections.ConfigDict,
  workdir: str,
  *,
  checkpoint: str = 'latest',
  blocks: int = 16,
  images_per_block: int = 16,
  copies: int = 4,
  augmults: Sequence[int] = (1, 2, 4, 8, 16),
  minibatches: int = 0,
) -> variance_report.Raw:
  """Returns the raw numbers of `variance.json`: settings, and variances by block and layer.

  Args:
    config: data set, augmentation, batch sizes, model and seed.
    workdir: of the run whose checkpoint is read.
    checkpoint: `'latest'`, `'best'`, the number of a step, or `'initialization'`.
    blocks: R, independent estimates, at least 2.
    images_per_block: at least 2; `blocks` times as many different images are used.
    copies: augmented copies of each, at least 2.
    augmults: values of n.
    minibatches: for each n and scheme, between which the variance is measured; 0 for none.

  Raises:
    ValueError: config, data and numbers do not go together; the message says which.
    CheckpointError: no such checkpoint, or of another model.
    BadDataError: an image does not decode.
  """
  assembly.check(config)
  _check_augmentation(config)
  _check_numbers(blocks, images_per_block, copies, augmults, minibatches)
  if assembly.needs_tensorflow(config):
    command_line.import_tensorflow_quietly()
  data = assembly.load_data(config)
  if checkpoint != 'initialization' and (then := records.read_data_description(workdir)):
    data = assembly.as_trained(assembly.match_classes(data.train, then['class_names']), then)
  num_images = data.train.num_images
  if blocks * images_per_block > num_images:
    raise ValueError(
      f'--blocks={blocks} times --images_per_block={images_per_block} are more than the '
      f'{num_images} images of {data.train.description}; lower one of them'
    )
  sizes = assembly.make_plan(config, num_images).multiplicity
  if minibatches:
    for n in augmults:  # what cannot be drawn is refused before the first measurement
      Multiplicity(num_images, sizes.unique_images_per_batch, n, config.seed)
  subject, step = _load_subject(config, data, workdir, checkpoint)
  start = time.monotonic()
  seed = _seed(config, 'gradient variance')
  image, augmentation, squared_norm = gradient_variance.image_and_augmentation_variance(
    subject.gradient,
    subject.params,
    subject.batches(seed, unique_images=images_per_block, augmult=copies, count=blocks),
    copies=copies,
    key=jax.random.PRNGKey(seed),
  )
  raw = {
    'config': configs.flatten(config),
    'checkpoint': checkpoint,
    'step': step,
    'num_images': num_images,
    'unique_images_per_batch': sizes.unique_images_per_batch,
    'batch_size': sizes.batch_size,
    'augmults': list(augmults),
    'images_per_block': images_per_block,
    'copies': copies,
    'network_draws': subject.network_draws(),
    'layers': gradient_variance.layer_names(subject.params),
    'layer_sizes': gradient_variance.layer_sizes(subject.params).tolist(),
    'image': image.tolist(),
    'augmentation': augmentation.tolist(),
    'squared_norm_of_mean_gradient': squared_norm,
    'minibatches': [],
    'versions': records.versions(),
  }
  if minibatches:
    raw['minibatches'] = _measure_minibatches(subject, variance_report.compared(raw), minibatches)
  return {**raw, 'seconds': time.monotonic() - start}


def _check_augmentation(config: ml_collections.ConfigDict) -> None:
  """Raises ValueError if samples are mixtures: they belong to no image alone."""
  mixing = assembly.make_augmentation(config).mixing
  if mixing.is_on:
    raise ValueError(
      f'augmentation.mixup.share={mixing.mixup:g} and augmentation.cutmix.share={mixing.cutmix:g}: '
      'a mixed sample depends on two images, so the variance does not split into that over images '
      'and that over augmentations; give a --config and set both keys to 0'
    )


def _check_numbers(
  blocks: int, images_per_block: int, copies: int, augmults: Sequence[int], minibatches: int
) -> None:
  """Raises ValueError for a number that allows no estimate."""
  checks.check_int('--blocks', blocks, least=2)
  checks.check_int('--images_per_block', images_per_block, least=2)
  checks.check_int('--copies', copies, least=2, most=MAX_AUGMULT)
  if not augmults:
    raise ValueError('--augmults= must be whole numbers with commas between them')
  for n in augmults:
    checks.check_int('--augmults', n, least=1, most=MAX_AUGMULT)
  checks.check_int('--minibatches', minibatches)
  if minibatches and minibatches < 2 * _MINIBATCH_BLOCKS:
    raise ValueError(
      f'--minibatches={minibatches} must be 0, for none, or at least {2 * _MINIBATCH_BLOCKS}'
    )


def _load_params(
  config: ml_collections.ConfigDict,
  data: assembly.Data,
  network: assembly.Network,
  workdir: str,
  checkpoint: str,
) -> tuple[Any, int]:
  """The raw parameters of a checkpoint, and its step."""
  if checkpoint == 'initialization':
    loaded = assembly.read_initial_params(config, network, data.train.class_names)
    return assembly.first_state(network, loaded)[0].params, 0
  with Checkpoints(workdir, read_only=True) as checkpoints:
    state = checkpoints.restore(jax.eval_shape(network.initial_state), which=checkpoint)
  return state.params, int(state.step)


def _seed(config: ml_collections.ConfigDict, purpose: str) -> int:
  """A seed of its own, so that the images and copies are not those the run began with."""
  return int(addressed_random.key_for(config.seed, purpose)[0][0])


@dataclasses.dataclass(frozen=True)
class _Subject:
  """What is measured: a gradient, where it is taken, and of which images."""

  config: ml_collections.ConfigDict
  source: Source
  classifier: Any
  gradient: gradient_variance.Gradient
  params: Any

  def network_draws(self) -> bool:
    """Whether the network itself is random when it trains, by dropout or stochastic depth."""
    multiplicity = Multiplicity(self.source.num_images, 1, 1, self.config.seed)
    (batch,) = assembly.train_batches(
      self.config, self.source, multiplicity, start_step=0, stop_step=1, hosts=(0, 1)
    )
    images = np.repeat(batch['image'], _COPIES_TO_COMPARE, axis=0)
    first, second = (
      self.classifier(self.params, jax.random.PRNGKey(key), images, is_training=True)
      for key in (0, 1)
    )
    return bool((first != second).any())

  def batches(
    self, seed: int, *, unique_images: int, augmult: int, count: int
  ) -> Iterator[dict[str, np.ndarray]]:
    """Yields training batches of one epoch, and reports now and then how far it is."""
    multiplicity = Multiplicity(self.source.num_images, unique_images, augmult, seed)
    reported = time.monotonic()
    for number, batch in enumerate(
      assembly.train_batches(
        self.config, self.source, multiplicity, start_step=0, stop_step=count, hosts=(0, 1)
      )
    ):
      if not batch['mask'].all():
        raise BadDataError('every image must decode here: repair or remove those that do not')
      yield batch
      if time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS or number + 1 == count:
        reported = time.monotonic()
        done = f'batch {number + 1} of {count}'
        logging.info('%d images x %d copies: %s', unique_images, augmult, done)


def _load_subject(
  config: ml_collections.ConfigDict, data: assembly.Data, workdir: str, checkpoint: str
) -> tuple[_Subject, int]:
  """The subject at a checkpoint, and the step of it."""
  network = assembly.make_network(config, data)
  assembly.check_images_fit(config, data, network)
  params, step = _load_params(config, data, network, workdir, checkpoint)
  gradient = gradient_variance.make_gradient(
    network.classifier,
    label_smoothing=config.label_smoothing,
    dropout_masks=config.dropout_masks,
  )
  return _Subject(config, data.train, network.classifier, gradient, params), step


def _measure_minibatches(
  subject: _Subject, compared: Iterable[tuple[str, int, int]], count: int
) -> list[dict[str, Any]]:
  """The variance between `count` mini-batches of each kind, by block and layer."""
  measured = []
  # At n = 1 both schemes may have one and the same batch.
  for unique_images, n in dict.fromkeys((unique_images, n) for _, n, unique_images in compared):
    batch = {'unique_images': unique_images, 'augmult': n}
    seed = _seed(subject.config, f'mini-batches of {unique_images} images with {n} copies')
    by_block = gradient_variance.minibatch_gradient_variance(
      subject.gradient,
      subject.params,
      subject.batches(seed, **batch, count=count),
      batches_per_block=count // _MINIBATCH_BLOCKS,
      key=jax.random.PRNGKey(seed),
    )
    measured.append({**batch, 'variance': by_block.tolist()})
  return measured


def _config(given: ml_collections.ConfigDict | None, workdir: str, data_dir: str) -> Any:
  """The config that was given, or that of the run."""
  if given is None:
    given = assembly.read_config(workdir)
    if given is None:
      raise ValueError(f'--workdir={workdir} holds no run (no config.json): give a --config')
  given.dataset.data_dir = data_dir or given.dataset.data_dir
  return given


def main() -> None:
  """Reads the flags, measures, prints and draws."""
  args = flags.FLAGS
  try:
    if not args.draw_only:
      command_line.check_devices()
    if args.draw_only:
      raw = variance_report.read_raw(args.workdir)
    else:
      os.makedirs(args.workdir, exist_ok=True)
      raw = measure(
        _config(args.config, args.workdir, args.data_dir),
        args.workdir,
        checkpoint=args.checkpoint,
        blocks=args.blocks,
        images_per_block=args.images_per_block,
        copies=args.copies,
        augmults=command_line.whole_numbers('augmults'),
        minibatches=args.minibatches,
      )
    variance_report.print_report(raw)
    variance_report.write(args.workdir, raw)
  except (ValueError, CheckpointError, OSError) as error:
    command_line.fail(str(error))


if __name__ == '__main__':
  command_line.define_path(
    'workdir', None, 'Directory of the run; gets the results.', required=True
  )
  flags.DEFINE_string(
    'checkpoint', 'latest', "'latest', 'best', the number of a step, or 'initialization'."
  )
  command_line.define_path('data_dir', '', 'Where the data lie, if they were moved.')
  flags.DEFINE_integer('blocks', 16, 'Independent estimates, of which intervals are made.', 2)
  flags.DEFINE_integer('images_per_block', 16, 'Different images in each of them.', 2)
  flags.DEFINE_integer('copies', 4, 'Augmented copies of each image.', 2)
  flags.DEFINE_list('augmults', '1,2,4,8,16', 'Values of n in tables and pictures.')
  flags.DEFINE_integer('minibatches', 0, 'Mini-batches to measure for each n, as in Figure 9.', 0)
  flags.DEFINE_boolean('draw_only', False, 'Make tables and pictures from variance.json alone.')
  command_line.define_config_flag(required=False)
  command_line.run(main)
