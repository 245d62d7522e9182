"""Tables, sentences and pictures from the raw numbers of `variance.json`, for files and notebooks.

`raw` is what `variance.measure` returns and `read_raw` reads: variances by block and layer, and the
settings they were measured with. Everything else follows from it here.
"""

import os
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nfnets_augmult.analysis import variance_components, variance_figures
from nfnets_augmult.ops.atomic_file import write_atomically
from nfnets_augmult.training import records

_AGGREGATE_NAMES = {
  'layer_mean': "mean over layers of the parameters' mean (the paper)",
  'total': 'total over all parameters',
}

Raw = dict[str, Any]


def summarize(raw: Raw) -> dict[str, Any]:
  """Returns the estimates, tables and advice that follow from the raw numbers, as JSON values."""
  total = components(raw, 'total')
  return {
    'augmentation_share': list(total.augmentation_share()),
    'squared_gradient_norm': squared_gradient_norm(raw, total),
    'table': {
      name: variance_components.to_json(table(raw, name)) for name in variance_components.AGGREGATES
    },
    'advice': advice(raw),
  }


def draw(raw: Raw) -> dict[str, Figure]:
  """Returns the pictures that the raw numbers allow, by file name."""
  where = 'at initialization' if raw['step'] == 0 else f'after {raw["step"]:,} steps'
  title = f'{raw["config"]["model.name"]} on {raw["config"]["dataset.name"]}, {where}'
  figures = {'variance.png': variance_figures.draw_parts(table(raw, 'total'), title=title)}
  if raw['minibatches']:
    panels = [
      (label, measured(raw, name), table(raw, name)) for name, label in _AGGREGATE_NAMES.items()
    ]
    figures['fig9.png'] = variance_figures.draw_figure_9(panels, title=title)
  return figures


def compared(raw: Raw) -> list[tuple[str, int, int]]:
  """Returns scheme, n and U of every row of the table."""
  return variance_components.batches_to_compare(
    components(raw, 'total'),
    raw['augmults'],
    unique_images=raw['unique_images_per_batch'],
    batch_size=raw['batch_size'],
  )


def components(raw: Raw, aggregate: str) -> variance_components.Components:
  """Returns the two parts of a sample's variance, one number for each block.

  Args:
    raw: the raw numbers.
    aggregate: a name of `variance_components.AGGREGATES`.
  """
  combine = variance_components.AGGREGATES[aggregate]
  sizes = np.array(raw['layer_sizes'])
  image, augmentation = (combine(np.array(raw[key]), sizes) for key in ('image', 'augmentation'))
  return variance_components.Components(image, augmentation, raw['num_images'])


def table(raw: Raw, aggregate: str) -> list[variance_components.BatchVariance]:
  """Returns what is predicted of each mini-batch; see `variance_components.table`."""
  return variance_components.table(
    components(raw, aggregate),
    raw['augmults'],
    unique_images=raw['unique_images_per_batch'],
    batch_size=raw['batch_size'],
  )


def advice(raw: Raw) -> list[str]:
  """Returns the sentences of `variance_components.advice`."""
  return variance_components.advice(
    components(raw, 'total'),
    unique_images=raw['unique_images_per_batch'],
    batch_size=raw['batch_size'],
    augmult=next((n for n in sorted(raw['augmults']) if n >= 4), 4),
  )


def measured(raw: Raw, aggregate: str) -> list[variance_figures.Measured]:
  """Returns the measured variances of mini-batches, for each scheme and n."""
  combine = variance_components.AGGREGATES[aggregate]
  by_batch = {
    (row['unique_images'], row['augmult']): variance_components.jackknife(
      float, combine(np.array(row['variance']), np.array(raw['layer_sizes']))
    )
    for row in raw['minibatches']
  }
  return [
    variance_figures.Measured(scheme, n, by_batch[unique_images, n])
    for scheme, n, unique_images in compared(raw)
  ]


def squared_gradient_norm(raw: Raw, total: variance_components.Components) -> float:
  """Returns an unbiased estimate: that of the mean gradient less the variance of this mean."""
  images = len(raw['image']) * raw['images_per_block']
  variance = total.minibatch(unique_images=images, augmult=raw['copies']).value
  return raw['squared_norm_of_mean_gradient'] - variance


def print_report(raw: Raw) -> None:
  """Prints the estimates, the table over n and the advice."""
  total = components(raw, 'total')
  squared_norm = squared_gradient_norm(raw, total)
  norm_text = f'{squared_norm:.4g}' if squared_norm > 0 else 'not to be told from 0'
  one_sample = total.estimate(lambda image, augmentation: image + augmentation).shown()
  images = len(raw['image']) * raw['images_per_block']
  print(
    f'{raw["config"]["model.name"]} on {raw["config"]["dataset.name"]}, step {raw["step"]:,}; '
    f'{images:,} of {raw["num_images"]:,} training images with {raw["copies"]} copies each'
  )
  print(
    f"Variance of one sample's gradient, total over parameters: {one_sample.value:.4g} "
    f'({one_sample.low:.4g} to {one_sample.high:.4g}); squared norm of the gradient: '
    f'{norm_text}'
  )
  if not total.is_zero():
    print(variance_components.format_table(table(raw, 'total')))
  for sentence in advice(raw):
    print(f'* {sentence}')
  # Files from before this was recorded are of networks that do not.
  if raw.get('network_draws'):
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
  found = records.read_object(os.path.join(workdir, 'variance.json'))
  if found is None:
    raise ValueError(f'--draw_only: there is no variance.json in {workdir}')
  if 'raw' not in found:
    raise ValueError(f'--draw_only: variance.json in {workdir} has no measurements in it')
  return found['raw']
