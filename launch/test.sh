#!/usr/bin/env bash
# Lint, format and tests, in the same environment as the quickstart.
#
# Usage: launch/test.sh          all but the extended tests, in minutes
#        launch/test.sh --all    everything, as continuous integration does
#        launch/test.sh ARGS     arguments of pytest, as in tests/data -k folder
#
# The extended tests are those of pods, buckets and groups of runs, of measurements, and further
# cases of what the others show. The tests run in one process per processor, at most eight; -n0 is
# for one. pytest-xdist would start the files with most tests first; tests/conftest.py starts the
# longest.
set -euo pipefail
extras='test'
. "$(dirname "$0")/environment.sh"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
case "${1:-}" in
  '')
    set -- -m 'not extended'
    echo 'Without the extended tests, which ./launch/test.sh --all has, too'
    ;;
  --all) shift ;;
esac
exec .venv/bin/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder "$@"
