"""What the host does for a copy that the device makes, and for one that it makes itself."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from nfnets_augmult.data import pipeline
from nfnets_augmult.data.canvases import CanvasInput, HostInputs
from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import devices

_ROUNDS = 5
# More steps than any measurement reaches.
_STOP_STEP = 2**31


@dataclasses.dataclass(frozen=True)
class Cost:
  """Medians over the rounds.

  Attributes:
    cpu_milliseconds: of all threads of the process, per copy.
    bytes_per_copy: that go to the devices.
    cpu_ratio: (median, least, greatest) ratio of this CPU time to that with copies made by the
      device, of measurements of the same round; None for that itself.
    bytes_ratio: likewise, of the bytes.
  """

  cpu_milliseconds: float
  bytes_per_copy: float
  cpu_ratio: tuple[float, float, float] | None
  bytes_ratio: float | None


def with_and_without_layers(run: Run) -> list[Run]:
  """Returns the run, and, if it has RandAugment, the same without."""
  runs = [run]
  if run.settings.augmentation.randaugment.layers:
    config = run.config.copy_and_resolve_references()
    config.update_from_flattened_dict({'augmentation.randaugment.layers': 0})
    runs.append(Run(config, data=run.data))
  return runs


def compare(run: Run, *, augmult: int, seconds: float = 1.0) -> dict[str, Cost]:
  """Measures both inputs in turn, several rounds of each; this host feeds one device.

  Args:
    run: its training images, batch size, augmentation and reading.
    augmult: n, in place of that of the run.
    seconds: of each measurement.

  Returns:
    Of `'device'` and of `'tf.data'`.
  """
  multiplicity = _multiplicity(run, run.settings.batch_size // augmult, augmult)
  options = {
    'augmentation': run.settings.augmentation,
    'read_options': run.settings.dataset.train_options,
  }
  made: dict[str, Callable[[], Iterator[Any]]] = {
    'device': lambda: _canvas_input(run, multiplicity).inputs(0, _STOP_STEP),
    'tf.data': lambda: pipeline.train_batches(
      run.data.train, multiplicity, start_step=0, stop_step=_STOP_STEP, **options
    ),
  }
  rounds = [{place: measure(make, seconds) for place, make in made.items()} for _ in range(_ROUNDS)]
  size, costs = multiplicity.batch_size, {}
  for place in made:
    cpu, sent = (
      statistics.median(column) for column in zip(*(r[place] for r in rounds), strict=True)
    )
    ratios = [r[place][0] / r['device'][0] for r in rounds]
    is_first = place == 'device'
    costs[place] = Cost(
      cpu_milliseconds=1e3 * cpu / size,
      bytes_per_copy=sent / size,
      cpu_ratio=None if is_first else (statistics.median(ratios), min(ratios), max(ratios)),
      bytes_ratio=None if is_first else sent / size / costs['device'].bytes_per_copy,
    )
  return costs


def cost_of_steps(
  run: Run, augmults: Sequence[int], *, unique_images_per_batch: int, seconds: float = 1.0
) -> dict[int, tuple[float, float, float]]:
  """Measures the host per step of so many unique images, copies being made by the device.

  Args:
    run: as of `compare`.
    augmults: values of n.
    unique_images_per_batch: U.
    seconds: of each measurement.

  Returns:
    For each n the CPU milliseconds per step: (median, least, greatest) over the rounds.
  """
  inputs = {n: _canvas_input(run, _multiplicity(run, unique_images_per_batch, n)) for n in augmults}
  rounds = [
    {n: measure(lambda one=one: one.inputs(0, _STOP_STEP), seconds)[0] for n, one in inputs.items()}
    for _ in range(_ROUNDS)
  ]
  columns = {n: [1e3 * measured[n] for measured in rounds] for n in augmults}
  return {n: (statistics.median(column), min(column), max(column)) for n, column in columns.items()}


def measure(make: Callable[[], Iterator[Any]], seconds: float) -> tuple[float, float]:
  """Returns CPU seconds and bytes to the devices per step, once a few steps are done.

  Args:
    make: starts the iterator, of batches or of `HostInputs`.
    seconds: to measure at least. The input works some steps ahead, so take those of many.
  """
  steps = make()
  for _ in range(4):
    next(steps)
  count = sent = 0
  sent_canvases = None
  start, cpu_start = time.perf_counter(), time.process_time()
  while not count or time.perf_counter() - start < seconds:
    step = next(steps)
    count += 1
    if isinstance(step, HostInputs):
      sent += sum(array.nbytes for array in jax.tree.leaves(step.copies))
      sent += step.canvases.nbytes if step.canvases is not sent_canvases else 0
      sent_canvases, step = step.canvases, step.fields
    sent += sum(step[key].nbytes for key in devices.DEVICE_KEYS if key in step)
  cpu = time.process_time() - cpu_start
  steps.close()
  return cpu / count, sent / count


def _multiplicity(run: Run, unique_images_per_batch: int, augmult: int) -> Multiplicity:
  return Multiplicity(run.data.train.num_images, unique_images_per_batch, augmult, seed=0)


def _canvas_input(run: Run, multiplicity: Multiplicity) -> CanvasInput:
  dataset = run.settings.dataset
  return CanvasInput(
    run.data.train,
    multiplicity,
    run.settings.augmentation,
    dataset.train_options,
    dataset.canvas,
  )
