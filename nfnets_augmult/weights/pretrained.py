"""Loading pretrained parameters into a network, with a report of what was loaded."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nfnets_augmult.ops.param_names import is_classifier
from nfnets_augmult.weights import checks
from nfnets_augmult.weights.nfnet_layout import nfnet_name
from nfnets_augmult.weights.param_files import flatten, unflatten


@dataclasses.dataclass(frozen=True)
class Mismatch:
  """How the names and shapes of loaded parameters differ from a network's, in sorted order.

  Attributes:
    missing: names that the network has and the file lacks.
    unexpected: names that the file has and the network lacks.
    misshapen: name, the network's shape, the file's shape.
  """

  missing: tuple[str, ...]
  unexpected: tuple[str, ...]
  misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

  def __bool__(self) -> bool:
    return bool(self.missing or self.unexpected or self.misshapen)

  def __str__(self) -> str:
    """Lists the first few differences of each kind and counts the rest, on up to three lines."""
    lines = [
      f'{kind} in the file: {_few([checks.shorten(name) for name in names])}'
      for kind, names in (('missing', self.missing), ('unexpected', self.unexpected))
      if names
    ]
    if self.misshapen:
      rows = [
        f'{checks.shorten(name)} is {found} in the file, in the network {wanted}'
        for name, wanted, found in self.misshapen
      ]
      lines.append(f'wrong shape: {_few(rows, separator="; ")}')
    return '\n'.join(lines) or 'all names and shapes agree'


def _few(texts: Sequence[str], separator: str = ', ') -> str:
  """Returns the first three texts and the number of others."""
  rest = f' and {len(texts) - 3:,} more' if len(texts) > 3 else ''
  return separator.join(texts[:3]) + rest


@dataclasses.dataclass(frozen=True)
class LoadReport:
  """What `load_pretrained` loaded, and the names of the parameters that it did not replace."""

  loaded_arrays: int
  loaded_parameters: int
  kept_fresh: tuple[str, ...]

  def __str__(self) -> str:
    kept = f'; kept fresh: {", ".join(self.kept_fresh)}' if self.kept_fresh else ''
    return f'loaded {self.loaded_parameters:,} parameters in {self.loaded_arrays} arrays{kept}'


def compare(params: Mapping[str, Any], loaded: Mapping[str, Any]) -> Mismatch:
  """Returns how the dict of dicts `loaded` differs from the network's `params`."""
  ours, theirs = flatten(params), flatten(loaded)
  shapes = [
    (name, tuple(ours[name].shape), tuple(theirs[name].shape))
    for name in ours.keys() & theirs.keys()
  ]
  return Mismatch(
    missing=tuple(sorted(ours.keys() - theirs.keys())),
    unexpected=tuple(sorted(theirs.keys() - ours.keys())),
    misshapen=tuple(sorted(row for row in shapes if row[1] != row[2])),
  )


def load_pretrained(
  params: Mapping[str, Any], loaded: Mapping[str, Any], *, fresh_classifier: bool = False
) -> tuple[dict[str, dict[str, Any]], LoadReport]:
  """Returns `params` with the values of `loaded`, and a report to print.

  A classifier for another number of classes is not loaded: weight and bias stay those of `params`.
  Loaded values are cast to the dtypes of `params`.

  Args:
    params: the network's freshly made parameters.
    loaded: as `read_params` gives them.
    fresh_classifier: whether to keep the classifier of `params` even if the number of classes is
      equal, because the classes differ.

  Raises:
    ValueError: names or shapes differ otherwise, or a value is not finite in the network's dtype.

  Example:
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from nfnets_augmult import load_pretrained
    >>> params = {'net/conv': {'w': jnp.zeros((2, 2))}, 'net/linear': {'w': jnp.zeros((2, 5))}}
    >>> loaded = {'net/conv': {'w': np.ones((2, 2))}, 'net/linear': {'w': np.ones((2, 7))}}
    >>> params, report = load_pretrained(params, loaded)
    >>> print(report)
    loaded 4 parameters in 1 arrays; kept fresh: net/linear/w
    >>> params['net/conv']['w'].tolist()
    [[1.0, 1.0], [1.0, 1.0]]
  """
  other_classes = {
    name.rpartition('/')[0]
    for name, wanted, found in compare(params, loaded).misshapen
    # The inputs must agree: another width is another network, not another set of classes.
    if is_classifier(name.rpartition('/')[0]) and wanted[:-1] == found[:-1]
  }
  if fresh_classifier:
    other_classes |= {module for module in params if is_classifier(module)}

  def without(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {module: values for module, values in tree.items() if module not in other_classes}

  ours, theirs = flatten(params), flatten(without(loaded))
  if mismatch := compare(without(params), without(loaded)):
    name = nfnet_name(loaded)
    raise ValueError(
      f'the loaded parameters{f", of {name}," if name else ""} do not fit the network, '
      f'which has {len(ours):,}:\n{mismatch}'
    )
  merged = {
    name: _as_type(name, theirs[name], leaf.dtype) if name in theirs else leaf
    for name, leaf in ours.items()
  }
  report = LoadReport(
    loaded_arrays=len(theirs),
    loaded_parameters=sum(leaf.size for leaf in theirs.values()),
    kept_fresh=tuple(sorted(merged.keys() - theirs.keys())),
  )
  return unflatten(merged), report


def _as_type(name: str, value: Any, dtype: Any) -> jax.Array:
  """Returns a loaded array in the network's dtype, in which its values must be finite."""
  with np.errstate(over='ignore'):
    array = np.asarray(value).astype(dtype)
  if bad := int(array.size - np.isfinite(array).sum()):
    raise ValueError(
      f'{checks.show(name)}: {bad:,} of {array.size:,} values are nan or infinite as {array.dtype}'
    )
  return jnp.asarray(array)
