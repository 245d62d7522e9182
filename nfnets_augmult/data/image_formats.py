"""Format, size and orientation of image files by their first bytes, without decoding."""

import dataclasses
import re
import struct
from typing import NamedTuple

import numpy as np
from PIL import features

from nfnets_augmult.ops.checks import check_bool, check_int


class DecodeError(ValueError):
  """An image cannot be decoded; the message says why, but not which image it is."""


@dataclasses.dataclass(frozen=True)
class DecodeRules:
  """Rules that every reader of encoded images follows.

  Attributes:
    apply_orientation: whether images are rotated and mirrored as their EXIF `Orientation` says.
    max_pixels: largest width x height, as stated in the header, of images that are decoded.
  """

  apply_orientation: bool = True
  max_pixels: int = 64_000_000

  def __post_init__(self):
    check_bool('apply_orientation', self.apply_orientation)
    check_int('max_pixels', self.max_pixels, least=1)

  def check_size(self, height: int, width: int) -> None:
    """Raises DecodeError for an image that has no pixels or too many."""
    if height < 1 or width < 1:
      raise DecodeError(f'its header states {width:,} x {height:,} pixels')
    if height * width > self.max_pixels:
      raise DecodeError(
        f'it has {width:,} x {height:,} pixels, more than max_pixels={self.max_pixels:,}'
      )


DEFAULT_RULES = DecodeRules()

# Bytes of a file that `format_of` needs.
NUM_START_BYTES = 64

# The formats that are read, under Pillow's names; Pillow reads all but JPEG. Its other readers are
# left out on purpose: some call other programs, others are rarely used and tested.
READ_FORMATS = ('JPEG', 'PNG', 'GIF', 'BMP', 'WEBP', 'TIFF', 'PPM') + (
  ('AVIF',) if features.check('avif') else ()
)

# Suffixes of image names. A file with such a name that is not an image is bad, not passed over.
IMAGE_SUFFIXES = (
  *('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.apng', '.gif', '.bmp', '.webp', '.tif', '.tiff'),
  *('.ppm', '.pgm', '.pbm', '.pnm'),
)

# Cameras write raw files as TIFF, of which a TIFF reader returns a thumbnail.
_RAW_SUFFIXES = ('.3fr', '.arw', '.cr2', '.dng', '.erf', '.nef', '.nrw', '.pef', '.sr2', '.srw')

_BMP_HEADER_SIZES = (12, 16, 40, 52, 56, 64, 108, 124)
_PPM_START = re.compile(rb'P[1-6]\s+[\d#]')
_FIRST_BYTES = {
  b'\xff\xd8\xff': 'JPEG',
  b'\x89PNG\r\n\x1a\n': 'PNG',
  b'GIF87a': 'GIF',
  b'GIF89a': 'GIF',
  b'II*\0': 'TIFF',
  b'MM\0*': 'TIFF',
  b'II+\0': 'TIFF',
  b'MM\0+': 'TIFF',
  b'\xff\x4f\xff\x51': 'JPEG 2000',
  b'\0\0\0\x0cjP  \r\n\x87\n': 'JPEG 2000',
  b'\xff\x0a': 'JPEG XL',
  b'\0\0\0\x0cJXL \r\n\x87\n': 'JPEG XL',
  b'8BPS': 'Photoshop',
  b'\x76\x2f\x31\x01': 'OpenEXR',
  b'\0\0\x01\0': 'ICO',
  b'FUJIFILMCCD-RAW': 'camera raw',
  b'IIRO': 'camera raw',
  b'IIU\0': 'camera raw',
}


def format_of(start: bytes, name: str = '') -> str:
  """Returns the format of a file, `'JPEG'` for example, or `''` if it is not an image.

  Args:
    start: its first `NUM_START_BYTES`, or all.
    name: of the file; what counts is its content, but raw files of cameras pose as TIFF.
  """
  found = next((kind for first, kind in _FIRST_BYTES.items() if start.startswith(first)), '')
  if found == 'TIFF' and (start[8:10] == b'CR' or name.lower().endswith(_RAW_SUFFIXES)):
    return 'camera raw'
  if found:
    return found
  if start.startswith(b'BM') and start[14:18] in (struct.pack('<I', n) for n in _BMP_HEADER_SIZES):
    return 'BMP'
  if start.startswith(b'RIFF') and start[8:12] == b'WEBP':
    return 'WEBP'
  if _PPM_START.match(start):
    return 'PPM'
  if start[4:8] == b'ftyp':
    brands = {start[place : place + 4] for place in (8, *range(16, len(start), 4))}
    if brands & {b'avif', b'avis'}:
      return 'AVIF'
    if brands & {b'heic', b'heix', b'heim', b'heis', b'hevc', b'mif1'}:
      return 'HEIC'
    if b'crx ' in brands:
      return 'camera raw'
  if re.search(rb'<svg[\s>]', start):
    return 'SVG'
  return ''


def why_not_read(start: bytes) -> str:
  """Returns why a file that begins with `start` is none of the images that are read."""
  if not start:
    return 'the file is empty'
  if kind := format_of(start):
    return f'its format is {kind}, which is not read'
  return f'it is not an image: it begins with {start[:16]!r}'


class JpegHeader(NamedTuple):
  """What the header of a JPEG states.

  Attributes:
    height: pixels, as stored.
    width: pixels, as stored.
    components: 1 grey, 3 colour, 4 CMYK.
    orientation: 1 to 8, see `orient`; 1 if it is missing or invalid.
  """

  height: int
  width: int
  components: int
  orientation: int

  @property
  def is_turned(self) -> bool:
    """Whether rows are displayed as columns."""
    return self.orientation >= 5

  @property
  def displayed_size(self) -> tuple[int, int]:
    """Height and width as displayed."""
    return (self.width, self.height) if self.is_turned else (self.height, self.width)


# Each scan of a progressive JPEG costs a pass over the whole image; encoders write about ten.
_MOST_SCANS = 100


def jpeg_header(encoded: bytes) -> JpegHeader:
  """Returns the header of a JPEG, read up to the start of frame; takes microseconds.

  Segments begin with 0xff, a marker and their length; the size is in the start of frame.

  Raises:
    DecodeError: there is no frame, or not one of a kind that is read.
  Source: ITU-T T.81, Annex B; for the segments APP1 the EXIF and XMP standards.
  """
  place, exif, xmp = 2, 0, 0
  while (place := encoded.find(b'\xff', place)) >= 0 and place + 10 <= len(encoded):
    marker = encoded[place + 1]
    if marker == 0xFF or marker <= 0x01 or 0xD0 <= marker <= 0xD8:  # padding, or without length
      place += 1 if marker == 0xFF else 2
      continue
    (length,) = struct.unpack_from('>H', encoded, place + 2)
    if marker == 0xE1 and not exif and encoded[place + 4 : place + 10] == b'Exif\0\0':
      exif = _exif_orientation(encoded[place + 10 : place + 2 + length])
    elif marker == 0xE1 and not xmp and encoded[place + 4 : place + 10] == b'http:/':
      # Pillow uses it, too, if there is no EXIF.
      segment = encoded[place + 4 : place + 2 + length]
      found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', segment)
      xmp = int(found[1]) if found else 0
    if marker in (0xD9, 0xDA):
      break
    if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
      precision, height, width, components = struct.unpack_from('>BHHB', encoded, place + 4)
      if precision != 8:
        raise DecodeError(f'it has {precision} bits per channel; JPEGs with 8 are read')
      if marker not in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
        raise DecodeError(f'it is a lossless or hierarchical JPEG (SOF{marker - 0xC0}), not read')
      if marker in (0xC2, 0xCA) and (scans := encoded.count(b'\xff\xda', place)) > _MOST_SCANS:
        raise DecodeError(f'it has {scans:,} scans; a progressive JPEG has about ten')
      # A block of 8 x 8 pixels takes two codes, in progressive files one, of at least one bit. A
      # decoder would invent the pixels that the file has no room for.
      least_bits = {0xC0: 2, 0xC1: 2, 0xC2: 1}.get(marker, 0) * -(-height // 8) * -(-width // 8)
      if 8 * len(encoded) < least_bits:
        raise DecodeError(
          f'its header states {width:,} x {height:,} pixels, more than the file has room for'
        )
      return JpegHeader(height, width, components, exif or xmp or 1)
    place += 2 + length
  raise DecodeError('it is cut off or damaged: its header does not state a size')


def _exif_orientation(exif: bytes) -> int:
  """The orientation in a TIFF structure, 1 to 8; 0 if it is missing or invalid."""
  order = {b'II*\0': '<', b'MM\0*': '>'}.get(exif[:4])
  if not order or len(exif) < 8:
    return 0
  (start,) = struct.unpack_from(f'{order}I', exif, 4)
  if start + 2 > len(exif):
    return 0
  (count,) = struct.unpack_from(f'{order}H', exif, start)
  for entry in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
    tag, kind = struct.unpack_from(f'{order}HH', exif, entry)
    if tag == 0x0112:
      (value,) = struct.unpack_from(order + {4: 'I'}.get(kind, 'H'), exif, entry + 8)
      return value if kind in (3, 4) and 1 <= value <= 8 else 0
  return 0


def orient(pixels: np.ndarray, orientation: int) -> np.ndarray:
  """Returns an image `[H, W, C]` as it is displayed; a view.

  Args:
    pixels: as stored.
    orientation: as in EXIF: 1 as it is, 2 mirrored, 3 upside down, 4 both, 5 to 8 likewise with
      rows and columns exchanged.
  """
  if orientation >= 5:
    pixels = pixels.swapaxes(0, 1)
  rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
  columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
  return pixels[rows, columns]


def stored_box(box: np.ndarray, orientation: int, height: int, width: int) -> np.ndarray:
  """Returns the box of the stored image for a box of the image as it is displayed.

  Args:
    box: top, left, height and width, displayed.
    orientation: see `orient`.
    height: of the image, displayed.
    width: of the image, displayed.
  """
  top, left, box_height, box_width = box
  if orientation in (3, 4, 7, 8):
    top = height - top - box_height
  if orientation in (2, 3, 6, 7):
    left = width - left - box_width
  if orientation >= 5:
    return np.array([left, top, box_width, box_height])
  return np.array([top, left, box_height, box_width])


def webp_size(start: bytes) -> tuple[int, int]:
  """Returns height and width of a WebP, whose decoder allocates memory as soon as it opens a file.

  Raises:
    DecodeError: the header is cut off or damaged.
  Source: RFC 9649, Section 2.
  """
  chunk, data = start[12:16], start[20:]
  if chunk == b'VP8X' and len(data) >= 10:
    width, height = (int.from_bytes(data[place : place + 3], 'little') + 1 for place in (4, 7))
  elif chunk == b'VP8L' and len(data) >= 5:
    bits = int.from_bytes(data[1:5], 'little')
    width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
  elif chunk == b'VP8 ' and len(data) >= 10:
    width, height = (size & 0x3FFF for size in struct.unpack_from('<HH', data, 6))
  else:
    raise DecodeError('it is cut off or damaged: its header does not state a size')
  return height, width


def scale_boxes(
  boxes: np.ndarray, size: tuple[int, int], scaled_size: tuple[int, ...]
) -> np.ndarray:
  """Returns boxes `[M, 4]` of an image of `size` in the same image at `scaled_size`, rounded.

  Each keeps at least one pixel.

  Args:
    boxes: int32 `[M, 4]`: top, left, height and width.
    size: height and width, in pixels.
    scaled_size: likewise.
  """
  scale = np.array(scaled_size) / np.array(size)
  corners = np.stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
  begin, end = np.rint(corners * scale).astype(np.int32)
  most = np.array(scaled_size, np.int32)
  begin = np.minimum(begin, most - 1)
  end = np.clip(end, begin + 1, most)
  return np.concatenate([begin, end - begin], axis=1)
