"""Reference numbers of the published implementation, kept beside the checkout.

They lie in `shared/golden` next to the repository; its README says how they were made. Tests that
need them are skipped where they are absent.
"""

import json
import pathlib
import zlib

import numpy as np
import pytest

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / 'shared' / 'golden'


def golden_path(name):
  """Returns the path of a reference file, or skips the calling test."""
  path = GOLDEN / name
  if not path.exists():
    pytest.skip('needs reference numbers of the published code in ../shared/golden')
  return path


def load_json(name):
  """Returns a reference file of JSON."""
  return json.loads(golden_path(name).read_text(encoding='utf-8'))


def load_arrays(name):
  """Returns a reference `.npz` as a dict of arrays."""
  with np.load(golden_path(name)) as arrays:
    return dict(arrays)


def deterministic_params(shapes):
  """Returns parameters `{module: {param: array}}` that depend on name and shape only.

  Args:
    shapes: `{'module/param': shape}`.
  """
  scales = {'b': (0.1, 0.0), 'bias': (0.1, 0.0), 'gain': (0.1, 1.0), 'skip_gain': (0.1, 0.5)}
  params = {}
  for full_name, shape in shapes.items():
    module, _, name = full_name.rpartition('/')
    if name == 'w':
      scale, offset = (1.0 if len(shape) == 4 else 1 / np.sqrt(shape[0])), 0.0
    else:
      scale, offset = scales[name]
    rng = np.random.default_rng(zlib.crc32(full_name.encode()))
    draw = rng.standard_normal(shape)
    value = np.asarray(draw, np.float32) * np.float32(scale) + np.float32(offset)
    params.setdefault(module, {})[name] = value
  return params
