#!/usr/bin/env bash
# Executes the notebooks and writes them beside their sources; see notebooks/building.py.
# Arguments: parts of names, for some of them only; --output=DIR to write elsewhere.
set -euo pipefail
extras='notebooks'
. "$(dirname "$0")/environment.sh"
exec .venv/bin/python -m notebooks.building "$@"
