"""A sheet of images with their true or predicted classes."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import font_manager, ft2font
from PIL import Image, ImageDraw, ImageFont

_COLUMNS = 10
_SIDE, _GAP, _MARGIN = 112, 12, 16  # pixels of an image and around it
_FONT_SIZE, _LINE_HEIGHT = 12, 16


class Shown(NamedTuple):
  """An image with its caption.

  Attributes:
    image: uint8 `[H, W, C]`, C 1 or 3.
    lines: of the caption; what does not fit is cut off.
  """

  image: np.ndarray
  lines: Sequence[str]


def draw_sheet(title: str, images: Sequence[Shown]) -> Image.Image:
  """Returns the images in rows of ten, each with its caption below it.

  Args:
    title: of the sheet.
    images: at least one.
  """
  cell_height = _SIDE + _LINE_HEIGHT * max(len(shown.lines) for shown in images) + _GAP
  columns, rows = min(_COLUMNS, len(images)), -(-len(images) // _COLUMNS)
  width = max(columns * (_SIDE + _GAP) - _GAP, int(_font(title).getlength(title)))
  top = _MARGIN + 2 * _LINE_HEIGHT
  size = width + 2 * _MARGIN, top + rows * cell_height + _MARGIN - _GAP
  sheet = Image.new('RGB', size, 'white')
  pen = ImageDraw.Draw(sheet)
  pen.text((_MARGIN, _MARGIN), title, fill='black', font=_font(title))
  for number, shown in enumerate(images):
    row, column = divmod(number, _COLUMNS)
    x, y = _MARGIN + column * (_SIDE + _GAP), top + row * cell_height
    picture = _scaled(shown.image)
    sheet.paste(picture, (x + (_SIDE - picture.width) // 2, y + _SIDE - picture.height))
    for line, text in enumerate(shown.lines):
      font = _font(text)
      place = x, y + _SIDE + line * _LINE_HEIGHT + 2
      pen.text(
        place, _cut(text, font.getlength), fill='black' if line == 0 else 'dimgray', font=font
      )
  return sheet


def _scaled(image: np.ndarray) -> Image.Image:
  """The image in a square of `_SIDE`; small ones are enlarged with their pixels visible."""
  picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
  scale = _SIDE / max(picture.size)
  size = tuple(max(1, round(length * scale)) for length in picture.size)
  return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC)


def _cut(text: str, length: Callable[[str], float]) -> str:
  """The text, with an ellipsis if only a part of it fits below an image."""
  if length(text) <= _SIDE:
    return text
  while text and length(f'{text}…') > _SIDE:
    text = text[:-1]
  return f'{text}…'


@functools.lru_cache(maxsize=1024)
def _font(text: str) -> ImageFont.FreeTypeFont:
  return ImageFont.truetype(font_path(text), _FONT_SIZE)


@functools.lru_cache(maxsize=1024)
def font_path(text: str) -> str:
  """Returns the first font of this machine that has all characters of a text, or DejaVu Sans."""
  usual = font_manager.findfont('DejaVu Sans')
  # Matplotlib brings along a font that has a box for every character there is.
  fonts = (entry.fname for entry in font_manager.fontManager.ttflist)
  others = (path for path in fonts if 'LastResort' not in path)
  wanted = {ord(character) for character in text}
  return next((path for path in (usual, *others) if wanted <= _characters(path)), usual)


@functools.cache
def _characters(path: str) -> frozenset[int]:
  try:
    return frozenset(ft2font.FT2Font(path).get_charmap())
  except (OSError, RuntimeError):
    return frozenset()
