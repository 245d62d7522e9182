"""The checksum of TFRecord files, vectorised with NumPy."""

import functools

import numpy as np

# Castagnoli's polynomial, lowest bit first (RFC 3720, appendix B.4).
_POLYNOMIAL = np.uint32(0x82F63B78)


def crc32c(content: bytes | memoryview) -> int:
  """Returns the CRC-32C of `content`, of at least 4 bytes.

  The checksum is linear in the bits: each word contributes as if only zeros came after it. So the
  content is folded: its first part, advanced over as many zero words as the last part has, is added
  to the last part, until one word is left.

  Raises:
    ValueError: fewer than 4 bytes.
  """
  if len(content) < 4:
    raise ValueError(f'a checksum of {len(content)} bytes; it takes at least 4')
  # Leading zeros do not change the checksum. That the register begins with all bits set is the same
  # as flipping the first 32 bits.
  padded = np.zeros(-(-len(content) // 4) * 4, np.uint8)
  message = padded[len(padded) - len(content) :]
  message[:] = np.frombuffer(content, np.uint8)
  message[:4] ^= 0xFF
  words = padded.view('<u4')
  for level in reversed(range((len(words) - 1).bit_length())):
    head, words = words[: -(2**level)], words[-(2**level) :]
    words[len(words) - len(head) :] ^= _advance(head, level)
  return int(_advance(words, 0)[0] ^ 0xFFFFFFFF)


def masked_crc32c(content: bytes | memoryview) -> int:
  """Returns the CRC-32C of `content` as TFRecord files store it: rotated, with a constant added."""
  crc = crc32c(content)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _advance(registers: np.ndarray, level: int) -> np.ndarray:
  """What uint32 `registers` become after `2**level` zero words."""
  low, high = _tables(level)
  return low.take(registers & 0xFFFF) ^ high.take(registers >> 16)


@functools.cache
def _tables(level: int) -> tuple[np.ndarray, np.ndarray]:
  """`_advance` of every register that is zero but for its low half, and but for its high half."""
  halves = np.arange(2**16, dtype=np.uint32), np.arange(2**16, dtype=np.uint32) << 16
  if level:
    return tuple(_advance(_advance(half, level - 1), level - 1) for half in halves)
  for _ in range(32):
    halves = tuple((half >> 1) ^ np.where(half & 1, _POLYNOMIAL, np.uint32(0)) for half in halves)
  return halves
