"""A network with the parameters of a run, or of a file, to be used elsewhere than in training."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections

from nfnets_augmult import configs
from nfnets_augmult.runs import images as images_lib
from nfnets_augmult.runs.predictor import Predictor
from nfnets_augmult.runs.preprocessing import Preprocessing
from nfnets_augmult.runs.run import Run
from nfnets_augmult.weights import pretrained


class Trained(NamedTuple):
  """A network that is not trained any further.

  Attributes:
    run: with data of no images.
    params: of its network.
  """

  run: Run
  params: Any

  @property
  def class_names(self) -> tuple[str, ...]:
    """In the order of the labels."""
    return self.run.data.train.class_names

  @property
  def preprocessing(self) -> Preprocessing:
    """Of images, as in the evaluation of the run."""
    data, dataset = self.run.data, self.run.settings.dataset
    is_of_arrays = images_lib.is_of_arrays(data.normalization)
    size = dataset.test_options.image_size
    return Preprocessing(
      image_shape=data.image_shape if is_of_arrays else (size, size, 3),
      is_of_arrays=is_of_arrays,
      options=dataset.test_options,
      crop=dataset.evaluation_crop,
      augmentation=self.run.settings.augmentation,
      train_shape=data.image_shape,
    )

  @property
  def facts(self) -> dict[str, Any]:
    """What the probabilities follow from besides parameters and preprocessing, as JSON values."""
    return {
      'compute_dtype': self.run.settings.compute_dtype,
      'normalization': [list(values) for values in self.run.data.normalization],
    }

  def probabilities(self, params: Any, images: jax.Array) -> jax.Array:
    """Returns float32 `[B, K]` for images uint8 `[B, H, W, C]`; normalization is part of it."""
    logits = self.run.network.classifier(params, None, images, is_training=False)
    return jax.nn.softmax(logits)

  def predictor(self, description: str, batch_size: int) -> Predictor:
    """Returns what predicts with the network; the arguments are those of `Predictor`."""
    return Predictor(
      self.probabilities,
      self.params,
      class_names=self.class_names,
      preprocessing=self.preprocessing,
      facts=self.facts,
      description=description,
      batch_size=batch_size,
    )


def from_values(
  values: Mapping[str, Mapping[str, Any]],
  said: Mapping[str, Any],
  *,
  path: str,
  config: ml_collections.ConfigDict | None = None,
  class_names: Sequence[str] = (),
) -> Trained:
  """Returns the network that parameters are of.

  Args:
    values: of the parameters.
    said: the metadata of their file, see `exporting.export`.
    path: of their file or run, for messages.
    config: of the run that they are of, if the metadata do not say it.
    class_names: in the order of the labels, likewise.

  Raises:
    ValueError: what is needed is not known, or the parameters are of another network.
  """
  if config is None:
    if 'config' not in said:
      raise ValueError(
        f'{path} does not say which network it is of and how images are read: give '
        'config=CONFIG, that of its training'
      )
    try:
      config = configs.from_flat(said['config'])
      configs.check_keys(config)
    except ValueError as error:
      raise ValueError(f'{path} holds a config that cannot be used: {error}') from error
  class_names = class_names or said.get('class_names', ())
  if not class_names:
    raise ValueError(
      f'{path} does not say the names of its classes: give class_names=NAMES in the order of the '
      'labels (on the command line, a file with one per line)'
    )
  run = Run(config)
  if 'normalization' not in said:
    if not run.settings.dataset.train_options.image_size:
      raise ValueError(
        f'{path} does not say the size and the statistics of the images that it was trained with: '
        'export it again from its run, or predict with workdir=DIR'
      )
    said = {**said, **images_lib.recorded_of_encoded(run.settings.dataset.train_options.image_size)}
  run.data = images_lib.data_without_images(class_names, said)
  shapes = run.network.abstract_state.params
  try:
    params, report = pretrained.load_pretrained(shapes, values)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
  if report.kept_fresh:
    raise ValueError(
      f'{path} is not of a network for {len(class_names):,} classes: the names of its classes '
      'are needed, all of them'
    )
  return Trained(run, params)
