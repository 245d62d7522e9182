"""Checkpoints of a run, written asynchronously and atomically by Orbax."""

import asyncio
import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from nfnets_augmult.ops import files
from nfnets_augmult.ops.checks import check_int
from nfnets_augmult.training import fit, hosts, records
from nfnets_augmult.training.state import TrainState

_FOLDERS = ('checkpoints', 'best')
_ITEM = 'default'  # the name by which Orbax saves what has no name
_METRIC = 'metric'
_CLASS_NAMES = 'class_names'
_PATTERN_CHARACTERS = '*?[]\\'
_SYSTEM_ERRORS = tuple(
  os.strerror(number)
  for number in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO)
)


def has_checkpoint(workdir: str) -> bool:
  """Returns whether `workdir` has a checkpoint to resume from.

  Raises:
    CheckpointError: the folder of the checkpoints cannot be read.
  """
  if not files.is_dir(os.path.join(workdir, 'checkpoints')):
    return False
  with Checkpoints(workdir, read_only=True) as checkpoints:
    return checkpoints.latest_step is not None


def _committed_after(check: Callable[[], None]) -> type[ocp.path.atomicity.CommitFileTemporaryPath]:
  """Returns what writes a checkpoint to a bucket, and calls `check` before it is complete."""

  class CheckedPath(ocp.path.atomicity.CommitFileTemporaryPath):
    async def finalize(self) -> None:
      await asyncio.to_thread(check)
      await super().finalize()

  return CheckedPath


def _plain_path_to(workdir: epath.Path) -> tempfile.TemporaryDirectory | None:
  """Returns a temporary folder with a link `workdir`, if the path has glob characters; else None.

  Orbax puts the path into glob patterns without escaping it: with brackets in it no file is found,
  with a star files of other folders may be.
  """
  if not set(_PATTERN_CHARACTERS) & set(os.fspath(workdir)):
    return None
  if files.is_url(workdir):
    raise CheckpointError(
      f'the work directory {workdir} may not have one of {" ".join(_PATTERN_CHARACTERS)} in its '
      'name: choose another --workdir'
    )
  folder = tempfile.TemporaryDirectory(prefix='nfnets_augmult_')
  if set(_PATTERN_CHARACTERS) & set(os.path.realpath(folder.name)):
    folder.cleanup()
    raise CheckpointError(
      f'neither the work directory {workdir} nor the folder of temporary files may have one of '
      f'{" ".join(_PATTERN_CHARACTERS)} in its path: choose another --workdir or TMPDIR'
    )
  os.symlink(workdir, os.path.join(folder.name, 'workdir'))
  return folder


class _Unchanging(np.ndarray):
  """An array that Orbax need not copy before it writes it in the background."""

  def __deepcopy__(self, unused: dict[int, Any]) -> '_Unchanging':
    return self


def _arrays(state: TrainState) -> dict[str, Any]:
  return jax.tree.map(lambda leaf: np.asarray(leaf).view(_Unchanging), state._asdict())


def _read(manager: ocp.CheckpointManager, step: int, template: Any = None) -> dict[str, Any]:
  """Returns the arrays of a checkpoint, in the structure of the template or of dicts and lists."""
  folder = manager.directory / str(step) / _ITEM
  return ocp.StandardCheckpointHandler().restore(folder, args=ocp.args.StandardRestore(template))


class CheckpointError(RuntimeError):
  """A checkpoint could not be written or read; the message lists the remaining ones."""


class Checkpoints:
  """The last few states of a run in `WORKDIR/checkpoints`, and the best one in `WORKDIR/best`.

  A checkpoint is written to a temporary folder and renamed when it is complete, so the folders of
  steps are complete even if the run is killed; in a bucket an object is written last that makes it
  one. A context manager, which waits for the last write.

  Of several hosts the first alone uses the folders. All must open them and call the same methods,
  in the same order, and all raise HostError with the message of what fails on the first. With
  `read_only` a host is by itself.
  """

  def __init__(
    self,
    workdir: str,
    *,
    keep: int = 2,
    read_only: bool = False,
    class_names: Sequence[str] = (),
    claim: records.Claim | None = None,
  ):
    """Opens or creates the folders.

    Args:
      workdir: of the run.
      keep: how many of the latest checkpoints stay, at least 1.
      read_only: change nothing, to read the checkpoints of a run that may be training.
      class_names: of the outputs of the network; stored with every checkpoint.
      claim: on a `workdir` in a bucket, made before this is opened; None on hosts but the first.

    Raises:
      ValueError: `keep` is no whole number of at least 1.
      CheckpointError: the folders cannot be created.
    """
    check_int('keep', keep, least=1)
    self._is_remote, self._claim = files.is_url(workdir), claim
    if self._is_remote:  # resolving makes a local path of it
      files.configure()
    self._workdir = epath.Path(workdir) if self._is_remote else epath.Path(workdir).resolve()
    self._metadata = {_CLASS_NAMES: list(class_names)} if class_names else None
    self._alias = None
    self._is_shared = not read_only and jax.process_count() > 1
    self._has_folders = not self._is_shared or jax.process_index() == 0
    with self._together('open'):
      if self._has_folders:
        self._alias = _plain_path_to(self._workdir)
        self._open(keep, read_only=read_only)
    self._steps = set(self._on_first_host(lambda: list(map(int, self._latest.all_steps()))))

  def _open(self, keep: int, *, read_only: bool) -> None:
    if not read_only:  # Orbax does not create the target of a link, or what it is to use alone
      for name in _FOLDERS:
        files.make_dirs(os.fspath(self._workdir / name))
    host, claim = jax.process_index(), self._claim
    self._latest, self._best = (
      ocp.CheckpointManager(
        epath.Path(self._alias.name) / 'workdir' / name if self._alias else self._workdir / name,
        options=ocp.CheckpointManagerOptions(
          max_to_keep=None if read_only else count,
          read_only=read_only,
          create=False,
          cleanup_tmp_directories=not read_only,
          enable_async_checkpointing=not read_only,
          # Created asynchronously, a folder that fails leaves threads waiting for it.
          async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
          # It would wait for the other hosts.
          multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=host, active_processes={host}
          ),
          best_fn=best_fn,
          temporary_path_class=_committed_after(claim.check) if self._is_remote and claim else None,
        ),
      )
      for name, count, best_fn in (
        (_FOLDERS[0], keep, None),
        (_FOLDERS[1], 1, lambda metrics: metrics[_METRIC]),
      )
    )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, error_type: type | None, *unused: object) -> None:
    # After an error the last write is still waited for, but only that error is raised.
    try:
      if error_type is None:
        self.wait()
      elif self._has_folders:
        with contextlib.suppress(Exception):
          self._wait()
    finally:
      for manager in (self._latest, self._best) if self._has_folders else ():
        with contextlib.suppress(Exception):  # closing raises again what waiting has raised
          manager.close()
      if self._alias:
        self._alias.cleanup()

  @property
  def latest_step(self) -> int | None:
    """Step of the newest whole checkpoint, or None."""
    return max(self._steps, default=None)

  @property
  def best_step(self) -> int | None:
    """Step of the best checkpoint, or None; for the host that has the folders."""
    return self._best.latest_step()

  def best_metric(self) -> float:
    """Returns the metric of the best checkpoint, minus infinity if there is none.

    For the host that has the folders.
    """
    if self.best_step is None:
      return -np.inf
    return float(self._best.metrics(self.best_step)[_METRIC])

  def has(self, step: int) -> bool:
    """Whether the state after `step` updates is there, or being written."""
    return step in self._steps

  def save(self, state: TrainState) -> None:
    """Starts to write a state of NumPy arrays; does nothing if its step is there already.

    They must not be changed later. Of several hosts the first writes its own; of those of the
    others only the step is looked at.

    The first checkpoint of a run is waited for and read back, so that a broken disk or file system
    is noticed before the checkpoint is needed.

    Raises:
      CheckpointError: this or the previous write failed, or the first one cannot be read.
      TakenOverError: another process was started in the work directory since.
    """
    step = int(state.step)
    if self.has(step):
      return
    with self._together('write'):
      if self._has_folders:
        self._write(self._latest, state)
        if not self._steps:
          self._verify(state)
    self._steps.add(step)

  def _write(self, manager: ocp.CheckpointManager, state: TrainState, **options: Any) -> None:
    if self._claim:
      self._claim.check()
    manager.save(
      int(state.step),
      args=ocp.args.StandardSave(_arrays(state)),
      custom_metadata=self._metadata,
      force=True,
      **options,
    )

  def _verify(self, state: TrainState) -> None:
    """Raises CheckpointError unless the newest checkpoint is `state`, bit for bit."""
    self._wait()
    if not self._reads_as(state):
      raise CheckpointError(
        f'the first checkpoint in {self._workdir} does not read as it was written: is the disk, '
        'or the file system, damaged?'
      )

  def _reads_as(self, state: TrainState) -> bool:
    """Whether the newest checkpoint is `state`."""
    template = jax.tree.map(np.asarray, state._asdict())
    with self._explain('read'):
      written = _read(self._latest, int(state.step), template)
    is_equal = jax.tree.map(
      lambda ours, theirs: ours.tobytes() == np.asarray(theirs).tobytes(), template, written
    )
    return all(jax.tree.leaves(is_equal))

  def save_if_best(self, make_state: Callable[[], TrainState], metric: float) -> bool:
    """Writes the state to `best` if `metric` is the highest so far, and returns whether it is.

    Args:
      make_state: returns the state, see `save`; called if it is written.
      metric: of the state.
    """
    self.wait()  # so that `best` is never ahead of `checkpoints`
    if not self._on_first_host(lambda: bool(metric > self.best_metric())):
      return False
    state = make_state()
    with self._together('write'):
      if self._has_folders:
        self._write(self._best, state, metrics={_METRIC: float(metric)})
    return True

  def wait(self) -> None:
    """Waits for all writes.

    Raises:
      CheckpointError: a write failed.
    """
    with self._together('write'):
      if self._has_folders:
        self._wait()

  def _wait(self) -> None:
    for manager in (self._latest, self._best):
      manager.wait_until_finished()

  def restore(self, template: TrainState, *, which: str | int = 'latest') -> TrainState:
    """Returns a saved state, as NumPy arrays. The first of several hosts reads it for all.

    Args:
      template: a state of the same structure, shapes and dtypes.
      which: `'latest'`, `'best'`, or the number of a step.

    Raises:
      CheckpointError: there is no such checkpoint, or it does not fit `template`.
    """
    make = lambda: jax.tree.leaves(self._restore(template, which))  # noqa: E731
    leaves = hosts.arrays_from_first_host(make) if self._is_shared else make()
    return jax.tree.unflatten(jax.tree.structure(template), leaves)

  def _restore(self, template: TrainState, which: str | int) -> TrainState:
    manager = self._best if which == 'best' else self._latest
    is_number = str(which).isdigit()
    step = (
      int(which) if is_number else manager.latest_step() if which in ('latest', 'best') else None
    )
    if step is None or step not in manager.all_steps():
      have = ', '.join(map(str, self._latest.all_steps())) or 'none'
      raise CheckpointError(
        f"no checkpoint {which!r} in {self._workdir}; say 'latest', 'best' or a step, of which it "
        f'has {have}'
      )
    try:
      with self._explain('read'):
        restored = _read(manager, step, template._asdict())
    except CheckpointError:
      self._check_fits(manager, step, template)
      raise
    state = type(template)(**restored)
    # Orbax does not compare shapes with the template.
    if [leaf.shape for leaf in jax.tree.leaves(state)] != [
      leaf.shape for leaf in jax.tree.leaves(template)
    ]:
      self._check_fits(manager, step, template)
      raise CheckpointError(f'the checkpoint of step {step} in {self._workdir} is of another run')
    return state

  def _check_fits(self, manager: ocp.CheckpointManager, step: int, template: Any) -> None:
    """Raises CheckpointError if the parameters are not those of `template`, saying how."""
    difference = ''
    with contextlib.suppress(Exception):  # the caller raises another error
      restored = _read(manager, step)
      params = restored.get('runs', restored)['params']
      difference = fit.difference(getattr(template, 'runs', template).params, params)
    if difference:
      raise CheckpointError(
        f'the checkpoint of step {step} in {self._workdir} does not fit: {difference}'
      )

  def read_class_names(self) -> tuple[str, ...]:
    """Returns the class names stored with the newest checkpoint; () if there are none."""
    if self.latest_step is None:
      return ()
    with self._explain('read'):
      metadata = self._latest.metadata(self.latest_step).custom_metadata or {}
    return tuple(metadata.get(_CLASS_NAMES, ()))

  def read_averaged_params(self) -> Any:
    """Returns the averaged parameters of the newest checkpoint, of any model.

    Raises:
      CheckpointError: there is no checkpoint, or it cannot be read.
    """
    if self.latest_step is None:
      raise CheckpointError(f'there is no checkpoint in {self._workdir}')
    with self._explain('read'):
      restored = _read(self._latest, self.latest_step)
    if 'ema_params' not in restored:
      raise CheckpointError(
        f'{self._workdir} is of runs that trained together: give the folder of one of them'
      )
    return restored['ema_params']

  def _on_first_host(self, make: Callable[[], Any]) -> Any:
    return hosts.from_first_host(make) if self._is_shared else make()

  @contextlib.contextmanager
  def _together(self, action: str) -> Iterator[None]:
    """Explains an error, and raises it on all hosts."""
    with hosts.failing_together() if self._is_shared else contextlib.nullcontext():  # noqa: SIM117
      with self._explain(action):
        yield

  @contextlib.contextmanager
  def _explain(self, action: str) -> Iterator[None]:
    try:
      yield
    except (records.TakenOverError, CheckpointError):
      raise
    except Exception as error:
      steps = []
      with contextlib.suppress(Exception):
        steps = sorted(ocp.utils.checkpoint_steps(self._workdir / 'checkpoints'))
      left = f'still has those of steps {", ".join(map(str, steps))}' if steps else 'has none yet'
      reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
      # Storage libraries wrap the error of the operating system in long messages.
      reason = next((text for text in _SYSTEM_ERRORS if text in str(error)), reason)
      advice = {
        'read': 'Was it written by another version or for another model? If it is damaged, remove '
        f'the newest folder in {self._workdir / "checkpoints"}; the one before is taken then',
        'open': 'Is there room, may it be written, and are all files in its checkpoints and best '
        'whole? A damaged folder of a step may be removed',
      }.get(action, 'Make room or permit writing, and run the same command again')
      raise CheckpointError(
        f'cannot {action} a checkpoint in {self._workdir}: {reason}. The run {left}. {advice}'
      ) from error
