"""Predicts the classes of image files with the network of a run, or with a parameter file.

    python -m nfnets_augmult.predict --workdir=runs/photos holiday portrait.jpg
    python -m nfnets_augmult.predict --params=photos.npz holiday --output=predictions.csv
    python -m nfnets_augmult.predict --params=photos.stablehlo portrait.jpg

Prints the most probable classes of each image, or writes them to a CSV file. After an interruption
the same command goes on. docs/predict.md has the details.
"""

import os

# Images that do not decode are reported by name, which TensorFlow's own messages do not do.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

# isort: split
from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
import signal
import sys
from typing import TextIO

from absl import flags, logging

from nfnets_augmult.data.folder_source import find_images
from nfnets_augmult.data.sources import BAD_IMAGE_POLICIES, printable
from nfnets_augmult.ops import console, files
from nfnets_augmult.ops.argument_names import renamed
from nfnets_augmult.runs import predicting
from nfnets_augmult.runs.prediction_files import PredictionFile, Row, predict_files
from nfnets_augmult.runs.predictor import Predictor
from nfnets_augmult.training import progress
from nfnets_augmult.training.checkpoints import CheckpointError

_MOST_BAD_IMAGES_SHOWN = 20
_MOST_IMAGES_ON_SHEET = 100
_FLAGS = (
  'workdir',
  'params',
  'config',
  'class_names',
  'checkpoint',
  'parameters',
  'copies',
  'output',
)


def main(arguments: list[str]) -> None:
  """Parses the flags, predicts and reports."""
  args = flags.FLAGS
  if not (args.output or args.sheet):
    console.end_when_nobody_reads()
  command_line.check_devices()
  command_line.keep_compiled_programs()
  try:
    with renamed({name: f'--{name}' for name in _FLAGS}):
      paths = _find(arguments)
      predictor = _load_predictor(num_images=len(paths))
      rows = _predict(predictor, paths)
  except (ValueError, CheckpointError) as error:
    command_line.fail(str(error))
  good = [row for row in rows if not row.error]
  if args.output:
    print(f'{args.output}: {_counted(len(rows))}, predicted with {predictor.description}')
  if args.sheet and good:
    _draw_sheet(predictor, good)
  num_bad = len(rows) - len(good)
  summary = f'{num_bad:,} of {_counted(len(rows))} cannot be read'
  if not good or (num_bad and args.on_bad_image == 'fail'):
    command_line.fail(summary)
  if num_bad:
    logging.warning('%s', summary)


def _find(arguments: list[str]) -> list[bytes]:
  """Returns the paths of all images that the arguments name."""
  if not arguments:
    raise ValueError('say which images: files or folders, besides the flags')
  for argument in arguments:
    if files.is_url(argument):
      raise ValueError(f'{argument} must be mounted or copied first')
  sheet = flags.FLAGS.sheet
  if sheet and not files.is_url(sheet) and not os.path.isdir(os.path.dirname(sheet) or '.'):
    raise ValueError(f'--sheet={sheet!r}: there is no folder {os.path.dirname(sheet)!r}')
  paths, notes = find_images([os.fsencode(argument) for argument in arguments])
  for note in notes:
    logging.warning('%s', note)
  if sheet and not files.is_url(sheet):  # an earlier one, in a folder of images
    paths = [path for path in paths if os.path.abspath(path) != os.fsencode(os.path.abspath(sheet))]
  if not paths:
    raise ValueError(f'there is no image in {", ".join(map(printable, arguments))}')
  return paths


def _load_predictor(num_images: int) -> Predictor:
  args = flags.FLAGS
  class_names = ()
  if args.class_names:
    try:
      class_names = files.read(args.class_names).decode('utf-8').splitlines()
    except ValueError as error:
      raise ValueError(f'class_names={args.class_names!r} is not a text in UTF-8') from error
  return predicting.load_predictor(
    args.workdir,
    params=args.params,
    checkpoint=args.checkpoint,
    parameters=args.parameters,
    config=args.config,
    class_names=class_names,
    batch_size=min(args.batch_size, num_images),
  )


def _predict(predictor: Predictor, paths: list[bytes]) -> list[Row]:
  """Predicts and shows what is not in the output yet; returns the rows of all images."""
  args = flags.FLAGS
  top = min(args.top, len(predictor.class_names))
  if top < args.top and flags.FLAGS['top'].present:
    logging.warning('--top=%d: there are %d classes', args.top, top)
  table, rows = None, {}
  if args.output:
    facts = predictor.facts(copies=args.copies, seed=args.seed)
    table = PredictionFile(args.output, facts=facts, description=predictor.description, top=top)
    rows = dict(table.rows)
  missing = [path for path in paths if path not in rows]
  num_done = len(paths) - len(missing)
  if num_done:
    logging.info('%s has %d of %s already', args.output, num_done, _counted(len(paths)))
  bar = progress.make_bar(total=len(paths), initial=num_done, unit='image')

  def say(line: str, file: TextIO) -> None:
    print(line, file=file) if bar is None else bar.write(line, file=file)

  def end(number: int) -> None:
    below_bar = '' if bar is None else '\n'
    console.say(
      f'{below_bar}interrupted: {args.output} has {num_done:,} of {_counted(len(paths))}; the same '
      'command goes on'
    )
    console.leave(128 + number)

  if table:
    for number in (signal.SIGINT, signal.SIGTERM):
      console.on_signal(number, end)
  options = {'top': top, 'copies': args.copies, 'seed': args.seed, 'table': table}
  num_bad = 0
  for batch in predict_files(predictor, missing, **options):
    num_done += len(batch)
    rows |= {row.path: row for row in batch}
    for row in batch:
      name = printable(os.fsdecode(row.path))
      if row.error:
        num_bad += 1
        if num_bad <= _MOST_BAD_IMAGES_SHOWN:
          say(f'{name}: {row.error}', sys.stderr)
      elif not table:
        say(f'{name}: {_percentages(row)}', sys.stdout)
    if bar is not None:
      bar.update(len(batch))
  if bar is not None:
    bar.close()
  return [rows[path] for path in paths]


def _percentages(row: Row) -> str:
  return ', '.join(f'{printable(name)} {100 * share:.1f} %' for name, share in row.top)


def _counted(count: int) -> str:
  return '1 image' if count == 1 else f'{count:,} images'


def _draw_sheet(predictor: Predictor, rows: list[Row]) -> None:
  """Draws the images, the least certain ones first."""
  from nfnets_augmult.assessment import image_sheet

  path = flags.FLAGS.sheet
  chosen = sorted(rows, key=lambda row: row.top[0][1])[:_MOST_IMAGES_ON_SHEET]
  title = f'{_counted(len(rows))}, the least certain first'
  if len(chosen) < len(rows):
    title = f'the {len(chosen)} of {_counted(len(rows))} that are least certain'
  shown = []
  for row in chosen:
    name, share = row.top[0]
    file = printable(os.fsdecode(os.path.basename(row.path)))
    lines = printable(name), f'{100 * share:.1f} %', file
    shown.append(image_sheet.Shown(predictor.shown(row.path), lines))
  sheet = image_sheet.draw_sheet(title, shown)
  try:
    files.write_whole(path, lambda file: sheet.save(file, format='png'))
  except OSError as error:
    command_line.fail(f'--sheet={path!r} cannot be written: {error.strerror}')
  print(f'{path}: {title}')


if __name__ == '__main__':
  command_line.define_path('workdir', '', 'Directory of a run; or')
  command_line.define_path('params', '', 'a parameter file, or a .stablehlo.')
  flags.DEFINE_string('checkpoint', 'latest', "'latest', 'best', or the number of a step.")
  flags.DEFINE_enum('parameters', 'averaged', predicting.PARAMETERS, 'Of the run, which ones.')
  command_line.define_config_flag(required=False)
  command_line.define_path(
    'class_names', '', 'With --params: text file, one name per line in the order of the labels.'
  )
  command_line.define_path('output', '', 'CSV file to write; without it, predictions are printed.')
  flags.DEFINE_integer('top', 5, 'How many classes, the most probable ones.', 1)
  command_line.define_path('sheet', '', 'PNG file for a sheet of the images and their classes.')
  flags.DEFINE_integer(
    'copies', 0, 'Average over so many augmented copies of each image; 0: its centre alone.', 0
  )
  flags.DEFINE_integer('seed', 0, 'Of the augmentation of the copies.', 0, 2**32 - 1)
  flags.DEFINE_integer('batch_size', 32, 'Images per batch.', 1)
  flags.DEFINE_enum(
    'on_bad_image', 'skip', BAD_IMAGE_POLICIES, "'fail': exit status 1 if some cannot be read."
  )
  command_line.run(main, takes_arguments=True)
