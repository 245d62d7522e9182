#!/usr/bin/env bash
# Lint, format and the whole test suite, in the same environment as the quickstart.
# Arguments go to pytest. The tests run in one process per processor, at most eight; -n0 is for one.
# pytest-xdist would start the files with most tests first; tests/conftest.py starts the longest.
set -euo pipefail
extras='test'
. "$(dirname "$0")/environment.sh"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
exec .venv/bin/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder "$@"
