"""NumPy functions as nodes of a TensorFlow graph."""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf


def numpy_call(
  function: Callable[..., Mapping[str, np.ndarray]],
  types: Mapping[str, tf.DType],
  *arguments: tf.Tensor,
) -> dict[str, tf.Tensor]:
  """Returns what `function` makes of the arguments, by name.

  Args:
    function: pure; from arrays to a dict with at least the keys of `types`.
    types: name to dtype of what is wanted.
    *arguments: tensors.
  """

  def call(*arrays: np.ndarray) -> list[np.ndarray]:
    results = function(*arrays)
    return [results[key] for key in types]

  tensors = tf.numpy_function(call, arguments, list(types.values()), stateful=False)
  return dict(zip(types, tensors, strict=True))
