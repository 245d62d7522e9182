"""The sheet of predictions: captions stay below their images, whatever the names."""

import numpy as np

from nfnets_augmult.assessment.image_sheet import Shown, draw_sheet

_NAMES = [
  'a name that is much too long for the space below a picture',
  'очень длинное название класса изображений',
  '長い名前の猫と犬と鳥と魚と馬と牛と羊と山羊',
  'مجموعة طويلة من الأسماء العربية الطويلة جدا',
  'W' * 40,
  'short',
  '',
]


def test_captions_do_not_overlap():
  """Between two images nothing is drawn, from the first line below the title on."""
  images = [
    Shown(np.full((8, 8, 1 + 2 * (number % 2)), 90, np.uint8), (name, '97.3 %', name[::-1]))
    for number, name in enumerate(_NAMES * 2)
  ]
  sheet = np.asarray(draw_sheet('fourteen images', images).convert('L'))
  body = sheet[40:]
  ink = (body < 255).any(axis=0)
  starts = np.flatnonzero(ink[1:] & ~ink[:-1]) + 1
  # Ten columns of images, each of 112 pixels without a gap, and white between them.
  wide = (body[:112] == 90).any(axis=0)
  edges = np.flatnonzero(np.diff(np.concatenate([[0], wide, [0]]).astype(int)))
  begin, end = edges[::2], edges[1::2]
  assert list(end - begin) == [112] * 10 and set(begin) <= set(starts)
  for left, right in zip(end[:-1], begin[1:], strict=True):
    assert (body[:, left + 1 : right - 1] == 255).all()
  # Below an image there is ink of the caption.
  assert (body[120:170, begin[0] : end[0]] < 255).any()


def test_one_image_and_a_long_title():
  photo = np.arange(300 * 200 * 3, dtype=np.uint8).reshape(300, 200, 3)
  sheet = draw_sheet('a title that is wider than one image', [Shown(photo, ('cat', '50.0 %'))])
  assert sheet.width > 200
  assert (np.asarray(sheet)[:, -10:] == 255).all()
