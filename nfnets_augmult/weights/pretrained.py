"""Loading pretrained parameters into a network, with a report of what was loaded."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nfnets_augmult.ops.param_names import is_classifier
from nfnets_augmult.weights import checks
from nfnets_augmult.weights.checks import flatten, unflatten
from nfnets_augmult.weights.mismatch import Mismatch, compare_shapes
from nfnets_augmult.weights.network_layout import network_name


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
  ours, theirs = (
    {name: tuple(leaf.shape) for name, leaf in flatten(tree).items()} for tree in (params, loaded)
  )
  return compare_shapes(ours, theirs)


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
    name = network_name(loaded)
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
