#!/usr/bin/env bash
# From nothing but Python to a trained network: makes .venv, installs, trains on handwritten digits.
set -euo pipefail
extras=''
. "$(dirname "$0")/environment.sh"
exec .venv/bin/python -m nfnets_augmult.train --config=experiments/quickstart_digits.py "$@"
