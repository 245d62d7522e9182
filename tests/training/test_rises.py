"""A jump of the loss is noticed once, and ordinary training never."""

import numpy as np
import pytest

from nfnets_augmult.training.rises import RiseDetector


def _feed(losses):
  detector = RiseDetector()
  return [(step, rise) for step, loss in enumerate(losses) if (rise := detector.add(float(loss)))]


@pytest.mark.parametrize('seed', range(5))
def test_ordinary_training_is_not_reported(seed):
  """A loss that falls from 2.3 to 0.01, with noise of a third of it and single hard batches."""
  random = np.random.default_rng(seed)
  losses = 2.3 * np.exp(-np.arange(3000) / 500) + 0.01
  losses = losses * np.exp(0.3 * random.standard_normal(3000))
  losses[500::200] *= 8
  assert not _feed(losses)


def test_a_jump_is_reported_once_with_its_level():
  """From 1.5 to 6 at step 110, for a while, and again later."""
  losses = np.full(600, 1.5)
  losses[:20] = 2.3
  losses[110:130] = losses[400:420] = 6.0
  ((step, rise),) = _feed(losses)
  assert 110 < step < 115
  assert rise.level == 1.5 and 4.5 < rise.loss <= 6


def test_a_jump_of_a_small_loss_is_not_reported():
  """From 0.01 to 0.1 is ten times the level, but little compared to the initial 2.3."""
  losses = np.full(500, 0.01)
  losses[:100] = np.linspace(2.3, 0.01, 100)
  losses[300:320] = 0.1
  assert not _feed(losses)
