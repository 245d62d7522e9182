"""Writing the averaged parameters of a run, or those of a file, for use elsewhere.

Alone, or with the network as a program.
"""

import os
from collections.abc import Mapping
from typing import Any

from nfnets_augmult.ops import files
from nfnets_augmult.runs import programs
from nfnets_augmult.training import records
from nfnets_augmult.training.checkpoints import Checkpoints
from nfnets_augmult.weights import param_files, timm_export

_Params = Mapping[str, Mapping[str, Any]]

# By format, which the suffix of a file says; a SavedModel is a folder, without one.
_SAVED_MODEL = 'saved_model'
_WRITERS = {
  'npz': param_files.write_npz,
  'safetensors': timm_export.export_to_timm,
  'stablehlo': programs.write_stablehlo,
  'onnx': programs.write_onnx,
  _SAVED_MODEL: programs.write_saved_model,
}
FORMATS = tuple(_WRITERS)

# Keys of a config that name places on the machine of the run.
_PATHS = ('dataset.data_dir', 'init_from')


def export(output: str, *, workdir: str = '', params: str = '', format: str = '') -> int:
  """Writes a file, or the folder of a SavedModel, atomically; returns the number of parameters.

  Args:
    output: the file to write, `.npz`, `.safetensors`, `.stablehlo` or `.onnx`; or a new folder.
    workdir: of a run, whose newest checkpoint is read; or
    params: path of a parameter file to convert.
    format: one of `FORMATS`; '' for that of the suffix.

  Raises:
    ValueError: not exactly one input, an output that cannot be written, or parameters that cannot
      be read, or written in this format.
    CheckpointError: the run has no checkpoint.
  """
  format = _check_output(output, format)
  if bool(workdir) == bool(params):
    raise ValueError('say what to export: --workdir=DIR of a run, or --params=FILE')
  if workdir and not files.is_dir(workdir):
    raise ValueError(f'--workdir={workdir!r} is not a directory')
  if output == params or (
    os.path.exists(output) and os.path.exists(params) and os.path.samefile(output, params)
  ):
    raise ValueError(f'--output={output!r} is the file of --params itself; give another name')
  if workdir:
    values, metadata = _read_run(workdir)
  else:
    values = param_files.read_params(params)
    metadata = {
      key: value
      for key, value in param_files.read_metadata(params).items()
      if key not in (*timm_export.METADATA_KEYS, programs.METADATA_KEY)
    }
  try:
    _WRITERS[format](output, values, metadata)
  except OSError as error:
    raise ValueError(f'--output={output!r} cannot be written: {error.strerror}') from error
  except ValueError as error:
    raise ValueError(f'{workdir or params} cannot be written as {format}: {error}') from error
  return sum(leaf.size for leaf in param_files.flatten(values).values())


def _check_output(output: str, format: str) -> str:
  """Checks that it can be written, before anything is read; returns the format."""
  suffix = os.path.splitext(output)[1][1:]
  if format and format not in FORMATS:
    raise ValueError(f'--format={format} must be one of {", ".join(FORMATS)}')
  of_suffix = suffix if suffix in FORMATS else ''
  if not (format or of_suffix):
    names = ', '.join(f'.{name}' for name in FORMATS if name != _SAVED_MODEL)
    raise ValueError(
      f'--output={output!r} must end in one of {names}, or be a folder for --format={_SAVED_MODEL}'
    )
  if format not in ('', of_suffix) and (of_suffix or format != _SAVED_MODEL):
    raise ValueError(f'--output={output!r} must end in .{format} for --format={format}')
  format = format or of_suffix
  if files.is_url(output):
    if format == _SAVED_MODEL:
      raise ValueError(f'--output={output!r}: write the folder on this machine, and copy it')
    return format
  folder = os.path.dirname(output) or '.'
  if not os.path.isdir(folder):
    raise ValueError(f'--output={output!r}: there is no folder {folder!r}')
  if format == _SAVED_MODEL and os.path.exists(output):
    raise ValueError(f'--output={output!r} is there: name a new folder')
  if os.path.isdir(output):
    raise ValueError(f'--output={output!r} is a folder')
  if not os.access(folder, os.W_OK | os.X_OK):
    raise ValueError(f'--output={output!r}: the folder {folder!r} may not be written')
  return format


def _read_run(workdir: str) -> tuple[_Params, dict[str, Any]]:
  """Returns the averaged parameters of the newest checkpoint, and the metadata of the run."""
  config = records.read_object(os.path.join(workdir, 'config.json')) or {}
  data = records.read_data_description(workdir) or {}
  with Checkpoints(workdir, read_only=True) as checkpoints:
    values = checkpoints.read_averaged_params()
    class_names = list(checkpoints.read_class_names()) or data.get('class_names')
    step = checkpoints.latest_step
  metadata = {
    'class_names': class_names,
    'step': step,
    'model': config.get('model.name'),
    'model_options': {
      key: config[f'model.{key}']
      for key in ('activation', 'alpha')
      if config.get(f'model.{key}') is not None
    },
    'image_shape': data.get('image_shape'),
    'normalization': data.get('normalization'),
    'config': {key: value for key, value in config.items() if key not in _PATHS},
  }
  return values, {key: value for key, value in metadata.items() if value}
