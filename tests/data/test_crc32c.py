"""The checksum of TFRecord files against the standard's examples and TensorFlow's writer."""

import struct

import numpy as np
import pytest
import tensorflow as tf

from nfnets_augmult.data import crc32c

_RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
  ('content', 'expected'),
  [
    (b'123456789', 0xE3069283),
    # RFC 3720, appendix B.4.
    (bytes(32), 0x8A9136AA),
    (b'\xff' * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
  ],
)
def test_published_values(content, expected):
  """The check value of the polynomial, and the examples of the standard."""
  assert crc32c.crc32c(content) == expected


def _bit_by_bit(content):
  register = 0xFFFFFFFF
  for byte in content:
    register ^= byte
    for _ in range(8):
      register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
  return register ^ 0xFFFFFFFF


@pytest.mark.parametrize('size', [*range(4, 40), 127, 128, 129, 1000, 4099])
def test_every_length(size):
  """Any number of bytes gives what the definition gives, bit by bit."""
  content = _RANDOM.bytes(size)
  assert crc32c.crc32c(content) == _bit_by_bit(content)


@pytest.mark.parametrize('size', [100, 65_536, 300_001])
def test_agrees_with_tensorflow(tmp_path, size):
  """The masked checksum of a record is the one that TensorFlow wrote behind it."""
  file, content = tmp_path / 'records', _RANDOM.bytes(size)
  with tf.io.TFRecordWriter(str(file)) as writer:
    writer.write(content)
  assert crc32c.masked_crc32c(content) == struct.unpack('<I', file.read_bytes()[-4:])[0]


def test_too_short():
  """Contents that have no first 32 bits are refused."""
  with pytest.raises(ValueError, match='of 3 bytes'):
    crc32c.crc32c(b'123')
