#!/usr/bin/env bash
# Measures this machine's accelerator, for about MINUTES (default 9); needs no data.
#
# Usage: launch/measure_accelerator.sh [MINUTES] [--output=FOLDER] [flags of benchmarks/accelerator.py]
#
# PYTHON is the interpreter that has JAX for the accelerator and what this package imports; without
# it, .venv, which is made if need be, with the extras in `extras`: extras=cuda for NVIDIA GPUs.
set -euo pipefail

minutes=9
if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
  minutes="$1"
  shift
fi
cd "$(dirname "$0")/.."
if [ -n "${PYTHON:-}" ]; then
  python="$PYTHON"
else
  extras="${extras:-}"
  . launch/environment.sh
  python=.venv/bin/python
fi
exec "$python" -u -m benchmarks.accelerator --minutes="$minutes" "$@"
