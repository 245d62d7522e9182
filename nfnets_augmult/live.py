"""Training and sweeps in a notebook: the picture below the cell is redrawn as they go on.

    from experiments import quickstart_digits
    from nfnets_augmult import live
    result = live.train(quickstart_digits.get_config(), 'runs/quickstart_digits')

Needs IPython, which notebooks have.
"""

import io
import time
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
from IPython import display
from matplotlib.figure import Figure

from nfnets_augmult.report import recorded_runs
from nfnets_augmult.report.recorded_runs import RecordedRun
from nfnets_augmult.runs import pictures, training, workdirs
from nfnets_augmult.runs.run import Run
from nfnets_augmult.sweep import running
from nfnets_augmult.sweep.grid import Sweep
from nfnets_augmult.training import records

# Drawing takes a few tenths of a second, in which nothing trains on a CPU.
_SECONDS_BETWEEN_PICTURES = 5.0
_DPI = 80


class _Picture:
  """A figure in the output of a cell, and texts below it; later ones take their place."""

  def __init__(self):
    """Shows nothing yet."""
    self._handles: list[display.DisplayHandle] = []
    self._drawn_at = time.monotonic()

  def is_due(self) -> bool:
    """Whether the last figure was shown long enough ago to draw another one."""
    return time.monotonic() - self._drawn_at >= _SECONDS_BETWEEN_PICTURES

  def show(self, figure: Figure, *texts: str) -> None:
    """Shows a figure and texts, always as many, in place of those before them."""
    file = io.BytesIO()
    figure.savefig(file, format='png', dpi=_DPI)
    contents = [display.Image(data=file.getvalue(), format='png'), *map(display.Markdown, texts)]
    is_first = not self._handles
    self._handles = self._handles or [display.DisplayHandle() for _ in contents]
    for handle, content in zip(self._handles, contents, strict=True):
      (handle.display if is_first else handle.update)(content)
    self._drawn_at = time.monotonic()


def train(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
  """Trains a run, or goes on with it, and shows its curves meanwhile and at the end.

  Args:
    config: of one run.
    workdir: of the run. If it holds the finished run, its curves are shown.

  Returns:
    The contents of `result.json`: step, epoch and the last evaluation.

  Raises:
    ValueError: the config is not valid, or the folder holds another run.
    DivergedError: the loss is no longer a finite number; the curves show up to where.
  """
  result = workdirs.finished_result(config, workdir)
  run = Run(config, workdir).prepare()
  picture = _Picture()

  def show_if_due() -> bool:
    if picture.is_due():
      picture.show(pictures.curves_of(run))
    return False

  try:
    return result or _train(run, show_if_due)
  finally:
    picture.show(pictures.curves_of(run))


def _train(run: Run, between_steps: Callable[[], bool]) -> dict[str, Any]:
  with records.lock_workdir(run.workdir) as is_ours:
    if not is_ours:
      raise ValueError(f'workdir={run.workdir!r}: another process is training there')
    return training.train([run], stop_requested=between_steps).results[0]


def run_sweep(
  sweep: Sweep,
  workdir: str,
  draw: Callable[[Sequence[RecordedRun]], Figure],
  *,
  together: bool = False,
) -> list[RecordedRun]:
  """Runs a sweep, or goes on with it, and shows a figure of its runs meanwhile and at the end.

  Args:
    sweep: of `grid.Sweep`.
    workdir: of the sweep.
    draw: from the runs so far, of which those to come have no result, to a figure; see
      `report.figures`.
    together: whether seeds and learning rates of one shape train in one program.

  Returns:
    The runs with their results.

  Raises:
    ValueError: a config is not valid, or the folder holds something else.
    RuntimeError: runs failed, after all others are done; those that diverge do not.
  """
  picture = _Picture()

  def show(text: str) -> None:
    picture.show(draw(recorded_runs.read_runs(workdir)), text)

  todo = running.prepare(sweep, workdir, together=together)
  tally = running.run_sweep(sweep, todo, workdir, report=show)
  show(f'{len(sweep.points)} runs: {tally.line()}')
  runs = recorded_runs.read_runs(workdir)
  if failed := [run for run in runs if run.status == 'failed']:
    raise RuntimeError(f'{len(failed)} runs failed; {failed[0].path}: {failed[0].message}')
  return runs
