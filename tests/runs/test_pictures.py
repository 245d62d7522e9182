"""The pictures of a run: in memory the same as in its folder; and those of several runs."""

import io
import re

import numpy as np
from PIL import Image

from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.runs import curves, pictures
from nfnets_augmult.runs.run import Run
from nfnets_augmult.runs.slots_picture import draw_slots
from tests.toy_runs import device_config


def test_the_sheet_of_a_run_is_the_one_in_its_folder(tmp_path):
  pictures.draw_contact_sheet(Run(device_config(), str(tmp_path)))
  drawn = Image.open(tmp_path / 'contact_sheet.png')
  np.testing.assert_array_equal(drawn, pictures.contact_sheet_of(Run(device_config())))


def test_the_runs_of_a_comparison_are_lines_against_updates():
  """Of the averaged parameters; a run without an evaluation has a loss alone."""
  learnt = [
    {'step': 2, 'epoch': 1.0, 'train/loss': 2.0},
    {'step': 4, 'epoch': 2.0, 'train/loss': 1.0},
    {'step': 4, 'epoch': 2.0, 'test/ema/top_1': 0.75, 'test/raw/top_1': 0.5},
  ]
  figure = curves.draw_comparison({'learnt': learnt, 'diverged': learnt[:1]})
  losses, accuracies = figure.axes
  points = [[line.get_xydata().tolist() for line in axes.lines] for axes in (losses, accuracies)]
  assert points == [[[[2, 2], [4, 1]], [[2, 2]]], [[[4, 75]], []]]
  (legend,) = figure.legends
  assert [text.get_text() for text in legend.get_texts()] == ['learnt', 'diverged']
  figure.savefig(io.BytesIO())


def test_a_letter_of_the_slots_is_a_copy():
  """There are n of them for each image, `a` first; below are the numbers of the steps."""
  multiplicity = Multiplicity(num_images=9, unique_images_per_batch=2, augmult=3, seed=0)
  (axes,) = draw_slots([('a title', multiplicity)], num_steps=2).axes
  texts = [text.get_text() for text in axes.texts]
  assert ''.join(t for t in texts if re.fullmatch('[a-z]', t)) == 'abc' * 4
  assert [t for t in texts if t.startswith('step')] == ['step 0', 'step 1']
  colors = [patch.get_facecolor() for patch in axes.patches]
  assert [len(set(colors[i : i + 3])) for i in range(0, 12, 3)] == [1] * 4
