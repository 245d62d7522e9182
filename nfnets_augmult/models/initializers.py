"""Initializers that share a few compiled programs between parameters of many shapes.

The draws are those of `jax.random`, of which entry number i depends on the key and on i alone, in
any shape. So they are drawn as a vector of one of few lengths, and cut. A network with fifty shapes
of kernels then takes about eight programs, each of which compiles in less than half the time.
"""

import math
from collections.abc import Sequence
from typing import Any

import haiku as hk
import jax
import numpy as np

_SHORTEST = 2**12
# From here on lengths are twice, not four times, the one before: the draws themselves take time.
_LONG = 2**18
# The standard deviation of a standard normal variable that is cut off at -2 and 2.
_STD_OF_TRUNCATED = 0.87962566103423978


class Normal(hk.initializers.Initializer):
  """Draws normal weights around 0.

  Attributes:
    stddev: standard deviation; None for `sqrt(gain / fan_in)`, of He et al. 2015 with a gain of 2.
    gain: see `stddev`.
    is_truncated: whether weights beyond two standard deviations are drawn anew. Where `stddev` is
      None, the others are scaled to make up for that.
  """

  def __init__(
    self, stddev: float | None = None, *, gain: float = 1.0, is_truncated: bool = False
  ) -> None:
    self._stddev = stddev
    self._gain = gain
    self._is_truncated = is_truncated

  def __call__(self, shape: Sequence[int], dtype: Any) -> jax.Array:
    """Returns weights; the last axis of `shape` is that of outputs."""
    stddev = self._stddev
    if stddev is None:
      stddev = np.sqrt(self._gain / max(1.0, math.prod(shape[:-1])))
      stddev = stddev / np.asarray(_STD_OF_TRUNCATED if self._is_truncated else 1.0, dtype)
    kind = hk.initializers.TruncatedNormal if self._is_truncated else hk.initializers.RandomNormal
    size = math.prod(shape)
    length = _SHORTEST
    while length < size:
      length *= 2 if length >= _LONG else 4
    return kind(stddev)((length,), dtype)[:size].reshape(shape)
