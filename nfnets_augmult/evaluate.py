"""Evaluates a checkpoint of a run, finished or going on, on any split of its data set.

python -m nfnets_augmult.evaluate --workdir=runs/quickstart_digits
    [--split=test] [--checkpoint=latest] [--data_dir=DIR] [--output=FILE.json]
"""

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
import jax
from absl import flags, logging

from nfnets_augmult import assembly
from nfnets_augmult.training import devices, evaluation, records
from nfnets_augmult.training.checkpoints import CheckpointError, Checkpoints


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
  config = assembly.read_config(workdir)
  if config is None:
    raise ValueError(f'workdir={workdir!r} holds no run: there is no config.json')
  config.dataset.data_dir = data_dir or config.dataset.data_dir
  config.evaluation.batch_size = batch_size or config.evaluation.batch_size
  assembly.check(config)
  if assembly.needs_tensorflow(config):
    command_line.import_tensorflow_quietly()
  then = records.read_data_description(workdir)
  # What the run remembers of its training images is all that is needed of them.
  data = None if then else assembly.load_data(config)
  source = assembly.load_split(config, split or config.dataset.test_split)
  assembly.log_notes(source)
  with Checkpoints(workdir, read_only=True) as checkpoints:
    if then:
      class_names = checkpoints.read_class_names() or then['class_names']
      source = assembly.match_classes(source, class_names, map_by_name=map_classes_by_name)
      data = assembly.as_trained(source, then)
    else:
      logging.warning('the names of the classes of this run are not known, and are not compared')
    network = assembly.make_network(config, data)
    state = checkpoints.restore(jax.eval_shape(network.initial_state), which=checkpoint)
  results = evaluation.evaluate(
    devices.on_each_device(network.evaluation_step),
    {
      'raw': devices.replicate(state.params),
      'ema': devices.replicate(state.ema_params),
    },
    assembly.evaluation_batches(config, source),
  )
  return {**results, 'step': int(state.step), 'split': source.description}


def main() -> None:
  """Reads the flags, evaluates, prints."""
  args = flags.FLAGS
  command_line.check_devices()
  try:
    results = evaluate(
      args.workdir,
      split=args.split,
      checkpoint=args.checkpoint,
      data_dir=args.data_dir,
      batch_size=args.batch_size,
      map_classes_by_name=args.map_classes_by_name,
    )
  except (ValueError, CheckpointError) as error:
    command_line.fail(str(error))
  print(f'{args.workdir}, step {results["step"]:,}, {results["split"]}:')
  for name, label in (('raw', 'last parameters'), ('ema', 'averaged parameters')):
    means = results[name]
    print(
      f'  {label:19}  top-1 {100 * means["top_1"]:.2f} %  top-5 {100 * means["top_5"]:.2f} %  '
      f'cross entropy {means["cross_entropy"]:.4f}  ({means["count"]:,.0f} images)'
    )
  if args.output:
    try:
      records.write_json(args.output, results)
    except OSError as error:
      command_line.fail(f'--output={args.output!r} cannot be written: {error}')


if __name__ == '__main__':
  command_line.define_path('workdir', None, 'Directory of the run.', required=True)
  flags.DEFINE_string('split', '', 'Split of its data set; default: the test split of its config.')
  flags.DEFINE_string('checkpoint', 'latest', "'latest', 'best', or the number of a step.")
  command_line.define_path('data_dir', '', 'Where the data lie, if they were moved.')
  flags.DEFINE_integer('batch_size', 0, 'Images per batch; 0: as in the config.', 0)
  flags.DEFINE_boolean(
    'map_classes_by_name', False, 'Find classes by name, if their order or number is another.'
  )
  command_line.define_path('output', '', 'JSON file for the results.')
  command_line.run(main)
