"""Assessing the network of a run on a split; `assessment/` says what that is."""

import collections
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nfnets_augmult.assessment.calibration import scaling_helps
from nfnets_augmult.data import identity
from nfnets_augmult.data.array_batches import Batch
from nfnets_augmult.runs.run import Run
from nfnets_augmult.training import devices, losses, records

PARAMETERS = ('averaged', 'last')


def folder_of(workdir: str) -> str:
  """Returns the folder of the assessment in the work directory of a run."""
  return os.path.join(workdir, 'evaluation')


def read(workdir: str) -> dict[str, Any] | None:
  """Returns the assessment in the work directory of a run; None if there is none.

  Raises:
    DamagedError: it cannot be read.
  """
  return records.read_object(os.path.join(folder_of(workdir), 'assessment.json'))


def not_of_the_run(workdir: str) -> str:
  """Returns the message for what does not belong into `folder_of(workdir)`."""
  return (
    f'{folder_of(workdir)}, which run.html shows, is for the averaged parameters of the last '
    'checkpoint on the test images of the run: for others say --report_dir=DIR'
  )


def check_test_images(run: Run) -> None:
  """Raises ValueError if the images to evaluate are not the test images that the run recorded."""
  recorded = run.recorded_data
  if recorded and identity.describe_split(run.data.test) != recorded['test']:
    raise ValueError(
      f'these images are not the test images of the run. {not_of_the_run(run.workdir)}'
    )


def of_finished_run(
  run: Run, params: Any = None, *, step: int, check_stop: Callable[[], None] = lambda: None
) -> dict[str, Any]:
  """Returns the assessment of a finished run on its test images, in its work directory.

  It is made if it is not there, or is that of another step.

  Args:
    run: with its work directory.
    params: its averaged parameters, if they are at hand; then the run has its images, too.
    step: its last.
    check_stop: see `assess`.

  Raises:
    ValueError: the images, or an assessment that is there, cannot be read, or the images are not
      those of the run.
    CheckpointError: the checkpoint cannot be read.
    OSError: the assessment cannot be written.
  """
  found = read(run.workdir)
  if found is not None and found.get('step') == step:
    return found
  if params is None:
    run = run.with_images(run.load_split(run.settings.dataset.test_split))
    check_test_images(run)
    params = run.restore().ema_params
  return assess(run, params, folder_of(run.workdir), step=step, check_stop=check_stop)


def assess(
  run: Run,
  params: Any,
  folder: str,
  *,
  step: int,
  parameters: str = 'averaged',
  check_stop: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
  """Assesses parameters on the test images of the run, and writes the assessment.

  For a single process: of several each would have its own part of the images.

  Args:
    run: with the images to evaluate as test images, see `Run.with_images`.
    params: of its network.
    folder: to write to.
    step: of the parameters.
    parameters: which ones they are, of `PARAMETERS`.
    check_stop: called between batches; may raise to stop.

  Returns:
    The values of `assessment.json`, see `statistics.assess`.

  Raises:
    ValueError: the network is for another number of classes than the images have.
    BadDataError: an image does not decode, and the policy is to fail.
    OSError: something cannot be written.
  """
  from nfnets_augmult.assessment import outputs as outputs_lib
  from nfnets_augmult.assessment import statistics, writing

  source, num_classes = run.data.test, len(run.data.train.class_names)
  if len(source.class_names) != num_classes:
    raise ValueError(
      f'{source.description} has {len(source.class_names):,} classes, and the network is for '
      f'{num_classes:,}'
    )
  outputs = outputs_lib.collect(
    _outputs(run, params, check_stop), num_images=source.num_images, num_classes=num_classes
  )
  image_names = [source.image_id(index) for index in outputs.image_index.tolist()]
  assessment = statistics.assess(
    outputs,
    class_names=source.class_names,
    image_names=image_names,
    split=source.description,
    step=step,
    parameters=parameters,
    num_skipped=source.num_images - len(image_names),
  )
  writing.write(folder, assessment, outputs, image_names)
  return assessment


def _outputs(run: Run, params: Any, check_stop: Callable[[], None]) -> Iterator[Batch]:
  """Yields the batches of `outputs.collect`."""
  params = devices.replicate(params)
  compute = devices.on_each_device(_make_output_step(run.network.classifier))
  in_flight = collections.deque()

  def finish(batch: Batch, computed: dict[str, jax.Array]) -> Batch:
    arrays = {key: np.asarray(values) for key, values in computed.items()}  # [D, B / D, ...]
    arrays = {key: array.reshape(-1, *array.shape[2:]) for key, array in arrays.items()}
    is_used = batch['mask'] > 0
    return {key: array[is_used] for key, array in {**batch, **arrays}.items()}

  for batch in run.evaluation_batches('test'):
    check_stop()
    in_flight.append((batch, compute(params, devices.place_batch(batch))))
    if len(in_flight) > devices.max_steps_in_flight():
      yield finish(*in_flight.popleft())
  while in_flight:
    yield finish(*in_flight.popleft())


def _make_output_step(classifier: Callable[..., jax.Array]) -> Callable[..., dict[str, jax.Array]]:
  """Returns the function from params and a batch to what is kept of each image, on one device."""

  def output_step(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
    logits, label = classifier(params, None, batch['image'], is_training=False), batch['label']
    # Right or wrong as in the evaluation step: of equal values, or without numbers, another class.
    others = jnp.where(jax.nn.one_hot(label, logits.shape[-1], dtype=bool), -jnp.inf, logits)
    is_correct = losses.in_top_k(logits, label, 1)
    return {
      'log_probabilities': jax.nn.log_softmax(logits),
      'predicted': jnp.where(is_correct, label, jnp.argmax(others, axis=-1)),
      'in_top_5': losses.in_top_k(logits, label, 5),
    }

  return output_step


def text(assessment: dict[str, Any], folder: str) -> str:
  """Returns lines for people: the top confusions, the calibration error, and where the rest is."""
  confusions = [one['text'] for one in assessment['top_confusions'][:3]] or ['none']
  found = assessment['calibration']
  error, scaled = found['expected_calibration_error'], found['scaled']
  calibration = 'without numbers' if error is None else f'{100 * error:.2f} %'
  if (chance := found.get('error_by_chance')) is not None:
    calibration += f' (by chance of {assessment["images"]:,} images: {100 * chance:.2f} %)'
  if scaled:
    calibration += (
      f', {100 * scaled["expected_calibration_error"]:.2f} % after scaling by temperature '
      f'{found["temperature"]:.3g}'
    )
    if not scaling_helps(assessment):
      calibration += ', which raises the cross entropy: do without'
  lines = (
    f'  top confusions: {confusions[0]}',
    *(f'                  {confusion}' for confusion in confusions[1:]),
    f'  calibration error: {calibration}',
    f'  by class and by image ({assessment["parameters"]} parameters): {folder}',
  )
  return '\n'.join(lines)
