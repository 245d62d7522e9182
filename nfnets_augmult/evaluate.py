"""Evaluates a checkpoint of a run, finished or still training, on any split of its data set.

python -m nfnets_augmult.evaluate --workdir=runs/quickstart_digits
    [--split=test] [--checkpoint=latest] [--data_dir=DIR] [--output=FILE.json]
    [--report | --report_dir=DIR]

With --report it writes accuracy by class, the confusion matrix, calibration, and the worst and the
least sure images, which `run.html` shows as well: docs/evaluation.md.
"""

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
from absl import flags

from nfnets_augmult.runs import assessing, run_page
from nfnets_augmult.runs.evaluating import evaluate
from nfnets_augmult.training import records
from nfnets_augmult.training.checkpoints import CheckpointError


def main() -> None:
  """Parses the flags, evaluates and prints the results."""
  args = flags.FLAGS
  command_line.check_devices()
  command_line.keep_compiled_programs()
  report_dir = args.report_dir or (assessing.folder_of(args.workdir) if args.report else '')
  try:
    results = evaluate(
      args.workdir,
      split=args.split,
      checkpoint=args.checkpoint,
      data_dir=args.data_dir,
      batch_size=args.batch_size,
      map_classes_by_name=args.map_classes_by_name,
      report_dir=report_dir,
      parameters=args.parameters,
    )
    page = run_page.write_run_page(args.workdir) if report_dir and not args.report_dir else ''
  except (ValueError, CheckpointError) as error:
    command_line.fail(str(error))
  except OSError as error:
    if not report_dir:
      raise
    command_line.fail(f'the report cannot be written to {report_dir}: {error}', cause=error)
  assessment = results.pop('assessment', None)
  print(f'{args.workdir}, step {results["step"]:,}, {results["split"]}:')
  for name, label in (('raw', 'last parameters'), ('ema', 'averaged parameters')):
    means = results[name]
    print(
      f'  {label:19}  top-1 {100 * means["top_1"]:.2f} %  top-5 {100 * means["top_5"]:.2f} %  '
      f'cross entropy {means["cross_entropy"]:.4f}  ({means["count"]:,.0f} images)'
    )
  if assessment:
    print(assessing.text(assessment, report_dir))
  if page:
    print(f'  page: {page}')
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
  flags.DEFINE_boolean(
    'report', False, 'Write confusions, calibration and the worst images to WORKDIR/evaluation.'
  )
  command_line.define_path('report_dir', '', 'Write them to this folder instead.')
  flags.DEFINE_enum('parameters', 'averaged', assessing.PARAMETERS, 'Of the report, which ones.')
  command_line.run(main)
