"""Evaluating a checkpoint of a run, finished or still training."""

import os
from typing import Any

from nfnets_augmult.ops import checks, paths
from nfnets_augmult.runs import assessing
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import devices, evaluation


def evaluate(
  workdir: str,
  *,
  split: str = '',
  checkpoint: str = 'latest',
  data_dir: str = '',
  batch_size: int = 0,
  map_classes_by_name: bool = False,
  report_dir: str = '',
  parameters: str = 'averaged',
) -> dict[str, Any]:
  """Returns the metrics of the raw and the averaged parameters of a checkpoint on a split.

  Reads the work directory and writes nothing to it but a report, so the run may still be training.

  Args:
    workdir: of the run.
    split: of the run's data set; by default its test split.
    checkpoint: `'latest'`, `'best'`, or the number of a step.
    data_dir: overrides that of the run, if the data were moved.
    batch_size: over all devices, overrides the config's; results do not depend on it.
    map_classes_by_name: whether classes in another order than the run's, or a subset of them, are
      mapped by their names.
    report_dir: folder to write an assessment to, see `assessing.assess`; '' for none. That of the
      work directory, `assessing.folder_of`, is for the averaged parameters of the latest checkpoint
      on the test images of the run alone, since `run.html` shows it as such.
    parameters: those that it is of, `'averaged'` or `'last'`.

  Returns:
    For `raw` and `ema`: `cross_entropy` in nats, `top_1` and `top_5` in `[0, 1]`, `count`; and
    the `step` of the checkpoint, the `split`, and the `assessment` if one is written.

  Raises:
    ValueError: no run there, no such split, or one with other classes; or the assessment is for
      another folder.
    CheckpointError: no such checkpoint.
    OSError: the assessment cannot be written.
  """
  checks.check_choice('parameters', parameters, assessing.PARAMETERS)
  if report_dir:
    paths.check_writable('report_dir', report_dir)
  run = Run.open(workdir, data_dir=data_dir, evaluation_batch_size=batch_size)
  split = split or run.settings.dataset.test_split
  is_shown = os.path.abspath(report_dir) == os.path.abspath(assessing.folder_of(workdir))
  is_usual = (checkpoint, parameters) == ('latest', 'averaged')
  if is_shown and not (is_usual and split == run.settings.dataset.test_split):
    raise ValueError(assessing.not_of_the_run(workdir))
  run = run.with_images(run.load_split(split), map_by_name=map_classes_by_name)
  if is_shown:
    assessing.check_test_images(run)
  state = run.restore(checkpoint)
  results = evaluation.evaluate(
    devices.on_each_device(run.network.evaluation_step),
    {
      'raw': devices.replicate(state.params),
      'ema': devices.replicate(state.ema_params),
    },
    run.evaluation_batches('test'),
  )
  results |= {'step': int(state.step), 'split': run.data.test.description}
  if report_dir:
    params = state.params if parameters == 'last' else state.ema_params
    results['assessment'] = assessing.assess(
      run, params, report_dir, step=int(state.step), parameters=parameters
    )
  return results
