"""Evaluating a checkpoint of a run, finished or still training."""

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
) -> dict[str, dict[str, float]]:
  """Returns the metrics of the raw and the averaged parameters of a checkpoint on a split.

  Only reads the work directory, so the run may still be training.

  Args:
    workdir: of the run.
    split: of the run's data set; by default its test split.
    checkpoint: `'latest'`, `'best'`, or the number of a step.
    data_dir: overrides that of the run, if the data were moved.
    batch_size: over all devices, overrides the config's; results do not depend on it.
    map_classes_by_name: whether classes in another order than the run's, or a subset of them, are
      mapped by their names.

  Returns:
    For `raw` and `ema`: `cross_entropy` in nats, `top_1` and `top_5` in `[0, 1]`, `count`; and
    the `step` of the checkpoint.

  Raises:
    ValueError: no run there, no such split, or one with other classes.
    CheckpointError: no such checkpoint.
  """
  run = Run.open(workdir, data_dir=data_dir, evaluation_batch_size=batch_size)
  source = run.load_split(split or run.settings.dataset.test_split)
  run = run.with_images(source, map_by_name=map_classes_by_name)
  state = run.restore(checkpoint)
  results = evaluation.evaluate(
    devices.on_each_device(run.network.evaluation_step),
    {
      'raw': devices.replicate(state.params),
      'ema': devices.replicate(state.ema_params),
    },
    run.evaluation_batches('test'),
  )
  return {**results, 'step': int(state.step), 'split': source.description}
