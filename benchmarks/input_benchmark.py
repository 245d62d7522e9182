"""How fast the input is, beside pipelines that treat every copy as a record of its own."""

import contextlib
import dataclasses
import functools
import json
import pathlib
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from benchmarks import plain_pipeline, torch_process
from nfnets_augmult.data import inception_crop, mixing, pipeline, randaugment, reading
from nfnets_augmult.data.decoding import Fetched, ImageReader
from nfnets_augmult.data.mixing_ops import mix_pair
from nfnets_augmult.data.multiplicity import MAX_AUGMULT, Multiplicity
from nfnets_augmult.data.randaugment_ops import apply_layers
from nfnets_augmult.data.resizing import resize_boxes
from nfnets_augmult.data.sources import ArraySource, EncodedSource, Source
from nfnets_augmult.ops import checks
from nfnets_augmult.ops.argument_names import renamed
from nfnets_augmult.runs.run import Run
from nfnets_augmult.runs.settings import AUGMENTATION_KEYS

_ROUNDS = 5
# More steps than any measurement reaches.
_STOP_STEP = 2**31

# Files that PyTorch reads, at most.
_MOST_FILES = 4096

Batches = Iterator[dict[str, np.ndarray]]
# From seconds to images a second and CPU seconds an image.
Measure = Callable[[float], tuple[float, float]]


def check(run: Run, augmults: Sequence[int]) -> None:
  """Raises ValueError unless batches of the run can be measured with each n of `augmults`."""
  source, batch_size = run.data.train, run.settings.batch_size
  augmentation = run.settings.augmentation
  if isinstance(source, ArraySource) and isinstance(
    augmentation.crop, inception_crop.InceptionCrop
  ):
    raise ValueError(
      f"augmentation.crop='inception': {source.description} are decoded, and the plain pipeline "
      "takes such parts of JPEGs only; use augmentation.crop='pad'"
    )
  for augmult in augmults:
    checks.check_int('augmult', augmult, least=1, most=MAX_AUGMULT)
    if batch_size % augmult:
      raise ValueError(f'augmult={augmult} does not divide batch_size={batch_size}')
    unique_images = _multiplicity(source, batch_size, augmult).unique_images_per_batch
    with renamed(AUGMENTATION_KEYS):
      augmentation.check(unique_images_per_batch=unique_images, image_shape=run.data.image_shape)


def _multiplicity(source: Source, batch_size: int, augmult: int) -> Multiplicity:
  return Multiplicity(source.num_images, batch_size // augmult, augmult, seed=0)


@dataclasses.dataclass(frozen=True)
class CopiesAsImages(EncodedSource):
  """Every image n times, as if they were n images: nothing is shared between copies."""

  source: EncodedSource
  augmult: int

  @property
  def class_names(self) -> tuple[str, ...]:
    """Those of the source."""
    return self.source.class_names

  @property
  def description(self) -> str:
    """For people."""
    return f'{self.source.description}, {self.augmult} times'

  @property
  def num_images(self) -> int:
    """N n."""
    return self.source.num_images * self.augmult

  def read(self, index: int) -> tuple[bytes, int]:
    """Returns the encoded image and the label of copy `index % n` of image `index // n`."""
    return self.source.read(index // self.augmult)

  def image_name(self, index: int) -> str:
    """Returns the name of image `index // n`."""
    return self.source.image_name(index // self.augmult)


@dataclasses.dataclass(frozen=True)
class Speed:
  """Medians over the rounds.

  Attributes:
    images_per_second: augmented images, by the clock.
    cpu_milliseconds: of all threads of the process, per augmented image. It hardly depends on what
      else the machine does.
    ratio: (median, least, greatest) ratio of this pipeline's images per second to the others', of
      measurements of the same round; None for this pipeline itself.
    cpu_ratio: median ratio of the other's CPU time to this pipeline's, likewise.
  """

  images_per_second: float
  cpu_milliseconds: float
  ratio: tuple[float, float, float] | None
  cpu_ratio: float | None


def compare(
  run: Run, *, augmult: int, seconds: float = 1.0, others: Mapping[str, Measure] | None = None
) -> dict[str, Speed]:
  """Measures this pipeline and others in turn, several rounds of each.

  Args:
    run: its training images, batch size, augmentation and reading.
    augmult: n, in place of that of the run.
    seconds: of each measurement.
    others: further ones to measure.

  Returns:
    The speed of `'ours'`; of `'plain'`, a pipeline of the usual kind (see `plain_pipeline.py`);
    for encoded images and n > 1, of `'decoding again'`, which is ours but for reading and
    decoding every copy as if it were another image; and of `others`.
  """
  pipelines = _pipelines(run, augmult) | dict(others or {})
  rounds = [{name: measure(seconds) for name, measure in pipelines.items()} for _ in range(_ROUNDS)]
  return {name: _summarize(rounds, name) for name in pipelines}


@contextlib.contextmanager
def torch_input(run: Run, *, augmult: int, python: str, workers: int) -> Iterator[Measure]:
  """Starts an input of PyTorch and timm for the same images, see `torch_input.py`; ends it after.

  Its images are at most the first 4,096, as files.

  Args:
    run: as of `compare`; of encoded images, with an `InceptionCrop`.
    augmult: n, in place of that of the run.
    python: interpreter that has PyTorch and timm; '' for that of this process.
    workers: processes of its `DataLoader`.

  Raises:
    ValueError: the images are not encoded, or cropped otherwise.
  """
  if not has_stages(run):
    raise ValueError('PyTorch is compared for encoded images with Inception crops only')
  source, augmentation = run.data.train, run.settings.augmentation
  options = {
    'image_size': run.settings.dataset.train_options.image_size,
    'batch_size': run.settings.batch_size,
    'augmult': augmult,
    **dataclasses.asdict(augmentation.crop),
    **dataclasses.asdict(augmentation.mixing),
    **dataclasses.asdict(augmentation.randaugment),
    'classes': len(source.class_names),
    'workers': workers,
  }
  with tempfile.TemporaryDirectory() as folder:
    for index in range(min(source.num_images, _MOST_FILES)):
      encoded, label = source.read(index)
      path = pathlib.Path(folder, str(label), f'{index}.jpg')
      path.parent.mkdir(exist_ok=True)
      path.write_bytes(encoded)
    process = torch_process.TorchProcess(python, 'torch_input.py', folder, json.dumps(options))

    def measure(seconds: float) -> tuple[float, float]:
      process.ask(f'measure {seconds}')
      answer = process.answer()
      return answer['images_per_second'], answer['processor_seconds']

    try:
      yield measure
    finally:
      process.end()


def _pipelines(run: Run, augmult: int) -> dict[str, Measure]:
  source, batch_size = run.data.train, run.settings.batch_size
  options = {
    'augmentation': run.settings.augmentation,
    'read_options': run.settings.dataset.train_options,
  }

  def ours(source: Source, augmult: int) -> Batches:
    return pipeline.train_batches(
      source,
      _multiplicity(source, batch_size, augmult),
      start_step=0,
      stop_step=_STOP_STEP,
      **options,
    )

  def plain() -> Batches:
    return plain_pipeline.plain_batches(source, augmult=augmult, batch_size=batch_size, **options)

  pipelines = {'ours': lambda: ours(source, augmult), 'plain': plain}
  if augmult > 1 and not isinstance(source, ArraySource):
    pipelines['decoding again'] = lambda: ours(CopiesAsImages(source, augmult), 1)
  return {name: functools.partial(measure_batches, make) for name, make in pipelines.items()}


def measure_batches(make_batches: Callable[[], Batches], seconds: float) -> tuple[float, float]:
  """Returns images a second and CPU seconds an image, once an iterator has yielded a few batches.

  Args:
    make_batches: starts the iterator.
    seconds: to measure at least. The input works a few batches ahead, so take those of many.
  """
  batches = make_batches()
  for _ in range(3):
    next(batches)
  num_images = 0
  start, cpu_start = time.perf_counter(), time.process_time()
  while (elapsed := time.perf_counter() - start) < seconds:
    num_images += len(next(batches)['image'])
  return num_images / elapsed, (time.process_time() - cpu_start) / num_images


def _summarize(rounds: Sequence[dict[str, tuple[float, float]]], name: str) -> Speed:
  speeds, cpu = zip(*(measured[name] for measured in rounds), strict=True)
  ratios = [measured['ours'][0] / measured[name][0] for measured in rounds]
  cpu_ratios = [measured[name][1] / measured['ours'][1] for measured in rounds]
  is_ours = name == 'ours'
  return Speed(
    images_per_second=statistics.median(speeds),
    cpu_milliseconds=1e3 * statistics.median(cpu),
    ratio=None if is_ours else (statistics.median(ratios), min(ratios), max(ratios)),
    cpu_ratio=None if is_ours else statistics.median(cpu_ratios),
  )


def has_stages(run: Run) -> bool:
  """Returns whether `stages` can tell the parts of the work apart."""
  is_encoded = not isinstance(run.data.train, ArraySource)
  return is_encoded and isinstance(run.settings.augmentation.crop, inception_crop.InceptionCrop)


def stages(run: Run, *, augmult: int) -> dict[str, float]:
  """Measures the parts of the work one after another, each by itself.

  Args:
    run: as of `compare`; of encoded images, with an `InceptionCrop`.
    augmult: n, in place of that of the run.

  Returns:
    For each part its CPU time in milliseconds per augmented image, so for reading and decoding a
    n-th of that of an image: `reading`, with the drawing of boxes, `decoding`, `crop and resize`,
    `mixing`, `RandAugment`, `batching`. Mixing only where it is on, and so with RandAugment.
  """
  source, augmentation = run.data.train, run.settings.augmentation
  read_options = run.settings.dataset.train_options
  size = read_options.image_size
  numbers = _multiplicity(source, run.settings.batch_size, augmult)
  slots = numbers.slots(0)
  unique = slots.image_index[::augmult]
  reader = ImageReader(source, read_options)
  draws = inception_crop.draw(slots.seed.reshape(-1, augmult, 2), augmentation.crop)

  def boxes(height: ArrayLike, width: ArrayLike, uniform: np.ndarray) -> np.ndarray:
    return inception_crop.boxes(uniform, height, width, augmentation.crop)

  def fetch() -> Fetched:
    return reader.fetch(unique, functools.partial(boxes, uniform=draws.uniform), size)

  by_reader = functools.partial(
    reading.decode_by_reader, reader=reader, make_boxes=boxes, size=size, drawn=['uniform']
  )
  decode = tf.function(functools.partial(reading.decode_jpeg_or, by_reader=by_reader))
  columns = fetch()._asdict() | {'image_index': unique, 'uniform': draws.uniform}
  columns = {key: tf.constant(column) for key, column in columns.items()}
  fetched = [
    {key: column[place] for key, column in columns.items()} for place in range(len(unique))
  ]
  images = [decode(image) for image in fetched]
  resize = tf.function(
    lambda pixels, boxes, flips: resize_boxes(
      pixels, boxes, flips, size=size, antialias=read_options.antialias
    ),
    input_signature=[
      tf.TensorSpec([None, None, 3], tf.uint8),
      tf.TensorSpec([augmult, 4], tf.int32),
      tf.TensorSpec([augmult], tf.bool),
    ],
  )

  def crop() -> list[tf.Tensor]:
    return [
      resize(image['pixels'], image['boxes'], flip)
      for image, flip in zip(images, draws.flip, strict=True)
    ]

  copies = np.concatenate(crop())
  parts = {
    'reading': _cpu_milliseconds(fetch),
    'decoding': _cpu_milliseconds(lambda: [decode(image) for image in fetched]),
    'crop and resize': _cpu_milliseconds(crop),
  }
  if augmentation.mixing.is_on:
    mix = mixing.mix_slots(numbers, augmentation.mixing, 0, 0, len(copies), height=size, width=size)
    arguments = (copies, copies[mix.partner_slot], mix.kind, mix.weight, mix.box)
    parts['mixing'] = _cpu_milliseconds(_of_each(mix_pair, arguments))
  if augmentation.randaugment.layers:
    arguments = (copies, *randaugment.draw(slots.seed, augmentation.randaugment))
    parts['RandAugment'] = _cpu_milliseconds(
      _of_each(lambda *one: apply_layers(*one, augmentation.randaugment), arguments)
    )
  pieces = list(map(tf.constant, copies))
  parts['batching'] = _cpu_milliseconds(lambda: tf.stack(pieces))
  return {name: total / len(copies) for name, total in parts.items()}


def _of_each(
  function: Callable[..., tf.Tensor], arguments: Sequence[np.ndarray]
) -> Callable[[], list[tf.Tensor]]:
  """Returns a call of the compiled `function` with each entry of the arguments."""
  compiled = tf.function(
    function, input_signature=[tf.TensorSpec(a.shape[1:], a.dtype) for a in arguments]
  )
  rows = [tuple(map(tf.constant, row)) for row in zip(*arguments, strict=True)]
  return lambda: [compiled(*row) for row in rows]


def _cpu_milliseconds(work: Callable[[], object]) -> float:
  """The least CPU time of some repetitions, after one to warm up."""
  work()
  times = []
  for _ in range(_ROUNDS):
    start = time.process_time()
    work()
    times.append(time.process_time() - start)
  return 1e3 * min(times)


def peak_memory_mib() -> float:
  """Returns the greatest resident memory of this process so far, in MiB."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
