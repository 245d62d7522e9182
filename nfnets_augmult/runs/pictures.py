"""The pictures in the work directory of a run."""

import os
import typing
from typing import Any

from absl import logging

from nfnets_augmult.data.augmentation import NOTHING
from nfnets_augmult.ops import files
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import records

if typing.TYPE_CHECKING:
  from matplotlib.figure import Figure
  from PIL.Image import Image

_SHEET_ROWS = 8
_SHEET_COPIES = 16


def draw_contact_sheet(run: Run) -> None:
  """Draws the first images of the run beside their copies into its folder, if not done yet."""
  path = os.path.join(run.workdir, 'contact_sheet.png')
  if files.exists(path):
    return
  sheet = contact_sheet_of(run)
  files.write_whole(path, lambda file: sheet.save(file, format='png'))
  logging.info('augmented images: %s', path)


def contact_sheet_of(run: Run) -> 'Image':
  """Returns the first images of the run beside their copies, as the network gets them."""
  from nfnets_augmult.runs import contact_sheet

  multiplicity = run.plan.multiplicity
  steps = multiplicity.augmult // multiplicity.copies_per_batch
  unique_images = multiplicity.unique_images_per_batch
  rows = max(row for row in range(1, _SHEET_ROWS + 1) if unique_images % row == 0)

  def collect(**options: Any) -> dict[str, Any]:
    # The share of the first of so many hosts, so that no other image is decoded.
    batches = run.train_batches(0, steps, hosts=(0, unique_images // rows), **options)
    return contact_sheet.collect_copies(batches, num_images=rows, augmult=multiplicity.augmult)

  copies, originals = collect(), collect(augmentation=NOTHING)
  names = run.data.train.class_names
  return contact_sheet.draw_contact_sheet(
    originals['image'][:, 0],
    copies['image'][:, :_SHEET_COPIES],
    [names[label][:20] for label in copies['label']],
    contact_sheet.mixture_notes(copies, names),
  )


def draw_curves(run: Run) -> None:
  """Draws the curves of the run so far into its folder."""
  path, figure = os.path.join(run.workdir, 'curves.png'), curves_of(run)
  files.write_whole(path, lambda file: figure.savefig(file, format='png', dpi=120))


def curves_of(run: Run) -> 'Figure':
  """Returns the curves of the run so far, from the records in its folder."""
  from nfnets_augmult.runs import curves

  plan, settings = run.plan, run.settings
  title = (
    f'{settings.model_name} on {settings.dataset.name}: n = {plan.multiplicity.augmult}, '
    f'batch size {plan.multiplicity.batch_size}, peak learning rate {plan.learning_rate:g}'
  )
  run_records = records.read_metrics(os.path.join(run.workdir, 'metrics.jsonl'))
  divergence = records.read_divergence(run.workdir)
  return curves.draw_curves(run_records, title=title, divergence=divergence)
