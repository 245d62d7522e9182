"""Writes the averaged parameters of a run for use elsewhere.

    python -m nfnets_augmult.export --workdir=runs/my_nfnet --output=f0.npz
    python -m nfnets_augmult.export --workdir=runs/my_nfnet --output=f0.safetensors

A `.npz` holds plain arrays named `module/parameter`, and `--config.init_from` reads it. A
`.safetensors` holds an NFNet under timm's names, for
`timm.create_model('dm_nfnet_f0', checkpoint_path=...)`. `--params=FILE` instead of `--workdir`
converts a parameter file, such as a released one.
"""

import os

from nfnets_augmult import front_door  # first: it quietens libraries before they are imported

# isort: split
from absl import flags

from nfnets_augmult.training.checkpoints import CheckpointError, Checkpoints
from nfnets_augmult.weights import param_files, timm_export

_WRITERS = {'.npz': param_files.write_npz, '.safetensors': timm_export.export_to_timm}


def export(output: str, *, workdir: str = '', params: str = '') -> int:
  """Writes a parameter file and returns how many numbers it holds.

  Args:
    output: the file to write, `.npz` or `.safetensors`.
    workdir: of a run, whose newest checkpoint is read; or
    params: a parameter file to convert.

  Raises:
    ValueError: not exactly one input, an unknown suffix, or parameters that cannot be written so.
    CheckpointError: the run has no checkpoint.
  """
  suffix = os.path.splitext(output)[1]
  if suffix not in _WRITERS:
    raise ValueError(f'--output={output!r} must end in {" or ".join(_WRITERS)}')
  if bool(workdir) == bool(params):
    raise ValueError('say what to export: --workdir=DIR of a run, or --params=FILE')
  if workdir and not os.path.isdir(workdir):
    raise ValueError(f'--workdir={workdir!r} is not a directory')
  if workdir:
    with Checkpoints(workdir, read_only=True) as checkpoints:
      values = checkpoints.read_averaged_params()
  else:
    values = param_files.read_params(params)
  _WRITERS[suffix](output, values)
  return sum(leaf.size for leaf in param_files.flatten(values).values())


def main() -> None:
  """Reads the flags, exports, says so."""
  args = flags.FLAGS
  front_door.check_devices()
  try:
    count = export(args.output, workdir=args.workdir, params=args.params)
  except (ValueError, CheckpointError, OSError) as error:
    front_door.fail(str(error))
  print(f'wrote {count:,} parameters to {args.output}')


if __name__ == '__main__':
  front_door.define_path('workdir', '', 'Directory of a run.')
  front_door.define_path('params', '', 'Parameter file to convert, instead of --workdir.')
  front_door.define_path('output', None, 'File to write: .npz or .safetensors.', required=True)
  front_door.run(main)
