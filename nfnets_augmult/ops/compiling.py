"""How XLA compiles the programs of this package.

XLA for CPU has two libraries for convolutions. By default it takes YNNPACK, which keeps those of
64 or fewer output channels on one core. Here it takes Eigen, which is as fast on one core and uses
all of them; products of matrices and sums stay with YNNPACK. docs/step_speed.md has measurements.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax

# What remains with YNNPACK: XLA's default without convolutions.
_NAME = 'xla_cpu_experimental_ynn_fusion_type'
_OPTIONS = {_NAME: 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE'}


def jit(function: Callable[..., Any], **arguments: Any) -> Any:
  """Returns `jax.jit` of `function`, compiled with `compiler_options`.

  Not to be called within another jitted function: JAX refuses options there.

  Args:
    function: to compile.
    **arguments: of `jax.jit`, as `donate_argnums`.
  """
  return jax.jit(function, compiler_options=compiler_options(), **arguments)


def compiler_options() -> dict[str, str] | None:
  """Returns what JAX's default backend compiles with, None for XLA's defaults.

  Who sets the option in the variable `XLA_FLAGS` has it as it is there.
  """
  if jax.default_backend() != 'cpu' or f'--{_NAME}=' in os.environ.get('XLA_FLAGS', ''):
    return None
  return _cpu_options()


@functools.cache
def _cpu_options() -> dict[str, str] | None:
  """Returns the options, None where XLA does not know them and has no YNNPACK either."""
  try:
    jax.jit(lambda x: x, compiler_options=_OPTIONS).lower(0.0).compile()
  except jax.errors.JaxRuntimeError:
    return None
  return dict(_OPTIONS)
