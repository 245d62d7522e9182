"""Writing a network as a program, with its parameters: StableHLO, TensorFlow's SavedModel, ONNX.

Each maps images uint8 `[B, H, W, C]`, cropped and scaled, to probabilities float32 `[B, K]`;
normalization and softmax are inside. B may be any. Each holds the same metadata.
"""

import contextlib
import inspect
import logging
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

import nfnets_augmult
from nfnets_augmult import models
from nfnets_augmult.data import quiet_tensorflow
from nfnets_augmult.ops import atomic_file, files
from nfnets_augmult.runs import trained
from nfnets_augmult.weights import checks, stablehlo
from nfnets_augmult.weights import metadata as metadata_lib

_Params = Mapping[str, Mapping[str, Any]]

# What is added to the metadata of parameters.
METADATA_KEY = 'program'

# Of a SavedModel: the file with the metadata, and the signature.
_ASSET, _SIGNATURE = 'metadata.json', 'serving_default'
# Protocol buffers, of which ONNX files are one, cannot be larger.
_LARGEST_ONNX = 2**31 - 2**24


def write_stablehlo(path: str, values: _Params, metadata: Mapping[str, Any]) -> None:
  """Writes a file that `stablehlo.read_program` reads; see there.

  Args:
    path: of the file.
    values: parameters.
    metadata: of them, as `exporting.export` writes them.

  Raises:
    ValueError: the metadata do not say what is needed, or the parameters are of another network.
  """
  network, metadata = _network(values, metadata)
  image_shape = network.preprocessing.image_shape
  stablehlo.write_program(path, network.probabilities, network.params, image_shape, metadata)


def write_saved_model(path: str, values: _Params, metadata: Mapping[str, Any]) -> None:
  """Writes a folder that `tf.saved_model.load` and TensorFlow Serving read, without JAX.

  The signature `serving_default` maps `images` to `probabilities`; the metadata are the asset
  `metadata.json`. The arguments are those of `write_stablehlo`; the folder must not be there.

  Raises:
    ValueError: see `write_stablehlo`.
  """
  network, metadata = _network(values, metadata)
  quiet_tensorflow.import_quietly()
  import tensorflow as tf
  from jax.experimental import jax2tf

  shape = network.preprocessing.image_shape
  function = jax2tf.convert(
    network.probabilities,
    polymorphic_shapes=[None, f'(b, {", ".join(map(str, shape))})'],
    native_serialization_platforms=stablehlo.PLATFORMS,
    with_gradient=False,
  )
  module = tf.Module()
  module.params = jax.tree.map(lambda leaf: tf.Variable(np.asarray(leaf)), network.params)
  images = tf.TensorSpec((None, *shape), tf.uint8, 'images')
  module.call = tf.function(
    lambda images: {'probabilities': function(module.params, images)},
    input_signature=[images],
    autograph=False,
  )
  with atomic_file.new_folder(path) as folder, tempfile.TemporaryDirectory() as assets:
    asset = pathlib.Path(assets) / _ASSET
    asset.write_text(metadata_lib.to_json(metadata), encoding='utf-8')
    module.metadata = tf.saved_model.Asset(str(asset))
    tf.saved_model.save(module, folder, {_SIGNATURE: module.call.get_concrete_function()})


def write_onnx(path: str, values: _Params, metadata: Mapping[str, Any]) -> None:
  """Writes a file for ONNX Runtime and others that read ONNX, in float32.

  The input is `images`, the output `probabilities`; the metadata are JSON under the key
  `nfnets_augmult` of the model's properties. The arguments are those of `write_stablehlo`.

  Raises:
    ValueError: see `write_stablehlo`; the converter is not installed or cannot convert the network;
      or it is larger than an ONNX file can be.
  """
  network, metadata = _network(values, metadata, compute_dtype='float32')
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(network.params))
  if size > _LARGEST_ONNX:
    raise ValueError(f'an ONNX file holds at most 2 GiB, and these are {size / 2**30:.1f} GiB')
  try:
    import jax2onnx
  except ImportError as error:
    raise ValueError(
      f"the converter is not installed: pip install 'nfnets_augmult[onnx]' ({error})"
    ) from error
  params = jax.tree.map(np.asarray, network.params)
  images = jax.ShapeDtypeStruct(('batch', *network.preprocessing.image_shape), np.uint8)
  try:
    with _quiet('jax2onnx', 'onnx_ir'):
      model = jax2onnx.to_onnx(
        lambda images: network.probabilities(params, images),
        [images],
        model_name=metadata.get('model', 'network'),
        input_names=['images'],
        output_names=['probabilities'],
      )
  except Exception as error:  # an operation that it does not know raises all kinds of errors
    raise ValueError(f'jax2onnx fails: {checks.short_message(error)}') from error
  model.metadata_props.add(key=nfnets_augmult.__name__, value=metadata_lib.to_json(metadata))
  files.write_whole(path, model.SerializeToString())


def _network(
  values: _Params, metadata: Mapping[str, Any], **changes: str
) -> tuple[trained.Trained, dict[str, Any]]:
  """Returns the network, and the metadata with what is said of a program.

  One algorithm of convolutions is for all backends: the native one, which compiles soonest.

  Args:
    values: parameters.
    metadata: of them.
    **changes: of the config.
  """
  if not (
    isinstance(metadata.get('config'), Mapping)
    and {'class_names', 'normalization'} <= metadata.keys()
  ):
    raise ValueError(
      'it does not say its classes, its network and how images are read: export from the '
      'directory of its run, --workdir'
    )
  config = {**metadata['config'], **changes}
  module = models.model_spec(config.get('model.name', '')).module
  if 'conv_algorithm' in inspect.signature(module).parameters:
    config['model.conv_algorithm'] = 'native'
  network = trained.from_values(values, {**metadata, 'config': config}, path='it')
  program = {
    **network.facts,
    'preprocessing': network.preprocessing.describe(),
    'num_parameters': sum(leaf.size for leaf in jax.tree.leaves(network.params)),
    nfnets_augmult.__name__: nfnets_augmult.__version__,
  }
  return network, {**metadata, METADATA_KEY: program}


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
  """Silences warnings of libraries, here of parts of the converter that are not used."""
  loggers = [logging.getLogger(name) for name in names]
  levels = [logger.level for logger in loggers]
  for logger in loggers:
    logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    for logger, level in zip(loggers, levels, strict=True):
      logger.setLevel(level)
