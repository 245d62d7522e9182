"""Exports the averaged parameters of a run, alone or with the network as a program.

    python -m nfnets_augmult.export --workdir=runs/my_nfnet --output=f0.npz
    python -m nfnets_augmult.export --workdir=runs/my_nfnet --output=f0.safetensors
    python -m nfnets_augmult.export --workdir=runs/my_nfnet --output=f0.stablehlo
    python -m nfnets_augmult.export --workdir=runs/my_nfnet --output=f0 --format=saved_model
    python -m nfnets_augmult.export --workdir=runs/my_nfnet --output=f0.onnx

A `.npz` holds plain arrays named `module/parameter`. A `.safetensors` holds an NFNet-F0 to F6, or
one of the models `timm_*`, under timm's names, for the `timm.create_model(...)` that is printed,
which computes the same. `--config.init_from` reads both. Both have metadata of the run, which
`predict --params` uses: the class names in order, the model, the shape and normalization of its
images, and its config without paths, as JSON in `__metadata__` of a `.npz` and in the header of a
`.safetensors`. `--params=FILE` instead of `--workdir` converts a parameter file, such as a released
one or one of timm.

The other three also hold the network as a program that needs no Haiku, with the normalization and
the softmax; docs/serving.md says how to run them. `--params=FILE` must then say its classes and its
network, as the files that this program writes do.
"""

from nfnets_augmult import command_line  # first: it quietens libraries before they are imported

# isort: split
from absl import flags

from nfnets_augmult.runs.exporting import FORMATS, export
from nfnets_augmult.training.checkpoints import CheckpointError
from nfnets_augmult.weights import param_files


def main() -> None:
  """Parses the flags and exports."""
  args = flags.FLAGS
  command_line.check_devices()
  try:
    count = export(args.output, workdir=args.workdir, params=args.params, format=args.format or '')
    is_for_timm = args.output.endswith('.safetensors')
    metadata = param_files.read_metadata(args.output) if is_for_timm else {}
  except (ValueError, CheckpointError, OSError) as error:
    command_line.fail(str(error))
  print(f'wrote {count:,} parameters to {args.output}')
  if metadata:
    print(
      f'read them with timm.create_model({metadata["timm_model"]!r}, '
      f'num_classes={metadata["num_classes"]}, checkpoint_path={args.output!r})'
    )


if __name__ == '__main__':
  command_line.define_path('workdir', '', 'Directory of a run.')
  command_line.define_path('params', '', 'Parameter file to convert, instead of --workdir.')
  command_line.define_path(
    'output',
    None,
    'File to write, .npz, .safetensors, .stablehlo or .onnx; or a folder, for',
    required=True,
  )
  flags.DEFINE_enum('format', None, FORMATS, 'by default that of the suffix; saved_model has none.')
  command_line.run(main)
