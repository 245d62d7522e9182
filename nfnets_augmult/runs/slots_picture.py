"""A picture of which image and copy fill the slots of successive batches (the paper's Figure 1)."""

from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nfnets_augmult.data.multiplicity import Multiplicity


def draw_slots(rows: Sequence[tuple[str, Multiplicity]], *, num_steps: int) -> Figure:
  """Returns one strip of batches for each of `rows`: a colour is an image, a letter a copy.

  Args:
    rows: title and slots.
    num_steps: how many batches to show.
  """
  figure = Figure(figsize=(10, 0.9 + 1.05 * len(rows)), layout='constrained')
  for axes, (title, multiplicity) in zip(
    figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True
  ):
    _draw_strip(axes, multiplicity, num_steps)
    axes.set_title(title, loc='left', fontsize=10)
  return figure


def _draw_strip(axes: Axes, multiplicity: Multiplicity, num_steps: int) -> None:
  colors = colormaps['tab20'].colors
  x = 0.0
  for step in range(num_steps):
    slots = multiplicity.slots(step)
    start = x
    for image, copy in zip(slots.image_index, slots.copy_index, strict=True):
      color = colors[image % len(colors)]
      axes.add_patch(Rectangle((x, 0), 1, 1, facecolor=color, edgecolor='white'))
      axes.text(x + 0.5, 0.5, 'abcdefghijklmnop'[copy % 16], ha='center', va='center', fontsize=8)
      x += 1
    axes.text((start + x) / 2, -0.45, f'step {step}', ha='center', va='center', fontsize=8)
    x += 0.6
  axes.set_xlim(-0.2, x)
  axes.set_ylim(-0.8, 1.1)
  axes.axis('off')
