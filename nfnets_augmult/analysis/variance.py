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

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from nfnets_augmult import front_door  # first: it quietens libraries before they are imported

# isort: split
import jax
import ml_collections
import numpy as np
from absl import flags, logging
from matplotlib.figure import Figure

from nfnets_augmult import assembly, configs
from nfnets_augmult.analysis import gradient_variance, variance_components, variance_figures
from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.data.sources import BadImageError, Source
from nfnets_augmult.ops import addressed_random
from nfnets_augmult.ops.atomic_file import write_atomically
from nfnets_augmult.training import records
from nfnets_augmult.training.checkpoints import CheckpointError, Checkpoints

# Blocks of mini-batches; from how much their variances differ follow the intervals.
_MINIBATCH_BLOCKS = 8
_SECONDS_BETWEEN_REPORTS = 5.0
_AGGREGATE_NAMES = {
  'layer_mean': "mean over layers of the parameters' mean (the paper)",
  'total': 'total over all parameters',
}

Raw = dict[str, Any]


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
) -> Raw:
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
    BadImageError: an image does not decode.
  """
  assembly.check(config)
  _check_numbers(blocks, images_per_block, copies, augmults, minibatches)
  front_door.import_tensorflow_quietly()
  data = assembly.load_data(config)
  num_images = data.train.num_images
  if blocks * images_per_block > num_images:
    raise ValueError(
      f'--blocks={blocks} times --images_per_block={images_per_block} are more than the '
      f'{num_images} images of {data.train.description}; lower one of them'
    )
  plan = assembly.make_plan(config, num_images)
  network = assembly.make_network(config, data)
  assembly.check_images_fit(config, data, network)
  params, step = _load_params(config, network, workdir, checkpoint)
  gradient = gradient_variance.make_gradient(
    network.classifier,
    label_smoothing=config.label_smoothing,
    dropout_masks=config.dropout_masks,
  )
  start = time.monotonic()
  seed = _seed(config, 'gradient variance')
  image, augmentation, squared_norm = gradient_variance.image_and_augmentation_variance(
    gradient,
    params,
    _batches(config, data.train, seed, unique=images_per_block, augmult=copies, count=blocks),
    copies=copies,
    key=jax.random.PRNGKey(seed),
  )
  sizes = {
    'unique_images_per_batch': plan.multiplicity.unique_images_per_batch,
    'batch_size': plan.multiplicity.batch_size,
  }
  measured = []
  if minibatches:
    compared = variance_components.batches_to_compare(
      augmults, unique_images=sizes['unique_images_per_batch'], batch_size=sizes['batch_size']
    )
    for unique, n in dict.fromkeys((unique, n) for _, n, unique in compared):
      seed = _seed(config, f'mini-batches of {unique} images with {n} copies')
      by_block = gradient_variance.minibatch_gradient_variance(
        gradient,
        params,
        _batches(config, data.train, seed, unique=unique, augmult=n, count=minibatches),
        batches_per_block=minibatches // _MINIBATCH_BLOCKS,
        key=jax.random.PRNGKey(seed),
      )
      measured.append({'unique_images': unique, 'augmult': n, 'variance': by_block.tolist()})
  return {
    'config': configs.flatten(config),
    'checkpoint': checkpoint,
    'step': step,
    'num_images': num_images,
    **sizes,
    'augmults': list(augmults),
    'images_per_block': images_per_block,
    'copies': copies,
    'layers': gradient_variance.layer_names(params),
    'layer_sizes': gradient_variance.layer_sizes(params).tolist(),
    'image': image.tolist(),
    'augmentation': augmentation.tolist(),
    'squared_norm_of_mean_gradient': squared_norm,
    'minibatches': measured,
    'seconds': time.monotonic() - start,
    'versions': records.versions(),
  }


def summarize(raw: Raw) -> dict[str, Any]:
  """Returns the estimates, tables and advice that follow from the raw numbers, as JSON values."""
  total = _components(raw, 'total')
  return {
    'augmentation_share': list(total.augmentation_share()),
    'squared_gradient_norm': _squared_gradient_norm(raw, total),
    'table': {
      name: variance_components.to_json(_table(raw, name))
      for name in variance_components.AGGREGATES
    },
    'advice': _advice(raw),
  }


def draw(raw: Raw) -> dict[str, Figure]:
  """Returns the pictures that the raw numbers allow, by file name."""
  where = 'at initialization' if raw['step'] == 0 else f'after {raw["step"]:,} steps'
  title = f'{raw["config"]["model.name"]} on {raw["config"]["dataset.name"]}, {where}'
  figures = {'variance.png': variance_figures.draw_parts(_table(raw, 'total'), title=title)}
  if raw['minibatches']:
    panels = [
      (label, _measured(raw, name), _table(raw, name)) for name, label in _AGGREGATE_NAMES.items()
    ]
    figures['fig9.png'] = variance_figures.draw_figure_9(panels, title=title)
  return figures


def _check_numbers(
  blocks: int, images_per_block: int, copies: int, augmults: Sequence[int], minibatches: int
) -> None:
  """Raises ValueError for a number that allows no estimate."""
  given = {'blocks': blocks, 'images_per_block': images_per_block, 'copies': copies}
  for name, value in given.items():
    if value < 2:
      raise ValueError(f'--{name}={value} must be at least 2')
  if not augmults or min(augmults) < 1:
    raise ValueError(f'--augmults={",".join(map(str, augmults))} must be at least 1 each')
  if minibatches and minibatches < 2 * _MINIBATCH_BLOCKS:
    raise ValueError(
      f'--minibatches={minibatches} must be 0, for none, or at least {2 * _MINIBATCH_BLOCKS}'
    )


def _load_params(
  config: ml_collections.ConfigDict, network: assembly.Network, workdir: str, checkpoint: str
) -> tuple[Any, int]:
  """The raw parameters of a checkpoint, and its step."""
  if checkpoint == 'initialization':
    loaded = assembly.read_initial_params(config, network)
    return assembly.first_state(network, loaded)[0].params, 0
  with Checkpoints(workdir, read_only=True) as checkpoints:
    state = checkpoints.restore(jax.eval_shape(network.initial_state), which=checkpoint)
  return state.params, int(state.step)


def _seed(config: ml_collections.ConfigDict, purpose: str) -> int:
  """A seed of its own, so that the images and copies are not those the run began with."""
  return int(addressed_random.key_for(config.seed, purpose)[0][0])


def _batches(
  config: ml_collections.ConfigDict,
  source: Source,
  seed: int,
  *,
  unique: int,
  augmult: int,
  count: int,
) -> Iterator[dict[str, np.ndarray]]:
  """Training batches of `unique` images with `augmult` copies each; reports how far it is."""
  multiplicity = Multiplicity(source.num_images, unique, augmult, seed)
  batches: Iterable[Any] = assembly.train_batches(
    config, source, multiplicity, start_step=0, stop_step=count, hosts=(0, 1)
  )
  reported = time.monotonic()
  for number, batch in enumerate(batches):
    if not batch['mask'].all():
      raise BadImageError('every image must decode here: remove those that do not')
    yield batch
    if time.monotonic() - reported > _SECONDS_BETWEEN_REPORTS or number + 1 == count:
      reported = time.monotonic()
      logging.info('%d images x %d copies: batch %d of %d', unique, augmult, number + 1, count)


def _components(raw: Raw, aggregate: str) -> variance_components.Components:
  """The two parts as one number for each block."""
  combine = variance_components.AGGREGATES[aggregate]
  sizes = np.array(raw['layer_sizes'])
  image, augmentation = (combine(np.array(raw[key]), sizes) for key in ('image', 'augmentation'))
  return variance_components.Components(image, augmentation, raw['num_images'])


def _table(raw: Raw, aggregate: str) -> list[variance_components.Batches]:
  return variance_components.table(
    _components(raw, aggregate),
    raw['augmults'],
    unique_images=raw['unique_images_per_batch'],
    batch_size=raw['batch_size'],
  )


def _advice(raw: Raw) -> list[str]:
  return variance_components.advice(
    _components(raw, 'total'),
    unique_images=raw['unique_images_per_batch'],
    batch_size=raw['batch_size'],
    augmult=next((n for n in sorted(raw['augmults']) if n >= 4), 4),
  )


def _measured(raw: Raw, aggregate: str) -> list[variance_figures.Measured]:
  """The measured variances of mini-batches, for each scheme and n."""
  combine = variance_components.AGGREGATES[aggregate]
  by_batch = {
    (row['unique_images'], row['augmult']): variance_components.jackknife(
      float, combine(np.array(row['variance']), np.array(raw['layer_sizes']))
    )
    for row in raw['minibatches']
  }
  compared = variance_components.batches_to_compare(
    raw['augmults'], unique_images=raw['unique_images_per_batch'], batch_size=raw['batch_size']
  )
  return [
    variance_figures.Measured(scheme, n, by_batch[unique, n]) for scheme, n, unique in compared
  ]


def _squared_gradient_norm(raw: Raw, total: variance_components.Components) -> float:
  """An unbiased estimate: that of the mean gradient without the variance of this mean."""
  images = len(raw['image']) * raw['images_per_block']
  variance = total.minibatch(unique_images=images, augmult=raw['copies']).value
  return raw['squared_norm_of_mean_gradient'] - variance


def _print(raw: Raw) -> None:
  total = _components(raw, 'total')
  squared_norm = _squared_gradient_norm(raw, total)
  one_sample = total.estimate(lambda image, augmentation: image + augmentation)
  images = len(raw['image']) * raw['images_per_block']
  print(
    f'{raw["config"]["model.name"]} on {raw["config"]["dataset.name"]}, step {raw["step"]:,}; '
    f'{images:,} of {raw["num_images"]:,} training images with {raw["copies"]} copies each'
  )
  print(
    f"Variance of one sample's gradient, total over parameters: {one_sample.value:.4g} "
    f'({one_sample.low:.4g} to {one_sample.high:.4g}); squared norm of the gradient: '
    f'{squared_norm:.4g}'
  )
  print(variance_components.format_table(_table(raw, 'total')))
  for sentence in _advice(raw):
    print(f'* {sentence}')
  if raw['config']['model.dropout_rate'] or 'model.stochastic_depth_rate' in raw['config']:
    print('* The network draws at random itself; that noise counts as augmentation here.')


def write(workdir: str, raw: Raw) -> None:
  """Writes `variance.json` and the pictures into a work directory, each file atomically."""
  path = os.path.join(workdir, 'variance.json')
  records.write_json(path, {'raw': raw, 'results': summarize(raw)})
  written = [path]
  for name, figure in draw(raw).items():
    written.append(os.path.join(workdir, name))
    write_atomically(
      written[-1], lambda file, figure=figure: figure.savefig(file, format='png', dpi=150)
    )
  print(f'wrote {", ".join(written)}')


def read_raw(workdir: str) -> Raw:
  """Returns the raw numbers that `write` left in a work directory.

  Raises:
    ValueError: there are none.
  """
  found = records.read_json(os.path.join(workdir, 'variance.json'))
  if found is None:
    raise ValueError(f'--draw_only: there is no variance.json in {workdir}')
  return found['raw']


def _config(given: ml_collections.ConfigDict | None, workdir: str, data_dir: str) -> Any:
  """The config that was given, or that of the run."""
  if given is None:
    flat = records.read_json(os.path.join(workdir, 'config.json'))
    if flat is None:
      raise ValueError(f'--workdir={workdir} holds no run (no config.json): give a --config')
    given = configs.from_flat(flat)
  given.dataset.data_dir = data_dir or given.dataset.data_dir
  return given


def main() -> None:
  """Reads the flags, measures, prints and draws."""
  args = flags.FLAGS
  try:
    if args.draw_only:
      raw = read_raw(args.workdir)
    else:
      raw = measure(
        _config(args.config, args.workdir, args.data_dir),
        args.workdir,
        checkpoint=args.checkpoint,
        blocks=args.blocks,
        images_per_block=args.images_per_block,
        copies=args.copies,
        augmults=[int(n) for n in args.augmults],
        minibatches=args.minibatches,
      )
    os.makedirs(args.workdir, exist_ok=True)
    _print(raw)
    write(args.workdir, raw)
  except (ValueError, CheckpointError, OSError) as error:
    front_door.fail(str(error))


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Directory of the run; gets the results.', required=True)
  flags.DEFINE_string(
    'checkpoint', 'latest', "'latest', 'best', the number of a step, or 'initialization'."
  )
  flags.DEFINE_string('data_dir', '', 'Where the data lie, if they were moved.')
  flags.DEFINE_integer('blocks', 16, 'Independent estimates, of which intervals are made.')
  flags.DEFINE_integer('images_per_block', 16, 'Different images in each of them.')
  flags.DEFINE_integer('copies', 4, 'Augmented copies of each image.')
  flags.DEFINE_list('augmults', '1,2,4,8,16', 'Values of n in tables and pictures.')
  flags.DEFINE_integer('minibatches', 0, 'Mini-batches to measure for each n, as in Figure 9.')
  flags.DEFINE_boolean('draw_only', False, 'Make tables and pictures from variance.json alone.')
  front_door.define_config_flag(required=False)
  front_door.run(main)
