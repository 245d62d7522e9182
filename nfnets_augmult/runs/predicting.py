"""Predicting the classes of images with the network of a run, or with a file."""

from collections.abc import Sequence

import ml_collections

from nfnets_augmult.ops.checks import check_choice
from nfnets_augmult.runs.predictor import Predictor
from nfnets_augmult.runs.preprocessing import Preprocessing
from nfnets_augmult.weights import param_files, stablehlo

PARAMETERS = ('averaged', 'last')


def load_predictor(
  workdir: str = '',
  *,
  params: str = '',
  checkpoint: str = 'latest',
  parameters: str = 'averaged',
  config: ml_collections.ConfigDict | None = None,
  class_names: Sequence[str] = (),
  batch_size: int = 32,
) -> Predictor:
  """Returns what predicts the classes of images, from a run or from a file.

  Args:
    workdir: of a run, finished or still training; or
    params: path of a parameter file, or of a `.stablehlo`, whose network runs without Haiku. One
      that `export` has written says all that is needed.
    checkpoint: of the run: `'latest'`, `'best'`, or the number of a step.
    parameters: of the run: `'averaged'`, as `export` writes them, or `'last'`.
    config: of the run that a parameter file is of, if the file does not say it.
    class_names: in the order of the labels, if the file does not say them.
    batch_size: images per batch; predictions do not depend on it. A smaller number of images is
      filled up to it.

  Raises:
    ValueError: not exactly one of `workdir` and `params`, no run there, or a file that cannot be
      read, does not say what is needed or is of another network.
    CheckpointError: no such checkpoint.

  Example:
    >>> from nfnets_augmult import load_predictor
    >>> predictor = load_predictor('runs/photos')  # doctest: +SKIP
    >>> predictor(['a.jpg', 'b.png'], copies=16).top(2)  # doctest: +SKIP
    [[('cat', 0.98), ('dog', 0.01)], [('dog', 0.73), ('cat', 0.25)]]
  """
  check_choice('parameters', parameters, PARAMETERS)
  if bool(workdir) == bool(params):
    raise ValueError('say what predicts: workdir=DIR of a run, or params=FILE')
  if not params:
    if config is not None or class_names:
      raise ValueError('config= and class_names= go with params=FILE: a run has its own')
    return _of_run(workdir, checkpoint, parameters, batch_size)
  if (checkpoint, parameters) != ('latest', 'averaged'):
    raise ValueError(
      f'checkpoint={checkpoint!r} and parameters={parameters!r} are of a run, and params='
      f'{params!r} is a file, which holds one set of parameters'
    )
  if params.endswith(stablehlo.SUFFIX):
    if config is not None or class_names:
      raise ValueError(f'config= and class_names=: {params} has its own')
    return _of_program(params, batch_size)
  # Not at the top, since it imports Haiku, which a `.stablehlo` does without.
  from nfnets_augmult.runs import trained

  loaded, said = param_files.read_params(params), param_files.read_metadata(params)
  network = trained.from_values(loaded, said, path=params, config=config, class_names=class_names)
  return network.predictor(params, batch_size)


def _of_run(workdir: str, checkpoint: str, parameters: str, batch_size: int) -> Predictor:
  from nfnets_augmult.runs.run import Run
  from nfnets_augmult.runs.trained import Trained

  run = Run.open(workdir).without_images()
  state = run.restore(checkpoint)
  values = state.params if parameters == 'last' else state.ema_params
  description = f'{workdir}, step {int(state.step):,}, {parameters} parameters'
  return Trained(run, values).predictor(description, batch_size)


def _of_program(path: str, batch_size: int) -> Predictor:
  program = stablehlo.read_program(path)
  said = program.metadata['program']
  try:
    preprocessing = Preprocessing.from_description(said['preprocessing'])
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  return Predictor(
    program.call,
    program.params,
    class_names=program.class_names,
    preprocessing=preprocessing,
    facts={key: said[key] for key in ('compute_dtype', 'normalization')},
    description=path,
    batch_size=batch_size,
  )
