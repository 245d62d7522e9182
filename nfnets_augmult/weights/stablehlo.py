"""Files `.stablehlo`: parameters, and the program that computes probabilities from them.

Such a file is a plain `.npz` of parameters with metadata, as `param_files.write_npz` writes it. One
more array, `__program__`, uint8, is a function of parameters and images as `jax.export` serializes
it: portable StableHLO, for any batch size. No Python of this package is needed to run it.

Parameters are arguments of the program, not constants in it: of constants, XLA standardizes all
filters while it compiles, which took an NFNet-F0 2.4 times as long and 2.8 times the memory.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from nfnets_augmult.weights import checks, param_files

SUFFIX = '.stablehlo'
# Of the file: a reader refuses others.
FORMAT_VERSION = 1
# The backends of JAX; the program chooses nothing by backend, so that one is for all.
PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')
# What a file must say besides classes; `metadata['program']` has them.
_KEYS = {
  'format_version': int,
  'compute_dtype': str,
  'normalization': list,
  'preprocessing': dict,
}
# The only custom call of such a program: it checks that there is an image.
_HARMLESS_CALL = 'stablehlo.custom_call @shape_assertion('


@dataclasses.dataclass(frozen=True)
class Program:
  """A program with its parameters.

  Attributes:
    call: from parameters and images uint8 `[B, H, W, C]` to probabilities float32 `[B, K]`.
    params: a dict of dicts of arrays.
    class_names: K names, in the order of the probabilities.
    metadata: of the file, see `write_program`.
  """

  call: Callable[[Any, jax.Array], jax.Array]
  params: checks.Params
  class_names: tuple[str, ...]
  metadata: dict[str, Any]


def write_program(
  path: str | os.PathLike[str],
  function: Callable[[Any, jax.Array], jax.Array],
  params: Mapping[str, Mapping[str, Any]],
  image_shape: Sequence[int],
  metadata: Mapping[str, Any],
) -> None:
  """Writes a function and its parameters atomically.

  Args:
    path: of the file.
    function: from parameters and images uint8 `[B, H, W, C]` to probabilities float32 `[B, K]`.
    params: finite real arrays.
    image_shape: H, W and C.
    metadata: small JSON-serializable data: `class_names`, K texts, and `program`, a dict with at
      least `compute_dtype`, `normalization` and `preprocessing`. Here `format_version`, `platforms`
      and the version of `jax` are added to it.

  Raises:
    ValueError: parameters or metadata cannot be written.
  """
  params = checks.check_params(params)
  specs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
  (batch,) = export.symbolic_shape('b')
  images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.uint8)
  exported = export.export(jax.jit(function), platforms=PLATFORMS)(specs, images)
  program = {
    **metadata['program'],
    'format_version': FORMAT_VERSION,
    'platforms': list(PLATFORMS),
    'jax': jax.__version__,
  }
  param_files.write_npz(
    path, params, {**metadata, 'program': program}, program=bytes(exported.serialize())
  )


def read_program(path: str | os.PathLike[str]) -> Program:
  """Returns the program of a file, after checking that it is one for this machine.

  Sizes and checksums are checked as for any `.npz`, no Python is executed, and a program that calls
  anything but the operations of StableHLO is refused. Still it is a program: it can compute for as
  long as it likes, and XLA compiles it.

  Raises:
    ValueError: the file cannot be read, is damaged, or is for other versions or machines; the
      message is short and has the path.
  """
  params, metadata = param_files.read_params(path), param_files.read_metadata(path)
  encoded = param_files.read_program(path)
  try:
    program, class_names = _checked_metadata(metadata, encoded)
    exported = _deserialized(encoded, program)
    _check_signature(exported, params, program['preprocessing'], len(class_names))
  except ValueError as error:
    raise ValueError(f'{os.fspath(path)}: {checks.short_message(error)}') from error
  return Program(exported.call, params, class_names, metadata)


def _checked_metadata(
  metadata: Mapping[str, Any], encoded: bytes | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
  """Returns what is said of the program, and the names of the classes."""
  program, names = metadata.get('program'), metadata.get('class_names')
  if encoded is None or not isinstance(program, dict):
    raise ValueError(f'it holds no program, as the {SUFFIX} that export writes')
  if program.get('format_version') != FORMAT_VERSION:
    version = checks.show(str(program.get('format_version')))
    raise ValueError(
      f'it is of format version {version}, and this package reads {FORMAT_VERSION}: export it again'
    )
  for key, kind in _KEYS.items():
    if not isinstance(program.get(key), kind):
      raise ValueError(f'its metadata are damaged: program.{key} is not there, or of another kind')
  if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
    raise ValueError('its metadata are damaged: class_names are no list of names')
  return program, tuple(names)


def _deserialized(encoded: bytes, program: Mapping[str, Any]) -> export.Exported:
  """Returns the program; what it calls, and for which backends it is, is checked."""
  written_by = checks.show(str(program.get('jax')))
  try:
    exported = export.deserialize(bytearray(encoded))
    text = exported.mlir_module()
  except Exception as error:  # flatbuffers and MLIR raise all kinds of errors
    raise ValueError(
      f'its program is damaged, or of a version of JAX, {written_by}, that {jax.__version__} does '
      f'not read: {checks.short_message(error)}'
    ) from error
  calls = re.findall(r'.{0,20}custom_call.{0,20}', text)
  if not all(_HARMLESS_CALL in call for call in calls):
    raise ValueError('its program calls more than the operations of StableHLO, and is refused')
  platform = export.default_export_platform()
  if platform not in exported.platforms:
    raise ValueError(f'its program is for {", ".join(exported.platforms)}, and here is {platform}')
  return exported


def _check_signature(
  exported: export.Exported, params: checks.Params, preprocessing: Mapping[str, Any], classes: int
) -> None:
  """Checks that the program takes these parameters and images, and returns so many classes."""
  leaves, tree = jax.tree.flatten(((params, None), {}), is_leaf=lambda leaf: leaf is None)
  *of_params, images = exported.in_avals
  shapes = [(leaf.shape, leaf.dtype) for leaf in leaves[:-1]]
  probabilities = exported.out_avals[0]
  if (
    exported.in_tree != tree
    or [(aval.shape, aval.dtype) for aval in of_params] != shapes
    or images.dtype != np.uint8
    or list(images.shape[1:]) != preprocessing.get('image_shape')
    or len(exported.out_avals) != 1
    or probabilities.dtype != np.float32
    or probabilities.shape != (images.shape[0], classes)
    or isinstance(images.shape[0], int)
  ):
    raise ValueError('its program is for other parameters, images or classes: it is damaged')
