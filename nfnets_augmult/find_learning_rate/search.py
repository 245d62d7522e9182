"""The search for the largest stable learning rate, with the steps of the real run."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import logging

from nfnets_augmult import configs
from nfnets_augmult.find_learning_rate import trials
from nfnets_augmult.find_learning_rate.findings import Findings
from nfnets_augmult.ops import checks
from nfnets_augmult.runs import batches, network
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import records


def find(
  config: ml_collections.ConfigDict,
  *,
  seeds: int = 3,
  ramp_steps: int = 300,
  check_steps: int = 200,
  lowest: float = 1e-4,
  highest: float = 10.0,
  safety: float = 2.0,
) -> Findings:
  """Searches for the largest stable learning rate of a run by short trainings; writes nothing.

  Args:
    config: of one run; the grid of checked learning rates contains its peak learning rate.
    seeds: number of seeds, at least 1, from the config's on.
    ramp_steps: length of a ramp, at least 30.
    check_steps: length of a check, at least 30, or the whole run if that is shorter. A warm-up of
      more than half of it is shortened to half of it.
    lowest: learning rate at which the ramp starts.
    highest: learning rate at which it ends; nothing larger is checked.
    safety: at least 1, see `Findings.suggestion`.

  Raises:
    ValueError: the config or an argument is out of range; the message names it.
    BadDataError: an image does not decode, and the policy is to fail.
  """
  check_settings(
    seeds=seeds,
    ramp_steps=ramp_steps,
    check_steps=check_steps,
    lowest=lowest,
    highest=highest,
    safety=safety,
  )
  run = Run(config).prepare()
  check_steps = min(check_steps, run.plan.total_steps)
  trainer = Trainer(run, max_steps=max(ramp_steps, check_steps))
  ramp_rates = np.geomspace(lowest, highest, ramp_steps)
  ramps, checkers, all_checks, largest_stable = [], {}, [], {}
  for seed in range(run.settings.seed, run.settings.seed + seeds):
    ramp = trials.make_ramp(trainer.train, seed, ramp_rates)
    logging.info('seed %d: %s', seed, _describe_ramp(ramp))
    # The ramp overestimates: it reaches large learning rates with a trained network.
    start = (ramp.breakdown or highest) / trials.FACTOR**2
    checkers[seed] = _checker(trainer, ramp, check_steps)
    largest_stable[seed], made = trials.find_largest_stable(
      checkers[seed],
      start=trials.nearest_on_grid(max(start, lowest), origin=run.settings.learning_rate),
      low=lowest,
      high=highest,
    )
    ramps.append(ramp)
    all_checks += made
  if None not in largest_stable.values():
    below = trials.largest_on_grid(
      min(largest_stable.values()) / safety, origin=run.settings.learning_rate
    )
    all_checks = trials.find_fastest(checkers, all_checks, start=below, low=lowest)
  return Findings(
    facts=_facts(run, ramp_steps=ramp_steps, check_steps=check_steps),
    ramps=ramps,
    checks=all_checks,
    largest_stable=largest_stable,
    safety=safety,
  )


def check_settings(
  *,
  seeds: int,
  ramp_steps: int,
  check_steps: int,
  lowest: float,
  highest: float,
  safety: float,
) -> None:
  """Raises ValueError if an argument of `find` is out of its range; the message names it."""
  checks.check_int('seeds', seeds, least=1, most=1000)
  for name, steps in (('ramp_steps', ramp_steps), ('check_steps', check_steps)):
    checks.check_int(name, steps, least=3 * trials.WINDOW, most=10**6)
  checks.check_number('lowest', lowest, above=0)
  checks.check_number('highest', highest, above=lowest)
  checks.check_number('safety', safety, least=1)


class Trainer:
  """Trains any seed with any learning rates in one compiled program."""

  def __init__(self, run: Run, *, max_steps: int):
    self.run = run
    self._max_steps = max_steps

    def train_step(state: Any, batch: Any, key_and_rates: tuple[jax.Array, jax.Array]) -> Any:
      key, rates = key_and_rates
      return run.make_train_step(lambda step: rates[step])(state, batch, key)

    self._restart = batches.make_restart(
      run.settings, run.data.train, run.plan.multiplicity, train_step, total_steps=max_steps
    )

  def train(self, seed: int, learning_rates: np.ndarray, is_over: Any) -> np.ndarray:
    """See `trials.Train`."""
    run = self.run
    table = np.full(self._max_steps, learning_rates[-1], np.float32)
    table[: len(learning_rates)] = learning_rates
    state, _ = network.first_state(run.network, network.parameters_key(seed), run.initial_params)
    advance = self._restart(
      (network.steps_key(seed), table),
      multiplicity=dataclasses.replace(run.plan.multiplicity, seed=seed),
      start_step=0,
    )
    return trials.collect_losses(advance, state, steps=len(learning_rates), is_over=is_over)


def _checker(trainer: Trainer, ramp: trials.Ramp, steps: int) -> Callable[[float], trials.Check]:
  """Returns a function that checks a peak learning rate with the seed of `ramp`."""
  run, best_loss = trainer.run, ramp.best[1]

  def check(peak: float) -> trials.Check:
    nonlocal best_loss
    result = trials.make_check(
      trainer.train,
      ramp,
      peak,
      peak_schedule(run, peak, steps),
      num_classes=len(run.data.train.class_names),
      best_loss=best_loss,
    )
    best_loss = min(best_loss, result.last_loss)
    text = result.problem or f'stable, loss {result.last_loss:.3g} after {result.steps} steps'
    logging.info('seed %d, learning rate %.4g: %s', ramp.seed, peak, text)
    return result

  return check


def peak_schedule(run: Run, peak: float, steps: int) -> np.ndarray:
  """Returns the learning rates of the first steps with another peak, float64 `[steps]`.

  A warm-up of more than half of the steps is shortened to half of them.
  """
  schedule = run.settings.make_schedule(
    run.plan.total_steps, peak=peak, warmup_steps=min(run.settings.warmup_steps, steps // 2)
  )
  return np.asarray(jax.vmap(schedule)(jnp.arange(steps)), np.float64)


def _facts(run: Run, *, ramp_steps: int, check_steps: int) -> dict[str, Any]:
  """Returns the plan of the run and the settings of the search."""
  settings, plan = run.settings, run.plan
  multiplicity = plan.multiplicity
  return {
    'model': settings.model_name,
    'dataset': settings.dataset.name,
    'image_size': run.data.image_shape[0],
    'augmult': multiplicity.augmult,
    'batch_size': multiplicity.batch_size,
    'unique_images_per_batch': multiplicity.unique_images_per_batch,
    'is_batch_size_fixed': settings.is_batch_size_fixed,
    'learning_rate': plan.learning_rate,
    'warmup_steps': settings.warmup_steps,
    'warmup_steps_of_checks': min(settings.warmup_steps, check_steps // 2),
    'ramp_steps': ramp_steps,
    'check_steps': check_steps,
    'config': configs.flatten(run.config),
    'versions': records.versions(),
  }


def _describe_ramp(ramp: trials.Ramp) -> str:
  rate, loss = ramp.best
  lowest = f'lowest loss {loss:.3g} at learning rate {rate:.3g}'
  if ramp.breakdown is None:
    return f'no breakdown up to learning rate {ramp.learning_rates[-1]:.3g}, {lowest}'
  return f'the ramp breaks down at learning rate {ramp.breakdown:.3g}, {lowest}'
