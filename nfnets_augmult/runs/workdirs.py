"""The work directory of a run: the run that it holds, and its result."""

import os
from typing import Any

import ml_collections

from nfnets_augmult import configs
from nfnets_augmult.ops import files
from nfnets_augmult.training import records


def read_config(workdir: str) -> ml_collections.ConfigDict | None:
  """Returns the config of the run in `workdir`; None if there is no run.

  Raises:
    ValueError: its `config.json` is damaged, of another version, or of several runs.
  """
  path = os.path.join(workdir, 'config.json')
  flat = records.read_object(path)
  if flat is None:
    return None
  if any(flat.get(key) for key in configs.RETIRED):
    raise ValueError(
      f'workdir={workdir!r} is of runs that trained together: give the folder of one of them'
    )
  try:
    config = configs.from_flat(flat)
    configs.check_keys(config)
  except ValueError as error:
    raise ValueError(
      f'{path} cannot be used: {error}. Is it damaged, or of another version of this package?'
    ) from error
  return config


def check_workdir(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Raises ValueError if `workdir`, unless it is '', holds a run with another config."""
  if not workdir:
    return
  if files.is_url(workdir) and not workdir.startswith('gs://'):
    raise ValueError(
      f'workdir={workdir!r}: of object storage, gs:// alone can be written; others must be mounted'
    )
  if files.exists(workdir) and not files.is_dir(workdir):
    raise ValueError(f'workdir={workdir!r} is a file, not a directory')
  recorded = records.read_object(os.path.join(workdir, 'config.json'))
  if recorded is None:
    return
  if differ := configs.differences(configs.flatten(config), recorded):
    raise ValueError(
      f'workdir={workdir!r} holds a run with another config; it differs in {", ".join(differ)}. '
      'Choose another --workdir, or the config of that run'
    )


def finished_result(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any] | None:
  """Returns the result of the run in `workdir` if it is finished, else None.

  Raises:
    ValueError: `workdir` holds a run with another config, or a damaged record.
  """
  check_workdir(config, workdir)
  path = os.path.join(workdir, 'result.json')
  result = records.read_object(path)
  if result is not None and not _is_result(result):
    raise records.DamagedError(f'{path} is damaged: it holds no evaluation; remove it')
  return result


def _is_result(values: dict[str, Any]) -> bool:
  """Whether `values` have all that `summary.result_text` prints."""
  parameters = ('raw', 'ema')
  names = ['step', 'epoch', *(f'test/{p}/{key}' for p in parameters for key in ('top_1', 'top_5'))]
  return (
    all(isinstance(values.get(name), int | float) for name in names)
    # null stands for a value that is not finite, as when a logit overflows.
    and all(f'test/{p}/cross_entropy' in values for p in parameters)
  )
