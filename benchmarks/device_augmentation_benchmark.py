"""What it takes a device to make the copies of a batch, by itself and beside a training step."""

import dataclasses
import io
import statistics
import time
from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image

from benchmarks.step_benchmark import program_memory
from nfnets_augmult.data.augmentation import Augmentation
from nfnets_augmult.data.canvases import CanvasInput
from nfnets_augmult.data.device_copies import COPIES_AT_A_TIME
from nfnets_augmult.data.mixing import Mixing
from nfnets_augmult.data.multiplicity import Multiplicity
from nfnets_augmult.data.randaugment import RandAugment
from nfnets_augmult.runs.run import Run

_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Stage:
  """Making the copies of a batch on one device up to some part of the augmentation.

  Attributes:
    seconds: median.
    flops: operations per copy, as XLA counts them.
    bytes_accessed: of memory, per copy, likewise.
    temporary_bytes: of memory beside arguments and result.
  """

  seconds: float
  flops: float
  bytes_accessed: float
  temporary_bytes: int


class NoisePhotographs:
  """An `EncodedSource` of JPEGs of noise, of one size, without files."""

  class_names = ('a', 'b')

  def __init__(self, num_images: int, size: tuple[int, int]):
    """Makes one image, `num_images` times; `size` is height and width."""
    self.num_images = num_images
    self.description = f'noise of {size[0]} x {size[1]} pixels'
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, format='JPEG')
    self._encoded = file.getvalue()

  @property
  def listing(self) -> Sequence[str]:
    """Numbers."""
    return tuple(map(str, range(self.num_images)))

  def read(self, index: int) -> tuple[bytes, int]:
    """Returns the image, and a label."""
    return self._encoded, index % 2

  def image_id(self, index: int) -> str:
    """Returns the number."""
    return str(index)

  def image_name(self, index: int) -> str:
    """Returns the number."""
    return str(index)


def measure(run: Run) -> dict[str, Stage]:
  """Measures copies with more and more of the augmentation of a run.

  Args:
    run: its batch size, on one device, n, augmentation, image size and canvas. Its images are not
      used: noise that fills the canvases takes their place.

  Returns:
    Of `'crop'`, `'and mixing'` and `'and RandAugment'`, as far as the run has them. Each has all
    before it, so that the cost of a part is a difference.
  """
  full = run.settings.augmentation
  stages = {'crop': dataclasses.replace(full, mixing=Mixing(), randaugment=RandAugment())}
  if full.mixing.is_on:
    stages['and mixing'] = dataclasses.replace(full, randaugment=RandAugment())
  if full.randaugment.layers:
    stages['and RandAugment'] = full
  return {name: _measure_stage(run, augmentation) for name, augmentation in stages.items()}


def _measure_stage(run: Run, augmentation: Augmentation) -> Stage:
  augmult = run.settings.augmult
  unique = run.settings.batch_size // augmult
  inputs = _inputs(run, augmentation, unique, augmult)
  compiled, arguments = _compile(inputs)
  seconds = []
  for _ in range(1 + _ROUNDS):
    start = time.perf_counter()
    jax.block_until_ready(compiled(*arguments))
    seconds.append(time.perf_counter() - start)
  flops, accessed = _counted_per_copy(run, augmentation)
  return Stage(
    seconds=statistics.median(seconds[1:]),
    flops=flops,
    bytes_accessed=accessed,
    temporary_bytes=program_memory(compiled)['temporary_bytes'],
  )


def _counted_per_copy(run: Run, augmentation: Augmentation) -> np.ndarray:
  """Operations and bytes per copy.

  XLA counts the body of a loop once. So as many copies are counted as are made at a time, of one
  layer, and the difference to none is taken for every layer.
  """

  def count(layers: int) -> np.ndarray:
    options = dataclasses.replace(augmentation.randaugment, layers=layers)
    changed = dataclasses.replace(augmentation, randaugment=options)
    compiled, _ = _compile(_inputs(run, changed, COPIES_AT_A_TIME // 2, 2))
    counted = compiled.cost_analysis()
    return np.array([counted[key] for key in ('flops', 'bytes accessed')]) / COPIES_AT_A_TIME

  none, layers = count(0), augmentation.randaugment.layers
  return none + layers * (count(1) - none) if layers else none


def _inputs(run: Run, augmentation: Augmentation, unique: int, augmult: int) -> CanvasInput:
  dataset = run.settings.dataset
  source = NoisePhotographs(2 * unique, dataset.canvas)
  options = dataclasses.replace(dataset.train_options, image_size=run.data.image_shape[0])
  multiplicity = Multiplicity(2 * unique, unique, augmult, seed=0)
  return CanvasInput(source, multiplicity, augmentation, options, dataset.canvas)


def _compile(inputs: CanvasInput) -> tuple[jax.stages.Compiled, tuple]:
  """The program of one device, and its arguments there."""
  (step,) = inputs.inputs(0, 1)
  copies = jax.tree.map(lambda array: array[0], step.copies)
  arguments = jax.device_put((step.canvases[0], copies), jax.local_devices()[0])
  return jax.jit(inputs.make_images).lower(*arguments).compile(), arguments
