"""Evaluation of what a result depends on, and nothing else."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def evaluate(function: Callable[..., Any], *args: Any) -> Any:
  """Returns `function(*args)`, without the operations that its result does not depend on.

  One operation after another is compiled and run, as in a call that is not jitted, so the result is
  the same bit for bit. To initialize a network, whose parameters do not depend on its activations,
  it takes a fraction of the time.

  Args:
    function: pure, of trees of arrays.
    *args: its arguments.

  Example:
    >>> import jax.numpy as jnp
    >>> from nfnets_augmult.ops import dead_code
    >>> float(dead_code.evaluate(lambda x: (jnp.linalg.inv(x), x.sum())[1], jnp.eye(2)))
    2.0
  """
  closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
  needed = {var for var in closed.jaxpr.outvars if not isinstance(var, core.Literal)}
  kept = []
  for equation in reversed(closed.jaxpr.eqns):
    if equation.effects or not needed.isdisjoint(equation.outvars):
      kept.append(equation)
      needed |= {var for var in equation.invars if not isinstance(var, core.Literal)}
  jaxpr = closed.jaxpr.replace(eqns=kept[::-1])
  results = core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, closed.consts))(*jax.tree.leaves(args))
  return jax.tree.unflatten(jax.tree.structure(shapes), results)
