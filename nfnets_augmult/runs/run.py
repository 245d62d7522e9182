"""A run: its config, and its parts."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
from absl import logging

from nfnets_augmult.data import quiet_tensorflow, sources
from nfnets_augmult.ops import paths
from nfnets_augmult.ops.argument_names import renamed
from nfnets_augmult.optim.schedules import Schedule
from nfnets_augmult.runs import batches, images, network, settings, workdirs
from nfnets_augmult.runs.batches import Batches
from nfnets_augmult.runs.images import Data
from nfnets_augmult.runs.network import InitialParams, Network
from nfnets_augmult.training import devices, hosts, memory, records
from nfnets_augmult.training.checkpoints import Checkpoints, has_checkpoint
from nfnets_augmult.training.feeding import Advance, TrainStep
from nfnets_augmult.training.plan import Plan
from nfnets_augmult.training.state import TrainState


class Run:
  """A run and its parts, each made on first use.

  Attributes:
    config: as given.
    workdir: of the run; '' if nothing is written.
    settings: the config as plain values.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    workdir: str = '',
    *,
    data: Data | None = None,
    alike: 'Run | None' = None,
  ):
    """Reads the config; loads and writes nothing.

    Args:
      config: of one run.
      workdir: of the run; '' to write nothing.
      data: the images, if they are loaded already.
      alike: a run whose config differs in the seed alone; this one takes over its images, its
        network and its compiled programs.

    Raises:
      ValueError: the message names the key, what is wrong, and what to do.
    """
    self.config = config
    self.workdir = workdir
    self.settings = settings.read(config)
    self._alike = alike
    if data is not None:
      self.data = data

  @classmethod
  def open(
    cls,
    workdir: str,
    *,
    config: ml_collections.ConfigDict | None = None,
    data_dir: str = '',
    evaluation_batch_size: int = 0,
  ) -> 'Run':
    """Returns the run in a work directory, finished or still training, to read its results.

    Args:
      workdir: of the run.
      config: overrides that of the run.
      data_dir: overrides that of the config, if the data were moved.
      evaluation_batch_size: overrides that of the config.

    Raises:
      ValueError: there is no run, or its records cannot be read.
    """
    config = config or workdirs.read_config(workdir)
    if config is None:
      raise ValueError(f'workdir={workdir!r} holds no run: there is no config.json')
    changes = {'dataset.data_dir': data_dir, 'evaluation.batch_size': evaluation_batch_size}
    config.update_from_flattened_dict({key: value for key, value in changes.items() if value})
    return cls(config, workdir)

  @functools.cached_property
  def data(self) -> Data:
    """The images; raises ValueError, see `images.load_data`."""
    if self._alike:
      return self._alike.data
    self._prepare_to_load()
    return images.load_data(self.settings.dataset)

  def load_split(self, split: str) -> sources.Source:
    """Returns a split of the data set; raises ValueError, see `loading.load_source`."""
    self._prepare_to_load()
    source = images.load_split(self.settings.dataset, split)
    images.log_notes(source)
    return source

  def _prepare_to_load(self) -> None:
    if self.settings.needs_tensorflow:
      quiet_tensorflow.import_quietly()

  @functools.cached_property
  def plan(self) -> Plan:
    """The arithmetic of the run on all devices of all hosts."""
    return self.settings.make_plan(
      self.data.train.num_images,
      host_count=jax.process_count(),
      device_count=jax.device_count(),
      labels=images.balanced_labels(self.data.train, self.settings.dataset.balance),
    )

  @functools.cached_property
  def network(self) -> Network:
    """Model and optimiser; raises ValueError if the model does not take the images."""
    if self._alike:
      return self._alike.network
    network.check_groups(self.settings, len(self.data.train.class_names))
    result = network.make_network(self.settings, self.data)
    network.check_images_fit(result, self.data.image_shape, model_name=self.settings.model_name)
    return result

  @functools.cached_property
  def initial_params(self) -> InitialParams | None:
    """The parameters of `init_from`; None without it, or if the run resumes."""
    return network.read_initial_params(
      self.settings.init_from,
      self.network,
      self.data.train.class_names,
      freeze=self.settings.freeze,
    )

  @functools.cached_property
  def recorded_data(self) -> dict[str, Any] | None:
    """The description of the data in the work directory, see `images.describe_data`; or None."""
    return records.read_data_description(self.workdir) if self.workdir else None

  @property
  def key(self) -> jax.Array:
    """PRNG key of the training steps."""
    return network.steps_key(self.settings.seed)

  @property
  def parameters_key(self) -> jax.Array:
    """PRNG key of the initial parameters."""
    return network.parameters_key(self.settings.seed)

  def prepare(self, *, checkpoint_dir: str = '') -> 'Run':
    """Checks all that can be checked before compiling or writing anything; returns the run.

    The first of several hosts reads the work directory for all. An error on one ends all.

    Args:
      checkpoint_dir: folder of the checkpoints, if not the work directory.

    Raises:
      ValueError: config, data and work directory are inconsistent; the message names the key.
      CheckpointError: the folder of the checkpoints cannot be read.
    """
    resumes, recorded = hosts.from_first_host(lambda: self._read_workdir(checkpoint_dir))
    if resumes:  # from the checkpoint, so `init_from` need not exist
      self.recorded_data, self.initial_params = recorded, None
    with hosts.failing_together():
      self._check(resumes=resumes)
    _ = self.initial_params  # reads and checks them, all hosts together
    return self

  def _read_workdir(self, checkpoint_dir: str) -> tuple[bool, dict[str, Any] | None]:
    """Returns whether the run resumes, and then the recorded description of its data."""
    workdirs.check_workdir(self.config, self.workdir)
    if not self.workdir:
      return False, None
    paths.check_writable('workdir', self.workdir)
    resumes = has_checkpoint(checkpoint_dir or self.workdir)
    return resumes, self.recorded_data if resumes else None

  def _check(self, *, resumes: bool) -> None:
    """Checks what each host has by itself: data, memory and the parts of the run."""
    data = self.data
    if resumes and self.recorded_data:
      images.check_same_data(data, self.recorded_data)
    if self.settings.is_device_input:
      batches.check_device_input(self.settings, data.train, self.plan.multiplicity)
    with renamed(settings.AUGMENTATION_KEYS):
      self.settings.augmentation.check(
        unique_images_per_batch=self.plan.multiplicity.unique_images_per_batch,
        image_shape=data.image_shape,
      )
    self._check_memory()
    self.make_train_step()  # checks the warm-up and the ascent set of SAM

  def _check_memory(self) -> None:
    """Checks that the memory of this host can hold a batch and the parameters."""
    available = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    height, width, channels = self.data.image_shape
    test_size = self.settings.dataset.test_options.image_size
    test_pixels = test_size**2 if test_size else height * width
    batch_size = self.settings.evaluation_batch_size
    needed = {
      f'batch_size={self.plan.multiplicity.batch_size}': (
        self.plan.batch_size_per_host * height * width * channels
      ),
      f'evaluation.batch_size={batch_size}': (
        batch_size // jax.process_count() * test_pixels * channels
      ),
      f'model.name={self.settings.model_name!r}': memory.tree_bytes(self.network.abstract_state),
    }
    for key, size in needed.items():
      if size > available:
        raise ValueError(
          f'{key} takes {size / 2**30:,.0f} GiB on this machine, which has '
          f'{available / 2**30:,.0f} GiB of memory'
        )
    self.check_device_memory()

  def check_device_memory(self, num_runs: int = 1) -> None:
    """Checks that a device can hold what it must of a run at every batch size.

    Args:
      num_runs: how many such runs train in one program.

    Raises:
      ValueError: it cannot.
    """
    limit = devices.memory_limit()
    parts = memory.replicated_bytes(
      self.network.abstract_state, is_sharpness_aware=bool(self.settings.sam.rho)
    )
    needed = num_runs * sum(parts.values())
    if limit is not None and needed > limit:
      runs = f' of {num_runs} runs in one program' if num_runs > 1 else ''
      sizes = ', '.join(f'{name} {num_runs * size / 2**30:.2f}' for name, size in parts.items())
      raise ValueError(
        f'model.name={self.settings.model_name!r}{runs} takes {needed / 2**30:.2f} GiB of every '
        f'device even without activations ({sizes}), and JAX may take {limit / 2**30:.2f} GiB '
        f'of one: use {"fewer runs, " if num_runs > 1 else ""}a smaller model, or devices with '
        'more memory'
      )

  def with_images(self, source: sources.Source, *, map_by_name: bool | None = None) -> 'Run':
    """Returns the run with other images, with classes and normalization as in its training.

    Args:
      source: images to evaluate, in place of both splits, or of the test split if the run has no
        record of its data.
      map_by_name: see `images.match_classes`.

    Raises:
      ValueError: its classes or channels are not those of the run.
    """
    if self.recorded_data is None:
      logging.warning('the names of the classes of this run are not known, and are not compared')
      data = Data(self.data.train, source, self.data.image_shape, self.data.normalization)
    else:
      class_names = self._recorded_class_names()
      source = images.match_classes(source, class_names, map_by_name=map_by_name)
      data = images.data_as_recorded(source, self.recorded_data)
    return Run(self.config, self.workdir, data=data)

  def without_images(self) -> 'Run':
    """Returns the run with classes and normalization as in its training, and no images.

    Raises:
      ValueError: the run has no record of its data.
    """
    if self.recorded_data is None:
      raise ValueError(f'workdir={self.workdir!r} does not record the classes of its run')
    data = images.data_without_images(self._recorded_class_names(), self.recorded_data)
    return Run(self.config, self.workdir, data=data)

  def _recorded_class_names(self) -> Sequence[str]:
    with Checkpoints(self.workdir, read_only=True) as checkpoints:
      return checkpoints.read_class_names() or self.recorded_data['class_names']

  def restore(self, checkpoint: str = 'latest') -> TrainState:
    """Returns the state of a checkpoint: `'latest'`, `'best'`, or the number of a step.

    Raises:
      CheckpointError: there is no such checkpoint, or it is of another network.
    """
    with Checkpoints(self.workdir, read_only=True) as checkpoints:
      return checkpoints.restore(self.network.abstract_state, which=checkpoint)

  def make_train_step(self, schedule: Schedule | None = None) -> TrainStep:
    """Returns the update of one device, see `network.make_train_step`."""
    return network.make_train_step(self.settings, self.network, self.plan, schedule)

  @functools.cached_property
  def restart(self) -> Callable[..., Advance]:
    """Makes `Advance` functions that share one compiled program, see `batches.make_restart`."""
    if self._alike:
      return self._alike.restart
    return batches.make_restart(
      self.settings,
      self.data.train,
      self.plan.multiplicity,
      self.make_train_step(),
      total_steps=self.plan.total_steps,
    )

  def train_batches(self, start_step: int, stop_step: int | None = None, **options: Any) -> Batches:
    """Returns this host's training batches, made on the host.

    Args:
      start_step: first step.
      stop_step: one past the last step; None for that of the run.
      **options: `multiplicity` overrides that of the plan; others see `batches.train_batches`.
    """
    return batches.train_batches(
      self.settings,
      self.data.train,
      options.pop('multiplicity', None) or self.plan.multiplicity,
      start_step=start_step,
      stop_step=self.plan.total_steps if stop_step is None else stop_step,
      **options,
    )

  def evaluation_batches(self, split: str = 'test', num_images: int | None = None) -> Batches:
    """Returns this host's un-augmented batches of a split.

    Args:
      split: `'train'` or `'test'`.
      num_images: how many, from the first on; None for all.
    """
    source = {'train': self.data.train, 'test': self.data.test}[split]
    return batches.evaluation_batches(self.settings, source, num_images)

  def evaluated_splits(self) -> dict[str, Callable[[], Batches]]:
    """Returns functions that make the evaluation batches, by recorded name of the split."""
    splits = {'test': self.evaluation_batches}
    if num_images := self.settings.evaluated_train_images:
      count = None if num_images < 0 else num_images
      splits['train_raw'] = functools.partial(self.evaluation_batches, 'train', count)
    return splits
