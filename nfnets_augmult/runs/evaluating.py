"""Evaluating a checkpoint of a run, finished or going on."""

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
  """Returns the means over a split for the raw and the averaged parameters of a checkpoint.

  Reads the work directory and changes nothing in it, so the run may be going on.

  Args:
    workdir: of the run.
    split: of the run's data set; by default its test split.
    checkpoint: `'latest'`, `'best'`, or the number of a step.
    data_dir: where the data lie, if no longer where the run found them.
    batch_size: over all devices, if not the config's; results do not depend on it.
    map_classes_by_name: whether classes in another order than the run's, or only some of them, are
      found by their names.

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
