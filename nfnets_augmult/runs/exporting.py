"""Writing the averaged parameters of a run, or those of a file, for use elsewhere."""

import os
from collections.abc import Mapping
from typing import Any

from nfnets_augmult.ops import files
from nfnets_augmult.training import records
from nfnets_augmult.training.checkpoints import Checkpoints
from nfnets_augmult.weights import param_files, timm_export

_Params = Mapping[str, Mapping[str, Any]]

_WRITERS = {'.npz': param_files.write_npz, '.safetensors': timm_export.export_to_timm}

# Keys of a config that name places on the machine of the run.
_PATHS = ('dataset.data_dir', 'init_from')


def export(output: str, *, workdir: str = '', params: str = '') -> int:
  """Writes a parameter file atomically, and returns the number of parameters.

  Args:
    output: the file to write, `.npz` or `.safetensors`.
    workdir: of a run, whose newest checkpoint is read; or
    params: path of a parameter file to convert.

  Raises:
    ValueError: not exactly one input, an output that cannot be written, or parameters that cannot
      be read, or written in this format.
    CheckpointError: the run has no checkpoint.
  """
  suffix = _check_output(output)
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
      if key not in timm_export.METADATA_KEYS
    }
  try:
    _WRITERS[suffix](output, values, metadata)
  except OSError as error:
    raise ValueError(f'--output={output!r} cannot be written: {error.strerror}') from error
  except ValueError as error:
    raise ValueError(f'{workdir or params} cannot be written as {suffix}: {error}') from error
  return sum(leaf.size for leaf in param_files.flatten(values).values())


def _check_output(output: str) -> str:
  """Checks that the file can be written, before anything is read; returns its suffix."""
  suffix = os.path.splitext(output)[1]
  if suffix not in _WRITERS:
    raise ValueError(f'--output={output!r} must end in {" or ".join(_WRITERS)}')
  if files.is_url(output):
    return suffix
  folder = os.path.dirname(output) or '.'
  if not os.path.isdir(folder):
    raise ValueError(f'--output={output!r}: there is no folder {folder!r}')
  if os.path.isdir(output):
    raise ValueError(f'--output={output!r} is a folder')
  if not os.access(folder, os.W_OK | os.X_OK):
    raise ValueError(f'--output={output!r}: the folder {folder!r} may not be written')
  return suffix


def _read_run(workdir: str) -> tuple[_Params, dict[str, Any]]:
  """Returns the averaged parameters of the newest checkpoint, and the metadata of the run."""
  config = records.read_object(os.path.join(workdir, 'config.json')) or {}
  data = records.read_data_description(workdir) or {}
  with Checkpoints(workdir, read_only=True) as checkpoints:
    values = checkpoints.read_averaged_params()
    class_names = list(checkpoints.read_class_names()) or data.get('class_names')
  metadata = {
    'class_names': class_names,
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
