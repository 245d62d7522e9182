"""Learning rates against values worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets_augmult.optim import schedules
from tests.golden import load_json


def _piece(step, total_steps):
  """Which twentieth of the run a step is in, in whole numbers."""
  return 20 * step // total_steps


@pytest.mark.parametrize(
  ('step', 'expected'),
  [
    (0, 0.0),
    (5, 0.4),  # half of the warm-up: 0.8 * 5 / 10
    (10, 0.8),
    (35, 0.6828427),  # a quarter of the decay: 0.4 * (1 + cos(pi / 4)) = 0.4 * 1.70710678
    (60, 0.4),  # half of it: 0.4 * (1 + cos(pi / 2))
    (110, 0.0),
    (500, 0.0),
  ],
)
def test_cosine(step, expected):
  """Peak 0.8, 10 steps of warm-up, then 100 steps of half a cosine, then 0."""
  schedule = schedules.cosine(0.8, total_steps=110, warmup_steps=10)
  np.testing.assert_allclose(schedule(step), expected, rtol=1e-6, atol=1e-7)


def test_cosine_without_warmup():
  """Without warm-up the first step has the whole learning rate."""
  schedule = schedules.cosine(0.8, total_steps=100)
  np.testing.assert_allclose([schedule(0), schedule(50)], [0.8, 0.4], rtol=1e-6)


@pytest.mark.parametrize(
  ('step', 'expected'),
  [
    (0, 2.0),
    (499, 2.0),
    (500, 2.0),  # constant for the first half; the end of the next twentieth is step 550
    (549, 2.0),
    (550, 1.0),
    (599, 1.0),
    (600, 0.5),
    (949, 2.0 / 2**8),
    (950, 2.0 / 2**9),
    (999, 2.0 / 2**9),
    (1000, 2.0 / 2**9),  # never less, also past the end
    (9999, 2.0 / 2**9),
  ],
)
def test_halving(step, expected):
  """Peak 2 over 1,000 steps: a twentieth is 50 steps, and all values are exact."""
  assert schedules.halving(2.0, total_steps=1000)(step) == expected


@pytest.mark.parametrize(
  'total_steps',
  [
    7,
    20,
    1001,
    39_063,
    400_000,
    399_999,
    4_000_019,
  ],
)
def test_halving_at_boundaries(total_steps):
  """The learning rate halves at the first step of a twentieth, in whole-number arithmetic."""
  boundaries = np.ceil(np.arange(21) * total_steps / 20).astype(int)
  steps = np.unique(np.clip(boundaries[:, np.newaxis] + np.arange(-2, 3), 0, total_steps - 1))
  rates = jax.jit(jax.vmap(schedules.halving(1.0, total_steps=total_steps)))(jnp.asarray(steps))
  expected = [2.0 ** -min(max(_piece(int(step), total_steps) - 10, 0), 9) for step in steps]
  np.testing.assert_array_equal(rates, np.array(expected, np.float32))


def test_halving_ends_at_a_512th():
  """Every one of the ten values from 1 to 1 / 2**9 is taken, for a twentieth of the run each."""
  steps = np.arange(2000)
  rates = np.asarray(jax.vmap(schedules.halving(1.0, total_steps=2000))(jnp.asarray(steps)))
  values, counts = np.unique(rates, return_counts=True)
  np.testing.assert_array_equal(values, 2.0 ** np.arange(-9, 1))
  np.testing.assert_array_equal(counts, [100] * 9 + [1100])


@pytest.mark.parametrize('name', ['halving', 'constant'])
def test_warmup_multiplies_the_beginning(name):
  """Step t of a warm-up of 8 steps has t / 8 of the learning rate, step 8 and 9 all of it."""
  schedule = schedules.make_schedule(name, 3.0, total_steps=100, warmup_steps=8)
  rates = [float(schedule(step)) for step in (0, 2, 4, 8, 9, 40)]
  np.testing.assert_allclose(rates, [0, 0.75, 1.5, 3, 3, 3], rtol=1e-6)


def test_constant():
  """The learning rate is the same at every step, also past the end."""
  schedule = schedules.constant(0.3, total_steps=10)
  assert {float(schedule(step)) for step in (0, 5, 10, 100)} == {float(np.float32(0.3))}


@pytest.mark.parametrize('name', list(schedules.SCHEDULES))
@pytest.mark.parametrize('warmup_steps', [0, 5])
def test_jit_equals_eager(name, warmup_steps):
  """Compiled, with an integer array for the step, the result is one float32 number."""
  schedule = schedules.make_schedule(name, 0.5, total_steps=40, warmup_steps=warmup_steps)
  compiled = jax.jit(schedule)
  for step in (0, 3, 5, 22, 39):
    rate = compiled(jnp.int32(step))
    assert rate.shape == () and rate.dtype == jnp.float32
    np.testing.assert_allclose(rate, schedule(step), rtol=1e-6)


def test_make_schedule_by_name():
  """Names stand for their schedules, which get all arguments."""
  arguments = dict(total_steps=40, warmup_steps=4)
  for name, step in (('cosine', 30), ('halving', 30), ('constant', 2)):
    made = schedules.make_schedule(name, 0.5, **arguments)(step)
    assert made == getattr(schedules, name)(0.5, **arguments)(step)
  rates = {float(schedules.make_schedule(n, 0.5, **arguments)(30)) for n in schedules.SCHEDULES}
  assert len(rates) == 3


@pytest.mark.parametrize(
  ('changed', 'message'),
  [
    (dict(name='linear'), "^name='linear' must be one of cosine, halving, constant"),
    (dict(learning_rate=0.0), r'^learning_rate=0.0 must be a finite number above 0'),
    (
      dict(learning_rate=float('nan')),
      r'^learning_rate=nan must be a finite number above 0',
    ),
    (dict(warmup_steps=10), '^warmup_steps=10 must be fewer than the 10 steps'),
    (dict(warmup_steps=-1), '^warmup_steps=-1 must be a whole number of at least 0'),
  ],
)
def test_refuses(changed, message):
  """Unknown names and impossible values are refused by key and value."""
  arguments = dict(name='cosine', learning_rate=1.0, total_steps=10, warmup_steps=0) | changed
  with pytest.raises(ValueError, match=message):
    schedules.make_schedule(**arguments)


def test_cosine_is_the_reference_schedule():
  """The NFNet schedule as published, but clamped past its end, where the reference rises again."""
  golden = load_json('schedules.json')['WarmupCosineDecay']
  arguments = golden['kwargs']
  schedule = schedules.cosine(
    arguments['max_val'],
    total_steps=arguments['num_steps'],
    warmup_steps=arguments['warmup_steps'],
  )
  values = [float(schedule(step)) for step in golden['steps']]
  np.testing.assert_allclose(values, golden['float64'], rtol=1e-5, atol=1e-6)
  assert float(schedule(arguments['num_steps'] + 1000)) == 0
