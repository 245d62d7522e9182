"""Tables, advice and figures from the raw numbers of `variance.json`, for files and notebooks.

`raw` is what `measuring.measure` returns and `read_raw` reads: variances by block and layer, and
the settings that they were measured with. All else follows from it.
"""

import os
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nfnets_augmult.ops import files
from nfnets_augmult.training import records
from nfnets_augmult.variance import components, figures

_AGGREGATE_NAMES = {
  'layer_mean': "mean over layers of the parameters' mean (the paper)",
  'total': 'total over all parameters',
}

Raw = dict[str, Any]


def summarize(raw: Raw) -> dict[str, Any]:
  """Returns the estimates, tables and advice that follow from the raw numbers, as JSON values."""
  total = components_of(raw, 'total')
  return {
    'augmentation_share': list(total.augmentation_share()),
    'squared_gradient_norm': raw['squared_gradient_norm'],
    'table': {name: components.to_json(table(raw, name)) for name in components.AGGREGATES},
    'advice': advice(raw),
  }


def draw(raw: Raw) -> dict[str, Figure]:
  """Returns the figures by file name; Figure 9 only if mini-batches were measured."""
  where = 'at initialization' if raw['step'] == 0 else f'after {raw["step"]:,} steps'
  title = f'{raw["config"]["model.name"]} on {raw["config"]["dataset.name"]}, {where}'
  if components_of(raw, 'total').few_images_dominate():
    title += '; a few images dominate, intervals are too narrow'
  drawn = {'variance.png': figures.draw_parts(table(raw, 'total'), title=title)}
  if raw['minibatches']:
    panels = [
      (label, measured(raw, name), table(raw, name)) for name, label in _AGGREGATE_NAMES.items()
    ]
    drawn['fig9.png'] = figures.draw_figure_9(panels, title=title)
  return drawn


def compared(raw: Raw) -> list[tuple[str, int, int]]:
  """Returns (scheme, n, U) of every row of the table."""
  return components.batches_to_compare(
    components_of(raw, 'total'),
    raw['augmults'],
    unique_images=raw['unique_images_per_batch'],
    batch_size=raw['batch_size'],
  )


def components_of(raw: Raw, aggregate: str) -> components.Components:
  """Returns the two parts of the variance of a sample's gradient, a number for each block.

  Args:
    raw: the raw numbers.
    aggregate: a name of `components.AGGREGATES`.
  """
  combine = components.AGGREGATES[aggregate]
  sizes = np.array(raw['layer_sizes'])
  image, augmentation = (combine(np.array(raw[key]), sizes) for key in ('image', 'augmentation'))
  return components.Components(image, augmentation, raw['num_images'])


def table(raw: Raw, aggregate: str) -> list[components.BatchVariance]:
  """Returns the predicted variance of each mini-batch; see `components.table`."""
  return components.table(
    components_of(raw, aggregate),
    raw['augmults'],
    unique_images=raw['unique_images_per_batch'],
    batch_size=raw['batch_size'],
  )


def advice(raw: Raw) -> list[str]:
  """Returns the sentences of `components.advice`."""
  return components.advice(
    components_of(raw, 'total'),
    screened_images=raw['screened_images'],
    unique_images=raw['unique_images_per_batch'],
    batch_size=raw['batch_size'],
    augmult=next((n for n in sorted(raw['augmults']) if n >= 4), 4),
  )


def measured(raw: Raw, aggregate: str) -> list[figures.Measured]:
  """Returns the measured variances of mini-batches, for each scheme and n."""
  combine = components.AGGREGATES[aggregate]
  by_batch = {
    (row['unique_images'], row['augmult']): components.jackknife(
      float, combine(np.array(row['variance']), np.array(raw['layer_sizes']))
    )
    for row in raw['minibatches']
  }
  return [
    figures.Measured(scheme, n, by_batch[unique_images, n])
    for scheme, n, unique_images in compared(raw)
  ]


def text(raw: Raw) -> str:
  """Returns the estimates, the table over n and the advice, in Markdown."""
  total = components_of(raw, 'total')
  squared_norm = raw['squared_gradient_norm']
  norm_text = f'{squared_norm:.4g}' if squared_norm > 0 else 'not to be told from 0'
  one_sample = total.estimate(lambda image, augmentation: image + augmentation).shown()
  parts = [
    f'{raw["config"]["model.name"]} on {raw["config"]["dataset.name"]}, step {raw["step"]:,}; '
    f'{len(raw["image"])} blocks of {raw["images_per_block"]} images with {raw["copies"]} copies '
    f'each, drawn from {raw["screened_images"]:,} of {raw["num_images"]:,} training images',
    f"Variance of one sample's gradient, total over parameters: {one_sample.value:.4g} "
    f'({one_sample.low:.4g} to {one_sample.high:.4g}); squared norm of the gradient: '
    f'{norm_text}',
  ]
  if not total.is_zero() and not total.few_images_dominate():
    parts.append(components.format_table(table(raw, 'total')))
  sentences = advice(raw)
  # Older files lack this key; their networks do not draw.
  if raw.get('network_draws'):
    sentences.append('The network draws at random itself; that noise counts as augmentation here.')
  parts.append('\n'.join(f'* {sentence}' for sentence in sentences))
  return '\n\n'.join(parts)


def write(workdir: str, raw: Raw) -> None:
  """Writes `variance.json` and the figures into a work directory, each file atomically."""
  path = os.path.join(workdir, 'variance.json')
  records.write_json(path, {'raw': raw, 'results': summarize(raw)})
  written = [path]
  for name, figure in draw(raw).items():
    written.append(os.path.join(workdir, name))
    files.write_whole(
      written[-1], lambda file, figure=figure: figure.savefig(file, format='png', dpi=150)
    )
  print(f'wrote {", ".join(written)}')


def read_raw(workdir: str) -> Raw:
  """Returns the raw numbers that `write` left in a work directory.

  Raises:
    ValueError: there is no `variance.json`, or it has no measurements.
  """
  found = records.read_object(os.path.join(workdir, 'variance.json'))
  if found is None:
    raise ValueError(f'--draw_only: there is no variance.json in {workdir}')
  if 'raw' not in found:
    raise ValueError(f'--draw_only: variance.json in {workdir} has no measurements in it')
  # Earlier versions took the gradients of all images that they looked at.
  raw = {
    'screened_images': found['raw'].get('images_per_block'),
    'squared_gradient_norm': found.get('results', {}).get('squared_gradient_norm'),
    **found['raw'],
  }
  return raw
