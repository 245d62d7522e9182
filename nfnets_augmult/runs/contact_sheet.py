"""A contact sheet: unique images beside their n augmented copies."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

_CELL_PIXELS = 64  # small images are enlarged to about this
_GAP = 4
_LETTER_WIDTH, _LINE_HEIGHT = 6, 11
_PER_IMAGE = ('image_index', 'label')


def collect_copies(
  batches: Iterator[dict[str, np.ndarray]], *, num_images: int, augmult: int
) -> dict[str, np.ndarray]:
  """Returns all copies of the first few unique images in the batches.

  Args:
    batches: training batches in order, of as many steps as n copies of an image take.
    num_images: R, the largest number of unique images.
    augmult: n.

  Returns:
    `image_index` int64 `[R]`, `label` int32 `[R]`, and `image` uint8 `[R, n, H, W, C]`; with mixed
    images also `partner_label` int32 `[R, n]` and `mix_weight` float32 `[R, n]`.
  """
  rows: dict[int, int] = {}  # by image index
  copies: dict[str, np.ndarray] = {}
  for batch in batches:
    keys = [key for key in ('image', 'partner_label', 'mix_weight') if key in batch]
    if not copies:
      copies = {key: np.zeros_like(batch[key], shape=(num_images,)) for key in _PER_IMAGE}
      for key in keys:
        shape = (num_images, augmult, *batch[key].shape[1:])
        copies[key] = np.zeros_like(batch[key], shape=shape)
    for slot, index in enumerate(batch['image_index'].tolist()):
      if index not in rows and len(rows) < num_images:
        rows[index] = len(rows)
        for key in _PER_IMAGE:
          copies[key][rows[index]] = batch[key][slot]
      if index in rows:
        for key in keys:
          copies[key][rows[index], batch['copy_index'][slot]] = batch[key][slot]
  return {key: array[: len(rows)] for key, array in copies.items()}


def mixture_notes(copies: dict[str, np.ndarray], class_names: Sequence[str]) -> list | None:
  """Returns the captions of copies: weight and class of both images.

  Args:
    copies: see `collect_copies`.
    class_names: of all classes.

  Returns:
    For each image and copy two lines, or one if it is not mixed; None without mixing.
  """
  if 'mix_weight' not in copies:
    return None

  def lines(own: int, partner: int, weight: float) -> list[str]:
    shares = [(weight, own), (1 - weight, partner)]
    return [f'{100 * share:.0f}% {class_names[label]}' for share, label in shares if share > 0]

  return [
    [lines(label, *copy) for copy in zip(partners, weights, strict=True)]
    for label, partners, weights in zip(
      copies['label'], copies['partner_label'], copies['mix_weight'], strict=True
    )
  ]


def draw_contact_sheet(
  originals: np.ndarray,
  copies: np.ndarray,
  captions: Sequence[str],
  notes: Sequence[Sequence[Sequence[str]]] | None = None,
) -> Image.Image:
  """Returns a sheet with one row per unique image: caption, original and n copies.

  Args:
    originals: uint8 `[R, H, W, C]`, C 1 or 3.
    copies: uint8 `[R, n, H, W, C]`.
    captions: R strings.
    notes: lines to write under each copy, truncated to its width; None for none.
  """
  num_rows, augmult, height, width, channels = copies.shape
  scale = max(1, round(_CELL_PIXELS / height))
  cell_width, cell_height = width * scale + _GAP, height * scale + _GAP
  cell_height += 2 * _LINE_HEIGHT if notes else 0
  caption_width = 8 + 7 * max(map(len, (*captions, 'image')))
  header = 16
  first_copy = caption_width + cell_width + 3 * _GAP
  sheet = Image.new(
    'RGB', (first_copy + augmult * cell_width, header + num_rows * cell_height), 'white'
  )
  pen = ImageDraw.Draw(sheet)

  def paste(image: np.ndarray, x: int, y: int) -> None:
    pixels = np.broadcast_to(image, (height, width, 3)) if channels == 1 else image
    large = Image.fromarray(np.ascontiguousarray(pixels)).resize(
      (width * scale, height * scale), Image.Resampling.NEAREST
    )
    sheet.paste(large, (x, y))

  pen.text((4, 2), 'class', fill='black')
  pen.text((caption_width, 2), 'image', fill='black')
  pen.text((first_copy, 2), f'its {augmult} augmented copies', fill='black')
  for row in range(num_rows):
    y = header + row * cell_height
    pen.text((4, y + cell_height // 2 - 8), captions[row], fill='black')
    paste(originals[row], caption_width, y)
    for copy in range(augmult):
      x = first_copy + copy * cell_width
      paste(copies[row, copy], x, y)
      for line, text in enumerate(notes[row][copy] if notes else []):
        place = (x, y + height * scale + line * _LINE_HEIGHT)
        pen.text(place, text[: (cell_width - _GAP) // _LETTER_WIDTH], fill='black')
  return sheet
