"""Putting loaded parameters into a network, with an account of what went where."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from nfnets_augmult.ops.param_names import is_classifier
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
    lines = [f'missing in the file: {name}' for name in self.missing]
    lines += [f'unexpected in the file: {name}' for name in self.unexpected]
    lines += [
      f'wrong shape: {name} is {found} in the file, the network has {wanted}'
      for name, wanted, found in self.misshapen
    ]
    return '\n'.join(lines) or 'all names and shapes agree'


@dataclasses.dataclass(frozen=True)
class LoadReport:
  """What `load_pretrained` did: how many arrays and numbers it loaded, and which it kept."""

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
  params: Mapping[str, Any], loaded: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], LoadReport]:
  """Returns `params` with the values of `loaded`, and a report to print.

  A classifier for another number of classes is not loaded: weight and bias stay those of `params`.
  Loaded values take the dtype that `params` have.

  Args:
    params: the network's freshly made parameters.
    loaded: as `read_params` gives them.

  Raises:
    ValueError: any other difference; the message lists the missing, unexpected and wrongly shaped
      names.
  """
  other_classes = {
    name.rpartition('/')[0]
    for name, wanted, found in compare(params, loaded).misshapen
    # The inputs must agree: another width is another network, not another set of classes.
    if is_classifier(name.rpartition('/')[0]) and wanted[:-1] == found[:-1]
  }

  def without(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {module: values for module, values in tree.items() if module not in other_classes}

  if mismatch := compare(without(params), without(loaded)):
    raise ValueError(f'the loaded parameters do not fit the network:\n{mismatch}')
  theirs = flatten(without(loaded))
  merged = {
    name: jnp.asarray(theirs[name], leaf.dtype) if name in theirs else leaf
    for name, leaf in flatten(params).items()
  }
  report = LoadReport(
    loaded_arrays=len(theirs),
    loaded_parameters=sum(leaf.size for leaf in theirs.values()),
    kept_fresh=tuple(sorted(merged.keys() - theirs.keys())),
  )
  return unflatten(merged), report
