"""A picture of what the network is shown: every unique image beside its n copies."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

_CELL_PIXELS = 64  # small images are enlarged to about this
_GAP = 4


def collect_copies(
  batches: Iterator[dict[str, np.ndarray]], *, num_images: int, augmult: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the copies of the first few unique images that the batches show.

  Args:
    batches: training batches in order, of as many steps as it takes to show an image n times.
    num_images: how many unique images, at most.
    augmult: n.

  Returns:
    `image_index` int64 `[R]`, `label` int32 `[R]`, and copies uint8 `[R, n, H, W, C]`, by
    copy index.
  """
  places: dict[int, int] = {}
  labels: list[int] = []
  copies = None
  for batch in batches:
    if copies is None:
      copies = np.zeros((num_images, augmult, *batch['image'].shape[1:]), np.uint8)
    for slot, index in enumerate(batch['image_index'].tolist()):
      if index not in places and len(places) < num_images:
        places[index] = len(places)
        labels.append(int(batch['label'][slot]))
      if index in places:
        copies[places[index], batch['copy_index'][slot]] = batch['image'][slot]
  return np.array(list(places), np.int64), np.array(labels, np.int32), copies[: len(places)]


def draw_contact_sheet(
  originals: np.ndarray, copies: np.ndarray, captions: Sequence[str]
) -> Image.Image:
  """Returns a sheet with one row per unique image: caption, original, and its n copies.

  Args:
    originals: uint8 `[R, H, W, C]`, C 1 or 3.
    copies: uint8 `[R, n, H, W, C]`.
    captions: R strings.
  """
  num_rows, augmult, height, width, channels = copies.shape
  scale = max(1, round(_CELL_PIXELS / height))
  cell_width, cell_height = width * scale + _GAP, height * scale + _GAP
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
      paste(copies[row, copy], first_copy + copy * cell_width, y)
  return sheet
