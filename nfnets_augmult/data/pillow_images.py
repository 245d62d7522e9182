"""Images of every format but JPEG to uint8 pixels, by Pillow."""

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

# The limit is `DecodeRules.max_pixels`, which is compared before anything is decoded.
Image.MAX_IMAGE_PIXELS = None
# What matters of what is odd about a file reaches us as an error; the rest is about metadata.
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

  Palettes are looked up; of 16 bits the upper 8 are kept; what is transparent is shown as if it
  were not, in the colours that the file has there; colour profiles are not applied.

  Args:
    encoded: the file.
    rules: see there.
    mode: of the result as Pillow calls it, `'RGB'`, `'L'` (grey) or `'RGBA'`.
    shrink: from height and width, as the image is to be seen, to a whole number; squares of so many
      pixels are averaged.

  Raises:
    DecodeError: it is no such image, cut off, damaged, or too large.
  """
  kind = image_formats.format_of(encoded[: image_formats.NUM_START_BYTES])
  if kind not in image_formats.READ_FORMATS:
    raise DecodeError(image_formats.why_not_read(encoded[: image_formats.NUM_START_BYTES]))
  if kind == 'WEBP':
    rules.check_size(*image_formats.webp_size(encoded[: image_formats.NUM_START_BYTES]))
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
  # Plugins raise a dozen kinds of errors at what they did not expect in a file.
  except Exception as error:
    raise DecodeError(f'{kind} that is cut off or damaged: {_reason(error)}') from error


def _check_png(encoded: bytes) -> None:
  """Compares the checksums of what the pixels depend on; Pillow leaves out those of the pixels."""
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
  """See `decode`; Pillow turns and mirrors a TIFF by itself, always."""
  tags = image.tag_v2
  if _DNG_VERSION in tags or tags.get(_NEW_SUBFILE_TYPE, 0) & 1:
    raise DecodeError('its first picture is a thumbnail, as in the raw files of cameras')
  # A tile may be larger than the image, and its memory is taken.
  if _TILE_WIDTH in tags:
    rules.check_size(int(tags.get(_TILE_LENGTH, 1)), int(tags[_TILE_WIDTH]))
  orientation = tags.get(_ORIENTATION, 1)
  shift = max(0, int(tags.get(_BITS_PER_SAMPLE, (8,))[0]) - 8)
  is_negative = image.mode.startswith('I;16') and tags.get(_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO
  is_turned_back = not rules.apply_orientation and orientation in range(2, 9)
  # Pillow states the size as it is to be seen.
  size = (image.height, image.width)[:: -1 if is_turned_back and orientation >= 5 else 1]
  pixels = _pixels(image, mode, shrink(*size), shift)
  if is_negative:
    pixels = 255 - pixels
  if not is_turned_back:
    return pixels
  # Back again: all but the quarter turns are their own inverse.
  return image_formats.orient(pixels, {6: 8, 8: 6}.get(orientation, orientation))


def _pixels(image: Image.Image, mode: str, denominator: int, shift: int = 8) -> np.ndarray:
  """Uint8 `[H, W, C]` of an image in whatever mode; `shift` is from its grey levels to 8 bits."""
  image.load()
  if image.mode.startswith('I;16') or (image.mode == 'I' and image.format in ('PNG', 'PPM')):
    grey = np.clip(np.asarray(image).astype(np.int32) >> shift, 0, 255).astype(np.uint8)
    image = Image.fromarray(grey)
  elif image.mode in ('I', 'F', 'LAB', 'HSV'):
    raise DecodeError(f'its pixels are of the kind {image.mode!r}, which is not read')
  elif image.mode in ('RGBa', 'La'):  # colours times opacity
    image = image.convert(image.mode.upper())
  image = image if image.mode == mode else image.convert(mode)
  pixels = np.asarray(image if denominator == 1 else image.reduce(denominator))
  return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels


def _orientation(image: Image.Image) -> int:
  """1 to 8; what makes no sense is ignored."""
  try:
    orientation = image.getexif().get(_ORIENTATION, 1)
  except Exception:
    return 1
  return orientation if orientation in range(1, 9) else 1


def _reason(error: Exception) -> str:
  """What an error of Pillow says, on one line, without addresses of objects."""
  text = ' '.join(re.sub(r'<[^>]*>', '', str(error)).split())[:120]
  return text.removesuffix(' file') or type(error).__name__
