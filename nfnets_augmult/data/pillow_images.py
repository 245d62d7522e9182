"""Decoding of all formats but JPEG to uint8 pixels, with Pillow."""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
from PIL import BmpImagePlugin, Image, TiffImagePlugin, WebPImagePlugin  # noqa: F401

from nfnets_augmult.data import image_formats
from nfnets_augmult.data.image_formats import DecodeError, DecodeRules

# The limit is `DecodeRules.max_pixels`, which is checked before anything is decoded.
Image.MAX_IMAGE_PIXELS = None
# What is wrong with the pixels is raised as an error; the warnings are about metadata.
warnings.filterwarnings('ignore', module=r'PIL\.')

_TIFF_WHITE_IS_ZERO = 0
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_NEW_SUBFILE_TYPE, _BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION = 254, 258, 262, 274
_DNG_VERSION = 50706


def decode(
  encoded: bytes,
  rules: DecodeRules,
  *,
  mode: str = 'RGB',
  shrink: Callable[[int, int], int] = lambda height, width: 1,
) -> np.ndarray:
  """Returns the first picture of an image file, uint8 `[H, W, C]`.

  Palettes are looked up, the upper 8 of 16 bits are kept, transparency is ignored, and colour
  profiles are not applied.

  Args:
    encoded: contents of the file.
    rules: orientation and limits.
    mode: Pillow's name for the kind of result: `'RGB'`, `'L'` (grey) or `'RGBA'`.
    shrink: from height and width of the image as it is displayed to a whole number k; squares of
      k x k pixels are averaged.

  Raises:
    DecodeError: the format is not read, or the image is cut off, damaged or too large.
  """
  start = encoded[: image_formats.NUM_START_BYTES]
  kind = image_formats.format_of(start)
  if kind not in image_formats.READ_FORMATS:
    raise DecodeError(image_formats.why_not_read(start))
  if kind == 'WEBP':
    rules.check_size(*image_formats.webp_size(start))
  if kind == 'PNG':
    _check_png(encoded)
  try:
    with Image.open(io.BytesIO(encoded), formats=[kind]) as image:
      rules.check_size(image.height, image.width)
      if kind == 'TIFF':
        return _decode_tiff(image, rules, mode, shrink)
      orientation = _orientation(image) if rules.apply_orientation else 1
      size = (image.height, image.width)[:: -1 if orientation >= 5 else 1]
      return image_formats.orient(_pixels(image, mode, shrink(*size)), orientation)
  except DecodeError:
    raise
  # Plugins raise a dozen kinds of errors for damaged files.
  except Exception as error:
    raise DecodeError(f'{kind} that is cut off or damaged: {_reason(error)}') from error


def to_array(image: Image.Image, rules: DecodeRules, *, mode: str = 'RGB') -> np.ndarray:
  """Returns the pixels of an image that Pillow has opened or made, as `decode` does of a file.

  Raises:
    DecodeError: it is cut off, damaged or too large, or its pixels are of a kind that is not read.
  """
  rules.check_size(image.height, image.width)
  try:
    pixels = _pixels(image, mode, 1)
    # Now, since of a TIFF Pillow applies it on loading, and forgets it.
    orientation = _orientation(image) if rules.apply_orientation else 1
  except DecodeError:
    raise
  except Exception as error:
    raise DecodeError(f'image that is cut off or damaged: {_reason(error)}') from error
  return image_formats.orient(pixels, orientation)


def _check_png(encoded: bytes) -> None:
  """Checks the checksums of the critical chunks; Pillow does not check those of the pixels."""
  place = 8
  while place + 12 <= len(encoded):
    (length,) = struct.unpack_from('>I', encoded, place)
    end = place + 12 + length
    if end > len(encoded):
      break
    kind = encoded[place + 4 : place + 8]
    is_critical = kind[:1].isupper()
    if is_critical and zlib.crc32(memoryview(encoded)[place + 4 : end - 4]) != int.from_bytes(
      encoded[end - 4 : end]
    ):
      raise DecodeError(f'PNG that is damaged: a checksum of its {kind.decode("latin-1")} is wrong')
    if kind == b'IEND':
      return
    place = end
  raise DecodeError('PNG that is cut off: its end is missing')


def _decode_tiff(
  image: TiffImagePlugin.TiffImageFile,
  rules: DecodeRules,
  mode: str,
  shrink: Callable[[int, int], int],
) -> np.ndarray:
  """See `decode`; Pillow always applies the orientation of a TIFF."""
  tags = image.tag_v2
  if _DNG_VERSION in tags or tags.get(_NEW_SUBFILE_TYPE, 0) & 1:
    raise DecodeError('its first picture is a thumbnail, as in the raw files of cameras')
  # A tile may be larger than the image, and memory is allocated for it.
  if _TILE_WIDTH in tags:
    rules.check_size(int(tags.get(_TILE_LENGTH, 1)), int(tags[_TILE_WIDTH]))
  orientation = tags.get(_ORIENTATION, 1)
  shift = max(0, int(tags.get(_BITS_PER_SAMPLE, (8,))[0]) - 8)
  is_negative = image.mode.startswith('I;16') and tags.get(_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO
  is_undone = not rules.apply_orientation and orientation in range(2, 9)
  # Pillow states the size as displayed.
  size = (image.height, image.width)[:: -1 if is_undone and orientation >= 5 else 1]
  pixels = _pixels(image, mode, shrink(*size), shift)
  if is_negative:
    pixels = 255 - pixels
  if not is_undone:
    return pixels
  # All but the quarter turns are their own inverse.
  return image_formats.orient(pixels, {6: 8, 8: 6}.get(orientation, orientation))


def _pixels(image: Image.Image, mode: str, denominator: int, shift: int = 8) -> np.ndarray:
  """Uint8 `[H, W, C]` of an image of any mode; 16-bit grey levels are shifted right by `shift`."""
  image.load()
  if image.mode.startswith('I;16') or (image.mode == 'I' and image.format in ('PNG', 'PPM')):
    grey = np.clip(np.asarray(image).astype(np.int32) >> shift, 0, 255).astype(np.uint8)
    image = Image.fromarray(grey)
  elif image.mode in ('I', 'F', 'LAB', 'HSV'):
    raise DecodeError(f'its pixels are of the kind {image.mode!r}, which is not read')
  elif image.mode in ('RGBa', 'La'):  # colours are multiplied by opacity
    image = image.convert(image.mode.upper())
  image = image if image.mode == mode else image.convert(mode)
  pixels = np.asarray(image if denominator == 1 else image.reduce(denominator))
  return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels


def _orientation(image: Image.Image) -> int:
  """1 to 8; 1 if it is missing or invalid."""
  try:
    orientation = image.getexif().get(_ORIENTATION, 1)
  except Exception:
    return 1
  return orientation if orientation in range(1, 9) else 1


def _reason(error: Exception) -> str:
  """The message of a Pillow error, on one line, without addresses of objects."""
  text = ' '.join(re.sub(r'<[^>]*>', '', str(error)).split())[:120]
  return text.removesuffix(' file') or type(error).__name__
