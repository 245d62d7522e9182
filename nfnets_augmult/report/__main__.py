"""Gathers runs into tables and the paper's figures; works at any time, also while they go on.

    python -m nfnets_augmult.report --workdir=runs/fig2 [--output=DIR] [--metric=NAME]

Reads every run and sweep in and below the work directory, and writes `report.md`, `summary.csv`
(a line for each setting, at its best learning rate), `runs.csv` (a line for each run),
`records.json` (the records that the report was made from), the figures, as PNG and PDF, and
`sweep.html`, a page with all of it. If the work directory holds a `records.json`, the report is
drawn again from that file; if it is that of a run, so is the page of the run, `run.html`.
"""

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
from absl import flags

from nfnets_augmult.report import writing
from nfnets_augmult.runs import run_page


def main() -> None:
  """Reads the flags and writes the report."""
  args = flags.FLAGS
  try:
    files = writing.write_report(args.workdir, args.output, args.metric)
    if run_page.holds_run(args.workdir):
      files.append(run_page.write_run_page(args.workdir))
  except ValueError as error:
    command_line.fail(str(error))
  except OSError as error:
    command_line.fail(f'cannot read {args.workdir} or write the report: {error}')
  print('\n'.join(filter(None, files)))


if __name__ == '__main__':
  command_line.define_path(
    'workdir', None, 'Directory of a sweep, of a run, or of several.', required=True
  )
  command_line.define_path('output', '', 'Where the report goes; default: WORKDIR/report.')
  flags.DEFINE_string('metric', '', 'Test accuracy that counts; default: what the sweep says.')
  command_line.run(main)
