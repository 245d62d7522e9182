"""Evaluation of parameters on a split, every example exactly once."""

import collections
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from nfnets_augmult.training import devices


def evaluate(
  evaluation_step: Callable[..., Any],
  params_by_name: Mapping[str, Any],
  batches: Iterator[Mapping[str, np.ndarray]],
  *,
  check_stop: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, float]]:
  """Returns the mean metrics over all examples of `batches`, for each set of parameters.

  The data are read once for all sets.

  Args:
    evaluation_step: on all devices, see `step.make_evaluation_step`.
    params_by_name: for example `{'raw': params, 'ema': ema_params}`, replicated.
    batches: see `pipeline.evaluation_batches`; padding has mask 0 and does not count.
    check_stop: called between batches; may raise to stop the evaluation.

  Returns:
    For each name: `cross_entropy` in nats, `top_1` and `top_5` in `[0, 1]`, and `count`; float64
    scalars, or arrays of the shape that `evaluation_step` returns.

  Raises:
    ValueError: there are no examples.
  """
  sums = {name: collections.defaultdict(float) for name in params_by_name}
  pending = []

  def add_up() -> None:
    for name, result in pending.pop(0).items():
      for key, value in devices.first_replica(result).items():
        sums[name][key] = sums[name][key] + value.astype(np.float64)

  for batch in devices.prefetch(batches):
    check_stop()
    pending.append(
      {name: evaluation_step(params, batch) for name, params in params_by_name.items()}
    )
    if len(pending) > devices.max_steps_in_flight():
      add_up()
  while pending:
    add_up()
  means = {}
  for name, total in sums.items():
    if not np.all(total['count']):
      raise ValueError('there is no example to evaluate')
    means[name] = {key: value / total['count'] for key, value in total.items()}
    means[name]['count'] = total['count']
  return means
