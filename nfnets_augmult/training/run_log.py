"""The log of one run: metrics since the last record, evaluations, divergence."""

import collections
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nfnets_augmult.training import hosts
from nfnets_augmult.training.plan import Plan
from nfnets_augmult.training.records import Recorder
from nfnets_augmult.training.rises import Rise, RiseDetector

# The metric by which the best checkpoint is chosen.
BEST_BY = 'test/ema/top_1'
# How many of the last losses are recorded of a diverged run.
_LAST_LOSSES = 10


class DivergedError(hosts.SharedError, RuntimeError):
  """The loss, the gradient or the parameters are no longer finite numbers.

  Attributes:
    facts: `step`, the `learning_rate` there and the `last_losses` up to it, JSON values; empty for
      several runs.
  """

  def __init__(self, message: str, facts: Mapping[str, Any] | None = None):
    super().__init__(message)
    self.facts = dict(facts or {})


class RunLog:
  """Collects the metrics of one run and records them.

  Attributes:
    name: of the run; '' for a single one.
    best: the best test accuracy so far, in `[0, 1]`, by which the best checkpoint is chosen; None
      before the first evaluation, and on all hosts but the first.
  """

  def __init__(self, plan: Plan, recorder: Recorder | None, *, name: str = ''):
    """Stores its parts.

    Args:
      plan: of the run.
      recorder: None on all hosts but the first.
      name: of the run; '' for a single one.
    """
    self.name = name
    self._plan = plan
    self._recorder = recorder
    self._since_record = []
    self._last = collections.deque(maxlen=_LAST_LOSSES)
    self._rises = RiseDetector()
    self.best = recorder.best(BEST_BY) if recorder is not None else None

  def is_evaluated(self, step: int) -> bool:
    """Whether this host has recorded an evaluation of this step."""
    return self._recorder is not None and self._recorder.has(step, BEST_BY)

  @property
  def is_taken_over(self) -> bool:
    """Whether this host has found that the work directory belongs to another process by now."""
    return self._recorder is not None and self._recorder.is_taken_over

  def add(self, step: int, metrics: Mapping[str, float]) -> tuple[str, Rise | None]:
    """Adds the metrics of one step.

    Returns:
      A message that names what is not finite, or ''; and the jump of the loss, if one is detected.
    """
    self._last.append(metrics)
    for name in ('loss', 'gradient_norm', 'parameter_norm'):
      if name in metrics and not math.isfinite(metrics[name]):
        return f'the {name.replace("_", " ")} of step {step} is {metrics[name]}', None
    self._since_record.append(metrics)
    return '', self._rises.add(metrics['loss'])

  def record_metrics(self, step: int, *, images_per_second: float) -> dict[str, float]:
    """Records the means since the last record, and returns them by name."""
    means = {
      f'train/{name}': float(np.mean([metrics[name] for metrics in self._since_record]))
      for name in ('loss', 'accuracy', 'gradient_norm')
    }
    learning_rate = self._since_record[-1]['learning_rate']
    self._since_record = []
    self._record(
      step,
      {
        **means,
        'learning_rate': learning_rate,
        'temperature': learning_rate * self._plan.multiplicity.augmult,
        'images_per_second': images_per_second,
      },
    )
    return means

  def divergence_error(self, step: int, problem: str, *, images_per_second: float) -> DivergedError:
    """Records the metrics up to `step`, and returns the error to raise."""
    if self._since_record:
      self.record_metrics(step, images_per_second=images_per_second)
    losses = [metrics['loss'] for metrics in self._last]
    message = problem
    facts = {
      'step': step,
      'last_losses': [loss if math.isfinite(loss) else None for loss in losses],
    }
    if losses:
      facts['learning_rate'] = self._last[-1]['learning_rate']
      message += (
        f', at learning rate {facts["learning_rate"]:.4g}; the last {len(losses)} losses: '
        f'{", ".join(f"{loss:.4g}" for loss in losses)}'
      )
    return DivergedError(message, facts)

  def upload(self) -> None:
    """Uploads the records, if they are in a bucket."""
    if self._recorder is not None:
      self._recorder.upload()

  def record_evaluation(self, step: int, results: dict[str, dict[str, dict[str, float]]]) -> None:
    """Records means by split, parameters (`raw` or `ema`) and metric."""
    self._record(
      step,
      {
        f'{split}/{name}/{key}': value
        for split, by_name in results.items()
        for name, means in by_name.items()
        for key, value in means.items()
      },
    )
    if self._recorder is not None:
      self.best = self._recorder.best(BEST_BY)

  def _record(self, step: int, values: dict[str, float]) -> None:
    if self._recorder is not None:
      self._recorder.write(step, {'epoch': self._plan.epoch(step), **values})
