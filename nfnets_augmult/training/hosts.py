"""Agreement between the processes of several hosts; trivial with a single one."""

from typing import Any

import jax
import numpy as np


def any_host(flag: bool) -> bool:
  """Whether `flag` is true on any host; a collective operation."""
  if jax.process_count() == 1:
    return flag
  from jax.experimental import multihost_utils

  return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def broadcast_from_first_host(value: Any) -> np.ndarray:
  """Returns the number or array of the first host; collective, with equal shapes on all hosts."""
  if jax.process_count() == 1:
    return np.asarray(value)
  from jax.experimental import multihost_utils

  return np.asarray(multihost_utils.broadcast_one_to_all(np.asarray(value)))
