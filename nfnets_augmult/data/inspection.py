"""Reading every image of a source once, to learn what is in it and which cannot be read."""

import collections
import concurrent.futures
import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from nfnets_augmult.data import image_formats
from nfnets_augmult.data.image_formats import DecodeError, DecodeRules
from nfnets_augmult.data.sources import ArraySource, Source

_EXIF_ORIENTATION = 274
_TRAITS_OF_MODES = {
  **dict.fromkeys(('1', 'L', 'LA', 'La', 'I', 'I;16', 'I;16B', 'I;16L'), 'grey'),
  **{'P': 'with a palette', 'PA': 'with a palette', 'CMYK': 'in the colours of print (CMYK)'},
}


class Inspected(NamedTuple):
  """What was found of an image.

  Attributes:
    label: its class; -1 if it cannot be read.
    kind: its format; '' if it cannot be read, or is held as pixels.
    height: pixels, as displayed.
    width: pixels, as displayed.
    traits: what is not to be expected of every image, as words.
    digest: equal for images with the same pixels; b'' if it does not decode.
    problem: its name, and why it cannot be read or does not decode; '' if it does.
  """

  label: int = -1
  kind: str = ''
  height: int = 0
  width: int = 0
  traits: tuple[str, ...] = ()
  digest: bytes = b''
  problem: str = ''


def inspect_all(source: Source, rules: DecodeRules) -> Iterator[Inspected]:
  """Yields what is found of every image, in order; decodes on all cores, few images at a time.

  Args:
    source: of any kind.
    rules: orientation and limits.
  """
  threads = os.cpu_count() or 1
  pool = concurrent.futures.ThreadPoolExecutor(threads)
  try:
    pending = collections.deque()
    for index in range(source.num_images):
      pending.append(pool.submit(_inspect, source, index, rules))
      if len(pending) > 4 * threads:
        yield pending.popleft().result()
    while pending:
      yield pending.popleft().result()
  finally:
    pool.shutdown(cancel_futures=True)


def _inspect(source: Source, index: int, rules: DecodeRules) -> Inspected:
  if isinstance(source, ArraySource):
    pixels = source.images[index]
    return Inspected(int(source.labels[index]), '', *pixels.shape[:2], (), _digest(pixels))
  from nfnets_augmult.data import decoding

  try:
    encoded, label = source.read(index)
  except (ValueError, OSError) as error:
    return Inspected(problem=str(error))
  try:
    pixels = decoding.decode(encoded, rules)
  except DecodeError as error:
    return Inspected(label, problem=f'{source.image_name(index)}: {error}')
  kind = image_formats.format_of(encoded[: image_formats.NUM_START_BYTES])
  return Inspected(label, kind, *pixels.shape[:2], _traits(encoded, kind), _digest(pixels))


def _digest(pixels: np.ndarray) -> bytes:
  shape = str(pixels.shape).encode()
  return hashlib.blake2b(np.ascontiguousarray(pixels), digest_size=16, key=shape).digest()


def _traits(encoded: bytes, kind: str) -> tuple[str, ...]:
  """See `Inspected.traits`; of an image that decodes."""
  traits = []
  # Damaged metadata, of which Pillow raises all kinds of errors, do not matter to reading.
  with contextlib.suppress(Exception), Image.open(io.BytesIO(encoded), formats=[kind]) as image:
    traits += filter(None, [_TRAITS_OF_MODES.get(image.mode)])
    if image.mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or 'transparency' in image.info:
      traits.append('with transparency')
    if getattr(image, 'n_frames', 1) > 1:
      traits.append('with several pictures, of which the first is read')
    if image.getexif().get(_EXIF_ORIENTATION) in range(2, 9):
      traits.append('turned or mirrored by EXIF')
  return tuple(traits)
